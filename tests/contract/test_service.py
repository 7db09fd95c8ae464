"""The prediction service: real processes on free ports, over a real feature store."""

import ast
import asyncio
import inspect
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from service_plant import (
    FRESH,
    MACHINES,
    OLD,
    TELEMETRY,
    Plant,
    Server,
    expected,
    new_plant,
    server_is_up,
    serving,
    sign,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from millwright import feast_store, release
from millwright.__main__ import main
from millwright.encoder import Encoder
from millwright.models import Classifier
from millwright.release import MODEL
from millwright.services import schemas
from millwright.serving import app as endpoints
from millwright.serving import bodies, openapi
from millwright.serving.app import Service
from millwright.serving.current import CurrentRelease
from millwright.serving.features import FeatureReader
from millwright.serving.metrics import Metrics
from millwright.serving.workers import Workers
from millwright.settings import State

pytestmark = pytest.mark.filterwarnings("ignore:.*is an experimental feature:RuntimeWarning")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with pytest.MonkeyPatch.context() as patch:
        yield new_plant(tmp_path_factory.mktemp("plant"), patch)


@pytest.fixture(scope="module")
def beginning(empty: Plant) -> Iterator[tuple[Server, list[httpx.Response]]]:
    """The service, and what it said before there was a release, and before there were features."""
    with serving(empty) as server:
        said = [server.get("/ready"), server.predict("whole")]
        release.set_champion(empty.releases, empty.released(1))
        server.until(lambda said: said["release"])
        said += [server.get("/ready"), server.predict("whole")]
        feast_store.apply(empty.state)
        empty.write_online(MACHINES)
        yield server, said


@pytest.fixture(scope="module")
def plant(empty: Plant, beginning: tuple[Server, list[httpx.Response]]) -> Plant:
    """The plant, with features and a first release by now."""
    return empty


@pytest.fixture(scope="module")
def shared(beginning: tuple[Server, list[httpx.Response]]) -> Server:
    return beginning[0]


@pytest.fixture
def server(plant: Plant, shared: Server) -> Server:
    """The service of all tests, with the first release in use."""
    release.set_champion(plant.releases, plant.releases / "v1")
    shared.in_use(1)
    return shared


def test_a_service_starts_before_there_is_anything_to_serve(
    beginning: tuple[Server, list[httpx.Response]],
) -> None:
    server, said = beginning
    begun = f"serving environment local, fleet plant, release none yet, at {server.url}"
    assert begun in server.lines
    assert [each.status_code for each in said] == [503] * 4
    unreleased, _, unpublished, _ = said
    assert unreleased.json()["release"] is None
    assert "fleet 'plant' has no champion in environment 'local'" in unreleased.json()["reason"]
    assert "knows no feature service 'plant_failure_v1'" in unpublished.json()["reason"]


def test_each_machine_gets_what_the_release_makes_of_its_features(
    plant: Plant, server: Server
) -> None:
    machines = ["silent", "whole", "nobody", "new", "gone", "whole"]
    before = datetime.now(UTC)
    said = server.predict(*machines).json()
    assert before <= datetime.fromisoformat(said.pop("as_of")) <= datetime.now(UTC)
    predictions = said.pop("predictions")
    assert said == {
        "model": "plant_failure", "version": 1, "feature_service": "plant_failure_v1",
        "threshold": 0.001,
    }  # fmt: skip
    assert [each["machine"] for each in predictions] == machines
    assert [each["status"] for each in predictions] == [
        "degraded", "ok", "unknown", "degraded", "unknown", "ok",
    ]  # fmt: skip
    whole = expected(plant, 1, *TELEMETRY, "machine_attributes")
    silent, new = expected(plant, 1, "machine_attributes"), expected(plant, 1, "sensor_step")
    assert len({whole, silent, new}) == 3
    assert [each["probability"] for each in predictions] == [
        silent, whole, None, new, None, whole,
    ]  # fmt: skip
    assert [each["alarm"] for each in predictions] == [True, True, None, True, None, True]


def test_an_alarm_is_a_probability_that_reaches_the_threshold(plant: Plant) -> None:
    score = expected(plant, 1, *TELEMETRY, "machine_attributes")
    for version, threshold in ((11, score), (12, float(np.nextafter(score, 1)))):
        path = plant.released(version, threshold=threshold)
        shutil.copy(plant.releases / "v1" / MODEL, path / MODEL)
        sign(path)
        said, _ = asyncio.run(asked_within(app_of(plant, path)))
        prediction = said.json()["predictions"][0]
        assert (prediction["probability"], prediction["alarm"]) == (score, version == 11)


def test_an_answer_says_how_old_the_features_of_each_view_were(server: Server) -> None:
    said = server.predict("silent", "new").json()
    as_of = datetime.fromisoformat(said["as_of"])
    silent, new = (each["views"] for each in said["predictions"])
    statuses = {view: state["status"] for view, state in silent.items()}
    assert statuses == {
        "plant_sensor_step": "stale", "plant_sensor_window_3h": "stale", "plant_anomaly": "stale",
        "plant_machine_attributes": "present",
    }  # fmt: skip
    for state in silent.values():
        assert datetime.fromisoformat(state["event_time"]) == OLD
        assert state["age"] == pytest.approx((as_of - OLD).total_seconds(), abs=1e-6)
    assert datetime.fromisoformat(new["plant_sensor_step"]["event_time"]) == FRESH
    missing = {"status": "missing", "event_time": None, "age": None}
    assert new["plant_anomaly"] == new["plant_machine_attributes"] == missing


def test_data_of_the_past_are_judged_by_the_clock_of_the_request(
    plant: Plant, server: Server
) -> None:
    zone = OLD.astimezone().isoformat()
    said = server.predict("gone", as_of=zone).json()
    assert datetime.fromisoformat(said["as_of"]) == OLD
    prediction = said["predictions"][0]
    assert (prediction["status"], prediction["views"]["plant_anomaly"]["age"]) == ("degraded", 0)
    assert prediction["probability"] == expected(plant, 1, *TELEMETRY)
    later = server.predict("whole", as_of=(OLD + timedelta(hours=1)).isoformat())
    assert later.status_code == 422
    assert "machine 'whole' has newer features in 'plant_sensor_step'" in later.json()["error"]


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ({}, 422, "machines: Field required"),
        ([], 422, "the body: "),
        ({"machines": []}, 422, "machines: Tuple should have at least 1"),
        ({"machines": ["x"] * 1001}, 422, "at most 1000 items"),
        ({"machines": "x"}, 422, "machines: "),
        ({"machines": [1]}, 422, "machines.0: Input should be a valid string"),
        ({"machines": [""]}, 422, "machines.0: "),
        ({"machines": ["x" * 201]}, 422, "at most 200 characters"),
        ({"machines": [None] * 9}, 422, "; and "),
        ({"machines": ["x"], "treshold": 1}, 422, "treshold: Extra inputs"),
        ({"machines": ["x"], "as_of": "2025-01-01T00:00:00"}, 422, "as_of: "),
        ({"machines": ["x"], "as_of": 1735689600}, 422, "must be an ISO time with its zone"),
        ({"machines": ["x"], "as_of": "1735689600"}, 422, "must be an ISO time with its zone"),
        ({"machines": ["x"], "as_of": "0001-01-01T00:00:00+14:00"}, 422, "as_of: "),
        ({"machines": ["x"], "as_of": "9999-12-31T23:59:59-14:00"}, 422, "as_of"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_place(
    server: Server, asked: Any, status: int, told: str
) -> None:
    found = server.post(asked)
    assert found.status_code == status
    assert list(found.json()) == ["error"]
    assert told in found.json()["error"]


def test_other_bodies_methods_and_paths_are_refused(server: Server) -> None:
    kind = {"content-type": "application/json; charset=utf-8"}
    whole = json.dumps({"machines": ["whole"]})

    def in_parts() -> Iterator[bytes]:
        for _ in range(3_000):
            yield b" " * 1_000

    with server.client as client:
        answers = [
            (client.post("/v1/predict", content=whole, headers=kind), 200),
            (client.post("/v1/predict", content="{", headers=kind), 400),
            (client.post("/v1/predict", content=b"\xff", headers=kind), 400),
            (client.post("/v1/predict", content="[" * 100_000, headers=kind), 400),
            (client.post("/v1/predict", content=whole), 415),
            (client.post("/v1/predict", content=whole + " " * 1_000_000, headers=kind), 413),
            (client.post("/v1/predict", content=in_parts(), headers=kind), 413),
            (client.get("/v1/predict"), 405),
            (client.post("/health"), 405),
            (client.get("/v2/predict"), 404),
        ]
    for found, status in answers:
        assert found.status_code == status, found.text
        assert found.headers["content-type"] == "application/json"
        assert (list(found.json()) == ["error"]) == (status != 200)
    allowed = [set(found.headers["allow"].split(", ")) for found, s in answers if s == 405]
    assert allowed == [{"POST"}, {"GET", "HEAD"}]
    server_is_up(server)


def test_a_thousand_machines_are_answered_at_once(server: Server) -> None:
    machines = [f"m{number}" for number in range(999)] + ["whole"]
    predictions = server.predict(*machines).json()["predictions"]
    assert [each["machine"] for each in predictions] == machines
    assert [each["status"] for each in predictions] == ["unknown"] * 999 + ["ok"]


def test_releases_are_swapped_under_load_and_each_answer_is_of_one(
    plant: Plant, server: Server
) -> None:
    for version in (2, 3):
        plant.released(version)
    scores = {v: expected(plant, v, *TELEMETRY, "machine_attributes") for v in (1, 2, 3)}
    assert len(set(scores.values())) == 3
    answers: list[httpx.Response | Exception] = []
    ended = threading.Event()

    def ask() -> None:
        with server.client as client:
            while not ended.is_set():
                try:
                    answers.append(client.post("/v1/predict", json={"machines": ["whole"] * 20}))
                except Exception as err:
                    answers.append(err)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in (2, 3, 1):
        release.set_champion(plant.releases, plant.releases / f"v{version}")
        server.in_use(version)
        time.sleep(0.3)
    ended.set()
    for thread in threads:
        thread.join()
    seen = set()
    for answer in answers:
        assert isinstance(answer, httpx.Response), answer
        assert answer.status_code == 200, answer.text
        said = answer.json()
        seen.add(said["version"])
        assert said["threshold"] == said["version"] / 1000
        assert {each["probability"] for each in said["predictions"]} == {scores[said["version"]]}
    assert seen == {1, 2, 3}


def test_a_broken_release_is_refused_and_the_old_one_stays(plant: Plant, server: Server) -> None:
    path = plant.released(4)
    model = (path / MODEL).read_bytes()
    (path / MODEL).write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    release.set_champion(plant.releases, path)
    told = f"{path} was changed after it was written"
    said = server.until(lambda said: told in (said["refused"] or ""))
    assert (said["ready"], said["release"]["version"]) == (True, 1)
    assert server.predict("whole").json()["version"] == 1
    assert "millwright_release_refused 1.0" in server.get("/metrics").text
    time.sleep(1.5)  # it is looked at again, and told once
    assert len([line for line in server.lines if str(path) in line]) == 1
    (path / MODEL).write_bytes(model)
    assert server.in_use(4)["refused"] is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"fleet": "presses"}, "fleet 'presses'"), ({"environment": "staging"}, "'staging'")],
)
def test_a_release_of_elsewhere_is_refused(
    plant: Plant, changes: dict[str, str], told: str
) -> None:
    shutil.rmtree(plant.releases / "v5", ignore_errors=True)
    folders = [plant.releases / "v1", plant.released(5, **changes)]
    current = CurrentRelease("local", "plant", lambda: folders.pop(0))
    current.refresh()
    assert current.refused is None
    current.refresh()
    assert told in str(current.refused)
    assert current.release is not None
    assert current.release.manifest.version == 1


