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
    mlflow_uri,
    named,
    started_here,
    usual_mlflow,
    with_parameters,
    without_password,
    without_secrets,
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
        ("postgresql://me:hidden", "postgresql://me:***"),
        ("postgresql://host/db?password=hid@den", "postgresql://***"),
        ("https://host:5000", "https://host:5000"),
        ("https://hidden@host/x", "https://***@host/x"),
        ("https://hidden:@host/x", "https://***@host/x"),
        ("https://host/x?access_token=hidden&y=1", "https://host/x?access_token=***&y=1"),
        ("hidden@host", "***@host"),
        ("host=db password=hid@den", "***"),
        ("host:5000", "host:5000"),
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


SPECIAL = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=6)


@given(password=SPECIAL.filter(lambda text: len(set(text)) > 4), escaped=st.booleans())
def test_what_a_library_says_of_a_url_is_told_without_its_password(
    password: str, escaped: bool
) -> None:
    url = f"postgresql://me:{quote(password, safe='') if escaped else password}@host/db"
    for said in (url, password, quote(password, safe="")):
        assert password not in without_secrets(f'invalid: "{said}"', url)


def test_the_pieces_that_a_malformed_url_falls_into_are_not_told() -> None:
    url = "postgresql://me:hid/den@place@host/db"
    said = without_secrets('invalid port "hid"; no host "place@host"', url)
    assert said == 'invalid port "***"; no host "***@host"'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at redis://:s3cret@host:6379/0, twice", "at redis://:***@host:6379/0, twice"),
        ("no http://host:5000: refused", "no http://host:5000: refused"),
        ("host=db password='my s3cret' user=me", "host=db password=*** user=me"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_urls_in_a_text_are_told_without_their_passwords(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize("login", ["me:hidden", "hidden"])
def test_a_login_in_the_url_of_mlflow_is_refused_since_it_would_be_kept(
    login: str, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(state)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://{login}@host:5000")
    for ask in (endpoints, mlflow_uri, lambda state: named("mlflow", state)):
        with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_PASSWORD") as caught:
            ask(state)
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "complete"),
    [
        ("postgresql://me@h/d", "postgresql://me@h/d?a=1&options=-c%20jit%3Doff"),
        ("postgresql:///d?a=2+3", "postgresql:///d?a=2%2B3&options=-c%20jit%3Doff"),
        (
            "postgresql://h/d?options=-c%20role%3Dx",
            "postgresql://h/d?a=1&options=-c%20role%3Dx%20-c%20jit%3Doff",
        ),
    ],
)
def test_what_a_url_says_of_the_connection_stays(url: str, complete: str) -> None:
    assert with_parameters(url, "-c jit=off", {"a": "1"}) == complete


def test_endpoints_do_not_tell_their_passwords() -> None:
    shown = repr(Endpoints(**STARTED))
    assert "one" not in shown
    assert "two" not in shown
    assert "127.0.0.1:20002" in shown
