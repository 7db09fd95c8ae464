"""The releases of a service that runs: swapped, refused and sharing its traffic."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from service_plant import (
    TELEMETRY,
    Plant,
    Server,
    app_of,
    asked,
    asking,
    expected,
    filled_plant,
    serving,
)

from millwright import release, traffic
from millwright.release import MODEL, Release, ServedView
from millwright.serving.sqlite_reader import SqliteReader
from millwright.traffic import Canary, Traffic


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with filled_plant(tmp_path_factory, 1) as plant:
        yield plant


@pytest.fixture(scope="module")
def shared(plant: Plant) -> Iterator[Server]:
    with serving(plant) as server:
        yield server


@pytest.fixture
def server(plant: Plant, shared: Server) -> Server:
    """The service of all tests, with the first release alone in use."""
    (plant.releases / traffic.TRAFFIC).unlink(missing_ok=True)
    release.set_champion(plant.releases, plant.releases / "v1")
    shared.until(lambda said: said["releases"] == [{"role": "champion", "version": 1}])
    return shared


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
                time.sleep(0.02)  # what proves the next release needs the processor, too

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for version in (2, 3, 1):
            release.set_champion(plant.releases, plant.releases / f"v{version}")
            server.in_use(version)
            time.sleep(0.2)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    seen, ids, answered = set(), Counter[str](), 0
    for answer in answers:
        assert isinstance(answer, httpx.Response), answer
        said = answer.json()
        if answer.status_code == 503:  # the deadline, on a machine that has too much to do
            assert "no answer within" in said["error"]
            continue
        assert answer.status_code == 200, answer.text
        answered += 1
        (used,) = said["releases"]
        seen.add(used["version"])
        assert used["threshold"] == used["version"] / 1000
        found = {(each["version"], each["probability"]) for each in said["predictions"]}
        assert found == {(used["version"], scores[used["version"]])}
        ids.update(each["id"] for each in said["predictions"])
    assert seen == {1, 2, 3}
    assert len(ids) == 20 * answered


def test_a_broken_release_is_refused_and_the_old_one_stays(plant: Plant, server: Server) -> None:
    path = plant.released(4)
    model = (path / MODEL).read_bytes()
    (path / MODEL).write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    release.set_champion(plant.releases, path)
    told = f"{path} was changed after it was written"
    said = server.until(lambda said: told in (said["refused"] or ""))
    assert (said["ready"], said["release"]["version"]) == (True, 1)
    assert server.predict("whole").json()["releases"][0]["version"] == 1
    assert "millwright_release_refused 1.0" in server.get("/metrics").text
    time.sleep(0.8)  # it is looked at again, and told once
    assert len([line for line in server.lines if str(path) in line]) == 1
    (path / MODEL).write_bytes(model)
    assert server.in_use(4)["refused"] is None


def test_canary_tags_and_shadows_are_as_traffic_says(plant: Plant, server: Server) -> None:
    for version in (2, 3):
        if not (plant.releases / f"v{version}").is_dir():
            plant.released(version)
    canary = Canary(version=2, percent=50)
    traffic.write(plant.releases, Traffic(canary=canary, tags={"tried": 3}, shadow=(3, 2)))
    wanted = [("champion", 1), ("canary", 2), ("tried", 3), ("shadow", 3), ("shadow", 2)]
    told = [{"role": role, "version": version} for role, version in wanted]
    server.until(lambda said: said["releases"] == told)
    machines = [f"m{number}" for number in range(50)]
    said = server.predict("whole", *machines).json()
    assert [each["version"] for each in said["releases"]] == sorted(
        {1, 2}, key=lambda version: version != said["predictions"][0]["version"]
    )
    for each in said["predictions"]:
        taken = canary.takes(each["machine"])
        assert (each["version"], each["role"]) == ((2, "canary") if taken else (1, "champion"))
    tagged = server.predict("whole", "m1", tag="tried").json()
    assert {(each["version"], each["role"]) for each in tagged["predictions"]} == {(3, "tried")}
    score = expected(plant, 3, *TELEMETRY, "machine_attributes")
    assert tagged["predictions"][0]["probability"] == score
    unknown = server.predict("whole", tag="other")
    assert unknown.status_code == 422
    assert unknown.json() == {"error": "there is no tag 'other'; there are: tried"}
    end, shadowed = time.monotonic() + 10, 'millwright_predictions_total{role="shadow",'
    while time.monotonic() < end:
        lines = [line for line in server.get("/metrics").text.splitlines() if shadowed in line]
        if sum(float(line.rpartition(" ")[2]) for line in lines) == 2 * (51 + 2):
            break
        time.sleep(0.05)
    else:
        raise AssertionError(lines)


def test_a_release_that_predicts_no_number_is_named_and_predicts_nothing(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(plant)
    monkeypatch.setattr(Release, "score", lambda _, matrix: np.full(len(matrix), np.nan))
    said, ready = asked(app)
    assert said.status_code == 503
    told = "release v1 predicts what is no number; roll back: python -m millwright releases"
    assert said.json() == {"error": told}
    assert ready.status_code == 200  # another release may be asked for by its tag


def test_a_store_that_hangs_is_told_by_the_deadline(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, awake, read = app_of(plant, deadline_ms=100), threading.Event(), SqliteReader.cells

    def hanging(*asked: Any) -> Any:
        assert awake.wait(20)
        return read(*asked)

    async def story(client: httpx.AsyncClient) -> list[httpx.Response]:
        wanted = {"machines": ["whole"]}
        monkeypatch.setattr(SqliteReader, "cells", hanging)
        said = [await client.post("/v1/predict", json=wanted), await client.get("/ready")]
        awake.set()
        return [*said, await client.post("/v1/predict", json=wanted), await client.get("/ready")]

    late, unready, again, ready = asking(app, story)
    assert late.status_code == 503
    assert late.json() == {"error": "no answer within 0.1 s; ask again"}
    assert late.headers["retry-after"] == "1"
    assert unready.status_code == 503
    assert unready.json()["reason"] == "the online store did not answer within 0.1 s"
    assert unready.json()["release"] == {"model": "plant_failure", "version": 1}
    assert (again.status_code, ready.status_code) == (200, 200)


def test_a_view_that_is_not_published_makes_the_service_not_ready(plant: Plant) -> None:
    more = ServedView(name="plant_smell", features={"smell": "float32"}, time_to_live=None)
    path = plant.released(6, views=(*ServedView.all_of(plant.fleet), more))
    said, ready = asked(app_of(plant, path))
    assert ready.status_code == 503
    assert "view 'plant_smell' is not in the online store" in ready.json()["reason"]
    assert "feast apply" in ready.json()["reason"]
    prediction = said.json()["predictions"][0]
    assert prediction["status"] == "degraded"
    assert prediction["views"]["plant_smell"]["status"] == "missing"