def test_a_pointer_that_is_gone_or_spoilt_changes_nothing(plant: Plant, tmp_path: Path) -> None:
    shutil.copytree(plant.releases / "v1", tmp_path / "v1")
    release.set_champion(tmp_path, tmp_path / "v1")
    current = CurrentRelease("local", "plant", partial(release.champion, tmp_path))
    current.refresh()
    before, pointer = current.release, tmp_path / release.POINTER
    assert before is not None
    pointer.write_text("nonsense")
    current.refresh()
    assert "names no release" in str(current.refused)
    pointer.unlink()
    current.refresh()
    assert "fleet 'plant' has no champion in environment 'local'" in str(current.refused)
    assert current.release is before
    release.set_champion(tmp_path, tmp_path / "v1")
    current.refresh()
    assert (current.refused, current.release) == (None, before)


def test_a_feature_that_is_not_published_makes_the_service_not_ready(plant: Plant) -> None:
    own = Encoder.of(plant.fleet)
    other = own.model_copy(update={"features": (*own.features, "smell")})
    matrix = np.zeros((4, len(other.columns)), dtype=np.float32)
    booster = Classifier({}, 1, 0).fit(matrix, np.array([True, False] * 2)).booster
    assert booster is not None
    manifest = release.load(plant.releases / "v1").manifest
    changed = manifest.model_copy(update={"version": 6, "encoder": other})
    path = release.write(plant.releases, changed, booster, matrix)
    said, ready = asyncio.run(asked_within(app_of(plant, path)))
    assert (said.status_code, ready.status_code) == (503, 503)
    assert "has no 'smell', which release v6 needs" in ready.json()["reason"]


