"""The prediction service: a real process on a free port, over a real feature store."""

import ast
import asyncio
import inspect
import json
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
from service_plant import (
    FRESH,
    MACHINES,
    OLD,
    TELEMETRY,
    UNNEEDED,
    Plant,
    Server,
    app_of,
    asked,
    asking,
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
from millwright.recipe import Recipe
from millwright.release import MODEL
from millwright.serving import access, bodies, load, observed, openapi, operations, queries
from millwright.serving import app as endpoints
from millwright.serving.predictions import PredictionAnswer


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
    assert {each.headers["retry-after"] for each in said} == {"1"}
    unreleased, _, unpublished, _ = said
    assert unreleased.json()["release"] is None
    assert "fleet 'plant' has no champion in environment 'local'" in unreleased.json()["reason"]
    assert "publish its views: feast apply" in unpublished.json()["reason"]


def test_each_machine_gets_what_the_release_makes_of_its_features(
    plant: Plant, server: Server
) -> None:
    machines = ["silent", "whole", "nobody", "new", "gone", "bare", "whole"]
    before = datetime.now(UTC)
    said = server.predict(*machines).json()
    assert before <= datetime.fromisoformat(said.pop("as_of")) <= datetime.now(UTC)
    predictions = said.pop("predictions")
    assert said == {
        "model": "plant_failure", "currency": "EUR",
        "releases": [{"version": 1, "feature_service": "plant_failure_v1", "threshold": 0.001}],
    }  # fmt: skip
    assert [each["machine"] for each in predictions] == machines
    assert [each["status"] for each in predictions] == [
        "stale", "ok", "unknown", "degraded", "stale", "missing", "ok",
    ]  # fmt: skip
    whole = expected(plant, 1, *TELEMETRY, "machine_attributes")
    new = expected(plant, 1, "sensor_step")
    assert whole != new
    found = [None, whole, None, new, None, None, whole]
    assert [each["probability"] for each in predictions] == found
    for each in predictions:
        decided = None if each["probability"] is None else True
        assert each["alarm"] == decided
        assert (each["expected_cost"] is None) == (decided is None)
        assert (each["version"], each["role"], each["contributions"]) == (1, "champion", None)
    assert len({each["id"] for each in predictions}) == len(machines)


def test_an_answer_is_what_the_description_says(server: Server) -> None:
    said = server.predict("whole", "nobody", explain=3)
    found = PredictionAnswer.model_validate_json(said.content)
    assert found.model_dump(mode="json") == said.json()


def test_an_alarm_is_a_probability_that_reaches_the_threshold(plant: Plant) -> None:
    score = expected(plant, 1, *TELEMETRY, "machine_attributes")
    for version, threshold in ((11, score), (12, float(np.nextafter(score, 1)))):
        path = plant.released(version, threshold=threshold)
        shutil.copy(plant.releases / "v1" / MODEL, path / MODEL)
        sign(path)
        said, _ = asked(app_of(plant, path))
        prediction = said.json()["predictions"][0]
        assert (prediction["probability"], prediction["alarm"]) == (score, version == 11)


def test_reasons_are_given_where_something_is_predicted(plant: Plant, server: Server) -> None:
    said = server.predict("whole", "nobody", explain=20).json()["predictions"]
    columns, reasons = Encoder.of(plant.fleet).columns, said[0]["contributions"]
    assert said[1]["contributions"] is None
    assert sorted(each["feature"] for each in reasons) == sorted(columns)[: len(reasons)]
    assert {each["feature"]: each["value"] for each in reasons}["model=m2"] == 1
    assert [abs(each["contribution"]) for each in reasons] == sorted(
        (abs(each["contribution"]) for each in reasons), reverse=True
    )
    few = server.predict("whole", explain=2).json()["predictions"][0]["contributions"]
    assert few == reasons[:2]


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
        ({"machines": ["a\0b"]}, 422, "machines.0: must be without the character NUL"),
        ({"machines": ["x"], "y" * 900: 1}, 422, f"{'y' * 200}...: Extra inputs"),
        ({"machines": [None] * 9}, 422, "machines.0: Input should be a valid string"),
        ({"machines": ["x"], "treshold": 1}, 422, "treshold: Extra inputs"),
        ({"machines": ["x"], "tag": "slow"}, 422, "there is no tag 'slow'; there are: none"),
        ({"machines": ["x"], "tag": "No Tag"}, 422, "tag: String should match pattern"),
        ({"machines": ["x"], "explain": 21}, 422, "explain: Input should be less than or equal"),
        ({"machines": ["x"], "explain": "1"}, 422, "explain: Input should be a valid integer"),
        ({"machines": ["x"], "as_of": "2025-01-01T00:00:00"}, 422, "as_of: "),
        ({"machines": ["x"], "as_of": 1735689600}, 422, "must be an ISO time with its zone"),
        ({"machines": ["x"], "as_of": "1735689600"}, 422, "must be an ISO time with its zone"),
        ({"machines": ["x"], "as_of": "0001-01-01T00:00:00+14:00"}, 422, "as_of: "),
        ({"machines": ["x"], "as_of": "9999-12-31T23:59:59-14:00"}, 422, "as_of"),
        ({"machines": ["x"], "as_of": "1969-12-31T23:59:59Z"}, 422, "as_of: must be 1970 or later"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_place(
    server: Server, asked: Any, status: int, told: str
) -> None:
    found = server.post(asked)
    assert found.status_code == status
    assert list(found.json()) == ["error"]
    assert told in found.json()["error"]


def test_a_list_is_not_said_to_be_too_short_for_what_is_wrong_in_it(server: Server) -> None:
    assert "at least" not in server.post({"machines": [1]}).json()["error"]


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
            (client.post("/v1/predict", content=b'{"machines": ["\\ud800"]}', headers=kind), 400),
            (client.post("/v1/predict", content="[" * 100_000, headers=kind), 400),
            (client.post("/v1/predict", content=whole), 415),
            (client.post("/v1/predict", json={}, headers={"content-encoding": "gzip"}), 415),
            (client.post("/v1/predict", content=whole + " " * 1_000_000, headers=kind), 413),
            (client.post("/v1/predict", content=in_parts(), headers=kind), 413),
            (client.get("/v1/predict"), 405),
            (client.post("/health"), 405),
            (client.get("/v2/predict"), 404),
            (client.get("/v1/fleet/"), 404),
            (client.get("/v1/fleet?asof=2025-01-31T12:00:00Z"), 422),
            (client.get("/v1/fleet?limit=1&limit=2"), 422),
            (client.get("/v1/machines/a%00b/predictions"), 422),
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


def test_an_error_that_nobody_has_foreseen_is_told_without_its_text(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_of(plant, plant.releases / "v1")

    async def broken(request: Request) -> Response:
        raise ValueError("hidden")

    app.router.routes.insert(0, Route("/v1/predict", broken, methods=["POST"]))
    said, ready = asked(app)
    assert (said.status_code, said.json()) == (500, {"error": "internal error"})
    assert ready.status_code == 200
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 1
    assert told[0].startswith(f"internal error in /v1/predict: ValueError at {__file__}:")
    assert "hidden" not in caplog.text


READINGS = {
    "machines": [
        {"machine": "x", "telemetry": [{"timestamp": "2025-01-01T00:00:00Z", "heat": 1.0}]}
    ]
}


@contextmanager
def taking_readings(plant: Plant, recipe: Recipe) -> Iterator[Starlette]:
    """A service whose release makes features by a recipe."""
    path = plant.released(9)
    (path / release.RECIPE).write_text(recipe.model_dump_json(), encoding="utf-8")
    sign(path)
    try:
        yield app_of(plant, path)
    finally:
        shutil.rmtree(path)


def test_a_release_that_cannot_take_readings_is_no_error_that_nobody_has_foreseen(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe.of(plant.fleet, None).model_copy(update={"readings": "SELECT nonsense"})

    async def story(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/v1/predict/readings", json=READINGS)

    with taking_readings(plant, recipe) as app:
        said = asking(app, story)
    told = {"error": "readings cannot be taken now; the log says why"}
    assert (said.status_code, said.json()) == (503, told)
    assert "cannot take readings: the recipe of fleet 'plant' cannot be run" in caplog.text


def test_readings_that_are_long_under_way_have_their_whole_time_when_they_are_there(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        body = json.dumps(READINGS).encode()
        yield body[:20]
        await asyncio.sleep(1.1)
        yield body[20:]

    async def story(client: httpx.AsyncClient) -> list[int]:
        kind = {"Content-Type": "application/json"}
        said = [await client.post("/v1/predict/readings", json=READINGS)]
        monkeypatch.setattr(endpoints, "SENT_DEADLINE", 1.0)
        said.append(await client.post("/v1/predict/readings", content=slowly(), headers=kind))
        return [each.status_code for each in said]

    with taking_readings(plant, Recipe.of(plant.fleet, None)) as app:
        assert asking(app, story) == [200, 200]


def test_prometheus_hears_what_the_service_does(server: Server) -> None:
    server.predict("whole", "new", "nobody")
    server.get("/nowhere")
    server.get("/v1/predict")
    figures = dict(
        line.rsplit(" ", 1)
        for line in server.get("/metrics").text.splitlines()
        if not line.startswith("#")
    )
    assert all(name.startswith("millwright_") for name in figures)
    for name in (
        'millwright_requests_total{endpoint="predict",status="200"}',
        'millwright_requests_total{endpoint="predict",status="405"}',
        'millwright_requests_total{endpoint="other",status="404"}',
        'millwright_request_seconds_bucket{endpoint="predict",le="5.0"}',
        'millwright_predictions_total{role="champion",status="degraded",version="1"}',
        'millwright_predictions_total{role="champion",status="unknown",version="1"}',
        'millwright_probability_count{version="1"}',
        'millwright_feature_age_seconds_count{view="plant_anomaly"}',
    ):
        assert float(figures[name]) >= 1, name
    info = 'millwright_release_info{dataset_version="d1",feature_service="plant_failure_v1",'
    assert figures[info + 'model="plant_failure",role="champion",version="1"}'] == "1.0"
    assert figures["millwright_release_refused"] == "0.0"
    assert figures["millwright_unshadowed"] == "0.0"


def test_the_service_describes_itself(plant: Plant, server: Server) -> None:
    about = server.get("/").json()
    assert (about["environment"], about["fleet"]) == ("local", "plant")
    described = server.get(about["openapi"]).json()
    routes = {route.path_format for route in app_of(plant).routes if isinstance(route, Route)}
    assert {*described["paths"]} == routes
    schemas = described["components"]["schemas"]
    assert schemas["PredictionRequest"]["properties"]["machines"]["maxItems"] == 1000
    text = json.dumps(described)
    for name in schemas:
        assert f"#/components/schemas/{name}" in text


def statuses(*modules: ModuleType) -> set[str]:
    """Every status that stands in the code of some modules as that of a refusal."""
    return {
        str(argument.value)
        for module in modules
        for call in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") in ("HTTPException", "JSONResponse")
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    }


def test_every_status_that_the_service_gives_to_a_request_is_described() -> None:
    everywhere = statuses(observed, access, load)
    assert {"401", "500", "503"} <= everywhere
    for endpoint in openapi.ENDPOINTS:
        described = openapi.description()["paths"][endpoint.path][endpoint.method]["responses"]
        refused = set(described) - {str(endpoint.status)}
        if not endpoint.path.startswith("/v1/"):
            assert refused <= {"500", "503"}
        elif endpoint.path.startswith("/v1/predict"):
            assert refused == everywhere | statuses(bodies, endpoints)
        else:
            changes = endpoint.method != "get" and endpoint.path.startswith("/v1/releases/")
            own = statuses(operations, queries) - (set() if changes else {"409"})
            assert refused == everywhere | own | (statuses(bodies) if endpoint.body else set())


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
        (["--release", "nowhere"], 2, "nowhere is no folder; name that of a release"),
        (["--supervise", "--release", "nowhere"], 2, "nowhere is no folder"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(
    plant: Plant, capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: str
) -> None:
    assert main(["serve", "--stack", "local", "--port", "0", *words]) == code
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_a_service_that_answers_has_imported_neither_feast_nor_zenml_nor_mlflow(
    server: Server,
) -> None:
    assert server.predict("whole", explain=3).status_code == 200
    assert {"xgboost", "starlette", "uvicorn"} <= server.imported
    assert not UNNEEDED & server.imported


def test_a_service_ends_when_asked(shared: Server) -> None:
    """The last of all tests, for no other one has its service afterwards."""
    shared.process.send_signal(signal.SIGTERM)
    assert shared.process.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(shared.url.rpartition(":")[2])))
