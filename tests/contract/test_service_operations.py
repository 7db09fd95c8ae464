"""What the service answers besides predictions: fleet, histories, feedback and releases."""

import asyncio
import logging
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from service_plant import (
    MACHINES,
    NOW,
    OLD,
    TELEMETRY,
    Plant,
    app_of,
    as_number,
    asking,
    expected,
    new_plant,
)
from starlette.applications import Starlette

from millwright import feast_store, release, traffic
from millwright.__main__ import main
from millwright.keys.file import lock
from millwright.prediction_log import opening
from millwright.release import MODEL, ServedView
from millwright.serving.keys import KeyRing
from millwright.serving.releases import Releases
from millwright.traffic import Canary, Traffic

Story = Callable[[httpx.AsyncClient], Awaitable[Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with pytest.MonkeyPatch.context() as patch:
        made = new_plant(tmp_path_factory.mktemp("plant"), patch)
        feast_store.apply(made.state)
        made.write_online(MACHINES)
        for version in (1, 2, 3):
            made.released(version)
        broken = made.released(4)
        (broken / MODEL).write_bytes(b"{}")
        yield made


@pytest.fixture
def plant(made: Plant) -> Plant:
    """The plant with v1 as its champion, v2 as that before it, and all traffic to it."""
    traffic.write(made.releases, Traffic())
    for version in (2, 1):
        traffic.promote(made.releases, version)
    return made


@pytest.fixture
def app(plant: Plant) -> Starlette:
    return app_of(plant)


def told(app: Starlette, *paths: str) -> list[Any]:
    """What is answered to some GETs, one after the other."""

    async def story(client: httpx.AsyncClient) -> list[Any]:
        return [(await client.get(path)).json() for path in paths]

    return asking(app, story)


def probability(plant: Plant, version: int = 1) -> float:
    return expected(plant, version, *TELEMETRY, "machine_attributes")


async def history(client: httpx.AsyncClient, machine: str, count: int) -> Any:
    """A machine's predictions as soon as so many are logged."""
    while True:
        said = (await client.get(f"/v1/machines/{machine}/predictions")).json()
        if len(said["predictions"]) >= count:
            return said
        await asyncio.sleep(0.05)


def test_the_fleet_is_told_by_urgency_with_what_its_alarms_cost(
    plant: Plant, app: Starlette
) -> None:
    before = datetime.now(UTC)
    whole, one = told(app, "/v1/fleet", "/v1/fleet?limit=1")
    assert before <= datetime.fromisoformat(whole["as_of"]) <= datetime.now(UTC)
    assert whole["machines"] == len(MACHINES)
    counts = {"ok": 1, "degraded": 1, "stale": 2, "missing": 1, "unknown": 0}
    assert whole["outcomes"] == counts
    scores = {"whole": probability(plant), "new": expected(plant, 1, "sensor_step")}
    order = sorted(scores, key=lambda machine: -scores[machine])
    found = [(each["machine"], each["probability"]) for each in whole["predictions"]]
    assert found == [(machine, scores[machine]) for machine in order]
    assert whole["alarms"] == 2
    costs = [score * 4_000 + (1 - score) * 500 for score in scores.values()]
    assert whole["expected_cost"] == pytest.approx(sum(costs))
    assert one == {**whole, "predictions": whole["predictions"][:1]}
    assert {each["id"] for each in whole["predictions"]} == {None}  # it is in no log


def test_an_overview_is_made_once_for_all_who_ask(app: Starlette) -> None:
    async def story(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.get("/v1/fleet") for _ in range(20)))

    assert len({said.text for said in asking(app, story)}) == 1


def test_an_overview_of_the_past_is_of_then_or_is_refused(app: Starlette) -> None:
    at, late = told(
        app,
        f"/v1/fleet?as_of={NOW:%Y-%m-%dT%H:%M:%SZ}",
        f"/v1/fleet?as_of={OLD:%Y-%m-%dT%H:%M:%SZ}",
    )
    assert datetime.fromisoformat(at["as_of"]) == NOW.replace(microsecond=0)
    assert "has newer features" in late["error"]


def test_an_overview_is_no_answer_about_a_machine(app: Starlette) -> None:
    _, said = told(app, "/v1/fleet", "/v1/machines/bare/predictions")
    assert said == {"machine": "bare", "predictions": []}


def test_without_a_release_the_fleet_cannot_be_told(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = new_plant(tmp_path_factory.mktemp("empty"), monkeypatch)
    fleet, released = told(app_of(empty), "/v1/fleet", "/v1/releases")
    assert fleet == {"error": "no release is loaded; /ready says why"}
    assert released["releases"] == []
    assert "has no champion" in released["refused"]


def test_a_history_has_what_the_model_saw_the_newest_first(plant: Plant, app: Starlette) -> None:
    strange = "of a/b\n?#"

    async def story(client: httpx.AsyncClient) -> tuple[list[str], Any, Any, Any]:
        ids = []
        for _ in range(3):
            said = await client.post("/v1/predict", json={"machines": ["whole", strange]})
            ids.append(said.json()["predictions"][0]["id"])
        many = await history(client, "whole", 3)
        named = await history(client, "of%20a%2Fb%0A%3F%23", 3)
        few = await client.get("/v1/machines/whole/predictions?limit=2")
        return ids, many, named, few.json()

    ids, many, named, few = asking(app, story)
    assert [each["id"] for each in many["predictions"][:3]] == ids[::-1]
    assert few["predictions"] == many["predictions"][:2]
    newest = many["predictions"][0]
    assert (newest["release"], newest["role"], newest["source"]) == (1, "champion", "store")
    assert newest["probability"] == probability(plant)
    heat = {name: value for name, value in newest["features"].items() if name.startswith("heat")}
    assert heat
    assert heat == {name: pytest.approx(as_number(name)) for name in heat}
    assert named["machine"] == strange
    assert {each["status"] for each in named["predictions"]} == {"unknown"}


def test_feedback_is_joined_to_its_prediction_and_the_last_word_counts(
    plant: Plant, app: Starlette
) -> None:
    async def story(client: httpx.AsyncClient) -> str:
        said = await client.post("/v1/predict", json={"machines": ["new", "gone"]})
        found = said.json()["predictions"][0]["id"]
        at = datetime.now(UTC).isoformat()
        for failed in (False, True):
            outcome = {"machine": "new", "observed_at": at, "failed": failed, "prediction": found}
            taken = await client.post("/v1/feedback", json={"outcomes": [outcome]})
            assert (taken.status_code, taken.json()) == (202, {"taken": 1})
        late = {"machine": "new", "observed_at": "2999-01-01T00:00:00Z", "failed": True}
        refused = await client.post("/v1/feedback", json={"outcomes": [late]})
        assert refused.status_code == 422
        return str(found)

    found = asking(app, story)
    rows = opening.joined(plant.state, "plant", None, None, timedelta(hours=24), machine="new")
    labels = {row["prediction_id"]: row["label"] for row in rows.to_pylist()}
    assert labels[found] is True


def test_releases_are_promoted_and_rolled_back(plant: Plant, app: Starlette) -> None:
    async def story(client: httpx.AsyncClient) -> list[Any]:
        said = [await client.get("/v1/releases")]
        said.append(await client.put("/v1/releases/champion", json={"version": 3}))
        said.append(await client.post("/v1/predict", json={"machines": ["whole"]}))
        said.append(await client.post("/v1/releases/rollback", json={"version": 3}))
        assert {each.status_code for each in said} == {200}
        return [each.json() for each in said]

    listed, promoted, predicted, back = asking(app, story)
    roles = [
        {each["version"]: each["roles"] for each in said["releases"]}
        for said in (listed, promoted, back)
    ]
    assert roles == [
        {1: ["champion"], 2: [], 3: [], 4: []},
        {1: [], 2: [], 3: ["champion"], 4: []},
        {1: ["champion"], 2: [], 3: [], 4: []},
    ]
    assert [each["broken"] for each in listed["releases"]] == [False, False, False, True]
    assert predicted["predictions"][0]["probability"] == probability(plant, 3)
    assert release.champion(plant.releases) == plant.releases / "v1"


@pytest.mark.parametrize(
    ("method", "path", "asked", "status", "told"),
    [
        ("PUT", "champion", {"version": 4}, 409, "v4 was changed after it was written"),
        ("PUT", "champion", {"version": 9}, 422, "there is no release v9"),
        ("PUT", "traffic", {"shadow": [3, 4]}, 409, "v4 was changed after it was written"),
        ("PUT", "traffic", {"tags": {"b": 9}}, 422, "there is no release v9"),
        ("PUT", "traffic", {"tags": {"shadow": 2}}, 422, "is a role of its own"),
        ("PUT", "traffic", {"shadow": [2, 2]}, 422, "entry 2 is the same as entry 1"),
        ("PUT", "traffic", {"canary": {"version": True, "percent": 5}}, 422, "canary.version"),
    ],
)
def test_a_release_that_cannot_be_used_changes_nothing(
    plant: Plant, app: Starlette, method: str, path: str, asked: Any, status: int, told: str
) -> None:
    def files() -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in plant.releases.iterdir() if each.is_file()}

    async def story(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        said = await client.request(method, f"/v1/releases/{path}", json=asked)
        return said, await client.post("/v1/predict", json={"machines": ["whole"]})

    before = files()
    said, after = asking(app, story)
    assert said.status_code == status
    assert told in said.json()["error"]
    assert after.json()["predictions"][0]["probability"] == probability(plant)
    assert files() == before


def test_a_folder_that_cannot_be_written_is_no_internal_error(
    plant: Plant, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release, "set_champion", full)

    async def story(client: httpx.AsyncClient) -> httpx.Response:
        return await client.put("/v1/releases/champion", json={"version": 3})

    said = asking(app, story)
    assert said.status_code == 409
    assert "No space left on device" in said.json()["error"]


def test_two_who_divide_traffic_at_once_take_nothing_from_each_other(plant: Plant) -> None:
    faults: list[Exception] = []

    def often(*changes: Callable[[], None]) -> None:
        try:
            for change in changes * 20:
                change()
        except Exception as err:
            faults.append(err)

    split = partial(traffic.write, plant.releases)
    crown = partial(traffic.promote, plant.releases)
    changes = [
        partial(split, Traffic(tags={"b": 3, "c": 2})), partial(crown, 2),
        partial(split, Traffic(tags={"b": 3, "c": 1})), partial(crown, 1),
    ]  # fmt: skip
    threads = [threading.Thread(target=often, args=changes) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert traffic.read(plant.releases).tags["b"] == 3
    assert release.champion(plant.releases) == plant.releases / "v1"


def test_a_rollback_that_is_sent_again_does_not_go_forward(plant: Plant, app: Starlette) -> None:
    async def story(client: httpx.AsyncClient) -> list[httpx.Response]:
        await client.put("/v1/releases/champion", json={"version": 3})
        back = {"version": 3}
        return [await client.post("/v1/releases/rollback", json=back) for _ in range(2)]

    done, again = asking(app, story)
    assert (done.status_code, again.status_code) == (200, 409)
    assert "v3 is not the champion; v1 is" in again.json()["error"]
    assert release.champion(plant.releases) == plant.releases / "v1"


def test_a_service_whose_keys_are_gone_is_not_ready(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "add", "screen", "--role", "predict", "--stack", "local"]) == 0
    capsys.readouterr()
    app = app_of(plant)
    plant.state.keys.unlink()

    async def story(client: httpx.AsyncClient) -> httpx.Response:
        while (said := await client.get("/ready")).status_code == 200:
            await asyncio.sleep(0.05)
        return said

    said = asking(app, story)
    lock(plant.state.keys).unlink()
    assert said.json()["reason"] == "keys cannot be checked now; the log says why"
    assert said.headers["retry-after"] == "1"


def test_a_release_whose_features_are_not_online_is_not_made_champion(
    plant: Plant, app: Starlette, capsys: pytest.CaptureFixture[str]
) -> None:
    smell = ServedView(name="plant_smell", features={"smell": "float32"}, time_to_live=None)
    path = plant.released(5, views=(*ServedView.all_of(plant.fleet), smell))
    canary = {"canary": {"version": 5, "percent": 10}}

    async def story(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            await client.put("/v1/releases/champion", json={"version": 5}),
            await client.put("/v1/releases/traffic", json=canary),
        ]

    try:
        for said in asking(app, story):
            assert said.status_code == 409
            told = "release v5 cannot answer: view 'plant_smell' is not in the online store"
            assert told in said.json()["error"]
        promote = ["releases", "promote", "v5", "--fleet", "plant", "--stack", "local"]
        assert main(promote) == 1
        assert "release v5 cannot answer: view 'plant_smell'" in capsys.readouterr().err
    finally:
        shutil.rmtree(path)
    assert release.champion(plant.releases) == plant.releases / "v1"
    assert traffic.read(plant.releases) == Traffic()


def test_keys_are_followed_while_a_release_takes_its_time(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(plant)
    proved, looked = threading.Event(), threading.Semaphore(0)
    monkeypatch.setattr(Releases, "refresh", lambda _: proved.wait(20))
    monkeypatch.setattr(KeyRing, "look", lambda _: looked.release())

    async def story(_: httpx.AsyncClient) -> list[bool]:
        return [await asyncio.to_thread(looked.acquire, timeout=20) for _ in range(3)]

    try:
        assert asking(app, story) == [True] * 3
    finally:
        proved.set()


def test_a_pinned_service_changes_nothing(plant: Plant) -> None:
    async def story(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            await client.put("/v1/releases/champion", json={"version": 2}),
            await client.post("/v1/releases/rollback", json={"version": 3}),
            await client.put("/v1/releases/traffic", json={"shadow": [2]}),
        ]

    for said in asking(app_of(plant, plant.releases / "v3"), story):
        assert said.status_code == 409
        assert "v3 alone (--release)" in said.json()["error"]
    assert release.champion(plant.releases) == plant.releases / "v1"


def test_a_canary_has_its_share_of_machines_and_keeps_those_it_has(app: Starlette) -> None:
    machines = [f"m{number}" for number in range(1_000)]

    async def story(client: httpx.AsyncClient) -> list[set[str]]:
        taken = []
        for percent in (20, 20, 60):
            split = {"canary": {"version": 2, "percent": percent}}
            assert (await client.put("/v1/releases/traffic", json=split)).status_code == 200
            said = (await client.post("/v1/predict", json={"machines": machines})).json()
            taken.append(
                {each["machine"] for each in said["predictions"] if each["role"] == "canary"}
            )
        return taken

    first, again, more = asking(app, story)
    assert first == again
    assert first < more
    assert (len(first), len(more)) == (pytest.approx(200, abs=60), pytest.approx(600, abs=60))


def test_an_unknown_tag_is_refused_and_harms_nobody_else(plant: Plant, app: Starlette) -> None:
    async def story(client: httpx.AsyncClient) -> list[httpx.Response]:
        split = {"tags": {"tried": 2}}
        assert (await client.put("/v1/releases/traffic", json=split)).status_code == 200
        tags = ["tried", "other", None] * 10
        asked = [{"machines": ["whole"], "tag": tag} for tag in tags]
        return await asyncio.gather(*(client.post("/v1/predict", json=each) for each in asked))

    for number, said in enumerate(asking(app, story)):
        if number % 3 == 1:
            assert said.status_code == 422
            assert said.json() == {"error": "there is no tag 'other'; there are: tried"}
        else:
            version = 2 if number % 3 == 0 else 1
            assert said.json()["predictions"][0]["probability"] == probability(plant, version)


def test_what_a_shadow_predicts_is_in_the_log_alone(plant: Plant) -> None:
    traffic.write(plant.releases, Traffic(shadow=(3,), canary=Canary(version=2, percent=100)))
    began = datetime.now(UTC)

    async def story(client: httpx.AsyncClient) -> Any:
        said = await client.post("/v1/predict", json={"machines": ["whole"]})
        while '{role="shadow"' not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.02)
        return said.json()

    said = asking(app_of(plant), story)
    assert [each["version"] for each in said["releases"]] == [2]
    assert [each["role"] for each in said["predictions"]] == ["canary"]
    rows = opening.read(plant.state, "plant", began, None).to_pylist()
    found = {row["role"]: (row["release"], row["probability"]) for row in rows}
    assert found == {"canary": (2, probability(plant, 2)), "shadow": (3, probability(plant, 3))}


def test_each_key_may_do_what_its_role_says_and_the_log_has_its_name(
    plant: Plant, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    keys = {}
    for role in ("predict", "operate"):
        assert main(["keys", "add", f"of-{role}", "--role", role, "--stack", "local"]) == 0
        keys[role] = capsys.readouterr().out.strip()
    caplog.set_level(logging.INFO, "millwright")
    changes = (
        ("PUT", "/v1/releases/champion", {"version": 2}),
        ("POST", "/v1/releases/rollback", {"version": 2}),
        ("PUT", "/v1/releases/traffic", {"shadow": [4]}),
    )
    reads = (("GET", "/v1/fleet"), ("GET", "/v1/releases"), ("GET", "/v1/machines/x/predictions"))

    async def story(client: httpx.AsyncClient) -> dict[str | None, list[int]]:
        found: dict[str | None, list[int]] = {}
        for who in (None, "predict", "operate"):
            headers = {"Authorization": f"Bearer {keys[who]}"} if who else {}
            found[who] = [
                (await client.request(*each, headers=headers)).status_code for each in reads
            ] + [
                (await client.request(method, path, json=body, headers=headers)).status_code
                for method, path, body in changes
            ]
        return found

    try:
        found = asking(app_of(plant), story)
    finally:
        plant.state.keys.unlink()
        lock(plant.state.keys).unlink()
    assert found == {
        None: [401] * 6,
        "predict": [200, 200, 200, 403, 403, 403],
        "operate": [200, 200, 200, 200, 200, 409],
    }
    said = [each.getMessage() for each in caplog.records]
    asked = [line for line in said if line.startswith("of-")]
    assert asked == [
        "of-operate asks to promote v2",
        "of-operate asks to roll back from v2",
        'of-operate asks to split {"canary":null,"tags":{},"shadow":[4]}',
    ]
    became = [line for line in said if line.startswith("what of-operate asked for is ")]
    assert [line.split(" is ")[1].split(":")[0] for line in became] == ["done", "done", "refused"]
    assert not [line for line in said for key in keys.values() if key.rpartition("_")[2] in line]