@pytest.fixture
def staging(
    plant: Plant, postgres_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Plant:
    """The same plant on PostgreSQL and Redis, with a champion."""
    monkeypatch.setenv("MILLWRIGHT_HOME", str(tmp_path))
    monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", postgres_url)
    monkeypatch.setenv("MILLWRIGHT_REDIS_URL", redis_url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    schemas.create(postgres_url, [feast_store.REGISTRY_SCHEMA])
    found = Plant(State(tmp_path, "staging"), plant.fleet, {})
    feast_store.apply(found.state)
    found.write_online(MACHINES)
    release.set_champion(found.releases, found.released(1, environment="staging"))
    return found


def test_on_redis_the_service_answers_and_says_in_time_when_redis_does_not(
    staging: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> list[httpx.Response]:
        return asyncio.run(asked_within(app_of(staging)))

    said, ready = asked()
    assert [each["status"] for each in said.json()["predictions"]] == ["ok", "unknown"]
    whole = expected(staging, 1, *TELEMETRY, "machine_attributes")
    assert said.json()["predictions"][0]["probability"] == whole
    assert ready.status_code == 200
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        url = f"redis://:hidden@127.0.0.1:{silent.getsockname()[1]}/0"
        monkeypatch.setenv("MILLWRIGHT_REDIS_URL", url)
        frozen = asked()
    gone = asked()
    for said, ready in (frozen, gone):
        assert (said.status_code, ready.status_code) == (503, 503)
        assert said.json() == {"error": "features cannot be read now; /ready says why"}
        assert "hidden" not in ready.text
    assert "cannot be reached" in gone[1].json()["reason"]


def app_of(plant: Plant, folder: Path | None = None) -> Starlette:
    """The service in this process, with a release or with the champion."""
    current = CurrentRelease(
        plant.state.environment, plant.fleet.name,
        lambda: folder or release.champion(plant.releases),
    )  # fmt: skip
    current.refresh()
    return Service(current, FeatureReader(plant.state)).app()


async def asked_within(app: Starlette) -> list[httpx.Response]:
    """What a service says to a request and to the question whether it is ready, within 5 s."""
    transport = httpx.ASGITransport(app)
    async with (
        asyncio.timeout(5),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        asked = client.post("/v1/predict", json={"machines": ["whole", "nobody"]})
        return list(await asyncio.gather(asked, client.get("/ready")))


def test_what_waits_behind_a_reading_that_hangs_is_given_up_and_never_done() -> None:
    hanging, done = threading.Event(), []

    async def story() -> str:
        workers = Workers(1)
        for job in (hanging.wait, lambda: done.append("late")):
            with pytest.raises(TimeoutError):
                await workers.run(job, 0.1)
        hanging.set()
        return await workers.run(lambda: "next", 10)

    assert asyncio.run(story()) == "next"
    assert done == []


def test_an_error_that_nobody_has_foreseen_is_told_without_its_text(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_of(plant, plant.releases / "v1")

    async def broken(request: Request) -> Response:
        raise ValueError("hidden")

    app.router.routes.insert(0, Route("/v1/predict", broken, methods=["POST"]))
    said, ready = asyncio.run(asked_within(app))
    assert (said.status_code, said.json()) == (500, {"error": "internal error"})
    assert ready.status_code == 200
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 1
    assert told[0].startswith(f"internal error in /v1/predict: ValueError at {__file__}:")
    assert "hidden" not in caplog.text


def test_prometheus_hears_what_the_service_does(server: Server) -> None:
    server.predict("whole", "silent", "nobody")
    server.get("/nowhere")
    figures = dict(
        line.rsplit(" ", 1)
        for line in server.get("/metrics").text.splitlines()
        if not line.startswith("#")
    )
    assert all(name.startswith("millwright_") for name in figures)
    for name in (
        'millwright_requests_total{path="/v1/predict",status="200"}',
        'millwright_requests_total{path="other",status="404"}',
        'millwright_request_seconds_bucket{le="5.0",path="/v1/predict"}',
        'millwright_predictions_total{status="degraded"}',
        'millwright_predictions_total{status="unknown"}',
        'millwright_feature_age_seconds_count{view="plant_anomaly"}',
    ):
        assert float(figures[name]) >= 1, name
    info = 'millwright_release_info{dataset_version="d1",feature_service="plant_failure_v1",'
    assert figures[info + 'model="plant_failure",version="1"}'] == "1.0"
    assert figures["millwright_release_refused"] == "0.0"


def test_the_service_describes_itself(server: Server) -> None:
    about = server.get("/").json()
    assert (about["environment"], about["fleet"]) == ("local", "plant")
    described = server.get(about["openapi"]).json()
    assert set(described["paths"]) == {"/v1/predict", "/health", "/ready", "/metrics"}
    schemas = described["components"]["schemas"]
    assert schemas["PredictionRequest"]["properties"]["machines"]["maxItems"] == 1000
    text = json.dumps(described)
    for name in schemas:
        assert f"#/components/schemas/{name}" in text or name == "PredictionRequest"


def test_every_status_that_the_service_gives_to_a_request_is_described() -> None:
    given = {
        argument.value
        for module in (bodies, endpoints)
        for call in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") in ("HTTPException", "JSONResponse")
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    }
    assert {408, 422, 500, 503} <= given
    described = openapi.description()["paths"]["/v1/predict"]["post"]["responses"]
    assert {str(status) for status in given} == set(described) - {"200"}


def test_figures_are_those_of_one_service_whatever_mode_prometheus_is_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    one, other = Metrics(), Metrics()
    for seconds in (0.002, 0.3, 9):
        one.requested("/health", 200, seconds)
    told = one.text(None, "why").decode().splitlines()
    counts = [line.split()[1] for line in told if "_seconds_bucket" in line]
    assert counts == ["1.0"] * 6 + ["1.0", "2.0", "2.0", "2.0", "2.0", "3.0"]
    assert 'millwright_request_seconds_sum{path="/health"} 9.302' in told
    assert "millwright_release_refused 1.0" in told
    assert "/health" not in other.text(None, None).decode()
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_told_in_one_line(
    plant: Plant, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    port = server.url.rpartition(":")[2]
    assert main(["serve", "--stack", "local", "--fleet", "plant", "--port", port]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot listen on 127.0.0.1, port {port}: Address already in us")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--stack", "lokal"], 2, "there is no environment 'lokal'"),
        (["--fleet", "plants"], 2, "plants"),
        (
            ["--fleet", "plant", "--host", "no.such.host.invalid"],
            2,
            "cannot listen on no.such.host.invalid",
        ),
        (["--fleet", "plant", "--port", "70000"], 2, "--port is 70000, and a port is"),
        (["--release", "nowhere"], 1, "nowhere is not a whole release"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(
    plant: Plant, capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: str
) -> None:
    assert main(["serve", "--stack", "local", "--port", "0", *words]) == code
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_a_service_that_answers_has_imported_neither_zenml_nor_mlflow_nor_a_pipeline(
    server: Server,
) -> None:
    assert server.predict("whole").status_code == 200
    told = [line.rpartition("|") for line in server.lines if line.startswith("import time:")]
    loaded = {name.strip().partition(".")[0] for _, _, name in told}
    assert {"feast", "xgboost", "starlette", "uvicorn"} <= loaded
    assert not {"zenml", "mlflow", "pipelines", "steps", "evidently", "optuna"} & loaded


def test_a_service_ends_when_asked(shared: Server) -> None:
    """The last of all tests, for no other one has its service afterwards."""
    shared.process.send_signal(signal.SIGTERM)
    assert shared.process.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(shared.url.rpartition(":")[2])))
