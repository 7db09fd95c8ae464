"""The prediction service over Redis, which freezes, dies and comes back while it is asked."""

import time
from collections.abc import Iterator

import httpx
import pytest
from redis_outages import Redis
from servers import database, redis_server
from service_plant import (
    MACHINES,
    TELEMETRY,
    UNNEEDED,
    Plant,
    Server,
    expected,
    new_plant,
    serving,
)

from millwright import feast_store, release
from millwright.services import schemas

# The second where the machine has so much to do that the deadline comes first.
UNREADABLE = (
    {"error": "features cannot be read now; /ready says why"},
    {"error": "no answer within 0.4 s; ask again"},
)


@pytest.fixture(scope="module")
def store() -> Iterator[Redis]:
    with redis_server() as url:
        found = Redis(url)
        yield found
        found.end()


@pytest.fixture(scope="module")
def plant(postgres: str, store: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with database(postgres) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLWRIGHT_POSTGRES_URL", url)
        patch.setenv("MILLWRIGHT_REDIS_URL", store.url)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        found = new_plant(tmp_path_factory.mktemp("plant"), patch, "staging")
        schemas.create(url, [feast_store.REGISTRY_SCHEMA])
        feast_store.apply(found.state)
        found.write_online(MACHINES)
        release.set_champion(found.releases, found.released(1))
        yield found


@pytest.fixture(scope="module")
def shared(plant: Plant) -> Iterator[Server]:
    with serving(plant) as server:
        yield server


@pytest.fixture
def server(plant: Plant, shared: Server) -> Server:
    """The service of all tests; it answers what is right before each."""
    said = answered(shared).json()["predictions"]
    assert [each["status"] for each in said] == ["ok", "unknown", "stale"]
    assert said[0]["probability"] == expected(plant, 1, *TELEMETRY, "machine_attributes")
    return shared


def ask(server: Server) -> httpx.Response:
    """An answer that comes within a second, whichever it is."""
    with httpx.Client(base_url=server.url, timeout=1, trust_env=False) as client:
        return client.post("/v1/predict", json={"machines": ["whole", "nobody", "silent"]})


def ready(server: Server) -> httpx.Response:
    with httpx.Client(base_url=server.url, timeout=1, trust_env=False) as client:
        return client.get("/ready")


def answered(server: Server) -> httpx.Response:
    """The first answer that is one."""
    end = time.monotonic() + 20
    while (said := ask(server)).status_code != 200:
        assert time.monotonic() < end, said.text
        time.sleep(0.05)
    return said


def test_a_service_on_redis_has_imported_neither_feast_nor_zenml_nor_mlflow(
    server: Server,
) -> None:
    assert ready(server).json()["ready"]
    assert "redis" in server.imported
    assert not UNNEEDED & server.imported


def test_a_frozen_redis_is_told_in_time_and_is_asked_again_afterwards(
    store: Redis, server: Server
) -> None:
    with store.frozen():
        for _ in range(3):
            said, unready = ask(server), ready(server)
            assert said.status_code == 503
            assert said.json() in UNREADABLE
            assert said.headers["retry-after"] == "1"
            assert unready.status_code == 503
            assert "not answer" in unready.json()["reason"]
            assert server.get("/health").status_code == 200
    assert answered(server).status_code == 200
    assert ready(server).status_code == 200


def test_a_dead_redis_is_told_in_time_and_without_its_password(
    store: Redis, server: Server
) -> None:
    password = store.url.split(":")[2].partition("@")[0]
    store.kill()
    try:
        for _ in range(3):
            said, unready = ask(server), ready(server)
            assert said.status_code == 503
            assert said.json() in UNREADABLE
            assert unready.status_code == 503
            assert "cannot be reached" in unready.json()["reason"]
            assert password not in unready.text
    finally:
        store.start()
    answered(server)
    assert password not in "".join(server.lines)
