"""What `feature_store.yaml` of an environment is told of the servers."""

from pathlib import Path

import pytest
from feast.repo_config import load_repo_config
from sqlalchemy import make_url

from millwright import feast_store
from millwright.errors import ConfigurationError
from millwright.settings import State
from millwright.stores.postgres_request import server_of

POSTGRES = "postgresql://me:p%40ss@db.test:5433/plant"
TLS = "sslmode=verify-full&sslrootcert=/tls/ca.pem&sslcert=/tls/me.pem&sslkey=/tls/me.key"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", POSTGRES)
    monkeypatch.setenv("MILLWRIGHT_REDIS_URL", "redis://:hidden@cache.test:6379/0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.test")
    return State(tmp_path, "staging")


def config(state: State, monkeypatch: pytest.MonkeyPatch, query: str):
    monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", f"{POSTGRES}?{query}")
    for name, value in feast_store.variables(state).items():
        monkeypatch.setenv(name, value)
    return load_repo_config(feast_store.FEATURE_REPO, feast_store.configuration(state))


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_tls_reaches_the_offline_store_and_the_registry(
    environment: str, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = config(State(state.home, environment), monkeypatch, TLS)
    wanted = dict(pair.split("=") for pair in TLS.split("&"))
    server = server_of(found)
    assert dict(server.more) == wanted
    assert (server.host, server.port, server.database) == ("db.test", 5433, "plant")
    assert (server.user, server.password) == ("me", "p@ss")
    assert wanted.items() <= dict(make_url(found.registry.path).query).items()


def test_what_a_url_does_not_say_of_tls_is_left_to_the_driver(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = config(state, monkeypatch, "sslrootcert=&sslkey=")
    assert server_of(found).more == (("sslmode", "prefer"),)


def test_options_of_the_url_stand_before_ours(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = config(state, monkeypatch, "options=-c%20role%3Dwriter")
    options = make_url(found.registry.path).query["options"]
    assert options == "-c role=writer -csearch_path=feast_registry -ctimezone=UTC"


def test_a_url_that_cannot_be_read_is_named_without_its_password(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", "postgresql://me:hid/den@host/db")
    with pytest.raises(ConfigurationError, match=r"me:\*\*\*@host/db.*%XX") as caught:
        feast_store.variables(state)
    assert "hid" not in str(caught.value)
