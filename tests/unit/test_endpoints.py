"""Where servers are reached: what variables name goes before what is started here."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millwright.endpoints import (
    EXAMPLES,
    VARIABLES,
    Endpoints,
    endpoints,
    named,
    started_here,
    usual_mlflow,
    without_password,
)
from millwright.errors import ConfigurationError
from millwright.settings import State

STARTED = {
    "postgres": "postgresql://millwright:one@127.0.0.1:20001/millwright",
    "redis": "redis://:two@127.0.0.1:20002/0",
    "mlflow": "http://127.0.0.1:20003",
}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """An environment for which nothing is named or started."""
    for name in VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    return State(tmp_path, "staging")


def start(state: State, text: str = json.dumps(STARTED)) -> None:
    state.services.mkdir(parents=True)
    state.endpoints.write_text(text, encoding="utf-8")


def test_what_is_started_here_is_used(state: State) -> None:
    start(state)
    assert endpoints(state) == Endpoints(**STARTED)


@pytest.mark.parametrize("server", VARIABLES)
def test_what_a_variable_names_goes_first(
    server: str, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(state)
    monkeypatch.setenv(VARIABLES[server], EXAMPLES[server])
    assert vars(endpoints(state)) == {**STARTED, server: EXAMPLES[server]}


@pytest.mark.parametrize("server", VARIABLES)
def test_a_server_that_nobody_names_is_an_error_with_both_ways_out(
    server: str, state: State
) -> None:
    start(state, json.dumps({k: v for k, v in STARTED.items() if k != server}))
    with pytest.raises(ConfigurationError, match=f"needs {server}") as caught:
        endpoints(state)
    assert "services up --stack staging" in str(caught.value)
    assert f"export {VARIABLES[server]}=" in str(caught.value)


def test_a_url_of_another_kind_is_refused_without_its_password(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", "mysql://me:hidden@host/database")
    with pytest.raises(ConfigurationError, match=r"mysql://me:\*\*\*@host") as caught:
        named("postgres", state)
    assert "hidden" not in str(caught.value)


def test_the_local_mlflow_that_an_activated_environment_exports_names_no_server(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in usual_mlflow(state):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert named("mlflow", state) is None


@pytest.mark.parametrize("text", ["{", "[1]", '{"postgres": 1}'])
def test_a_file_that_says_nothing_is_named_with_the_way_to_make_it_anew(
    text: str, state: State
) -> None:
    start(state, text)
    with pytest.raises(ConfigurationError, match=r"endpoints.json cannot be read.*services up"):
        started_here(state)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:hidden@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("redis://:hidden@[::1]:6379/0", "redis://:***@[::1]:6379/0"),
        ("postgresql://me:hid/d@en@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:hidden@[host/db", "postgresql://me:***@[host/db"),
        ("postgresql://host/db?user=me&password=hidden", "postgresql://host/db?user=me&password=***"),
        ("https://host:5000", "https://host:5000"),
        ("sqlite:////folder/mlflow.db", "sqlite:////folder/mlflow.db"),
        ("mlruns", "mlruns"),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@given(password=st.text(min_size=1), escaped=st.booleans())
def test_no_password_is_ever_shown(password: str, escaped: bool) -> None:
    """Whatever stands between the user and the host, escaped or not."""
    written = quote(password, safe="") if escaped else password
    assert without_password(f"redis://user:{written}@host:1/0") == "redis://user:***@host:1/0"


def test_endpoints_do_not_tell_their_passwords() -> None:
    shown = repr(Endpoints(**STARTED))
    assert "one" not in shown
    assert "two" not in shown
    assert "127.0.0.1:20002" in shown
