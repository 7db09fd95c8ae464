"""What the servers of staging are given, and what is believed of what was written down."""

import json
import os
from pathlib import Path

import psutil
import pytest
from sqlalchemy import make_url

from millwright.errors import ConfigurationError
from millwright.services.addresses import FILE, RANGE, Addresses, configured_port
from millwright.services.answers import clean
from millwright.services.mlflow_server import in_schema
from millwright.services.process import last_lines, running

VARIABLES = ("MILLWRIGHT_POSTGRES_PORT", "MILLWRIGHT_REDIS_PORT", "MILLWRIGHT_MLFLOW_PORT")


@pytest.fixture(autouse=True)
def _no_port_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def record(folder: Path, **changes: object) -> None:
    """A record of this very process, but for `changes`."""
    mine = psutil.Process()
    facts = {"pid": mine.pid, "created": mine.create_time(), "executables": [mine.exe()]}
    (folder / "process.json").write_text(json.dumps({**facts, **changes}))


def test_a_recorded_process_is_found(tmp_path: Path) -> None:
    record(tmp_path)
    found = running(tmp_path)
    assert found is not None
    assert found.pid == os.getpid()


@pytest.mark.parametrize(
    "changes",
    [{"created": 1.0}, {"executables": ["/bin/other"]}, {"pid": 2**22 + 1}, {"pid": None}],
)
def test_another_process_with_the_same_number_is_not(
    changes: dict[str, object], tmp_path: Path
) -> None:
    record(tmp_path, **changes)
    assert running(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_record_that_says_nothing_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "process.json").write_text(text)
    assert running(tmp_path) is None


def test_ports_and_passwords_stay_the_same(tmp_path: Path) -> None:
    first, said = Addresses(tmp_path, print), list[str]()
    ports = {name: first.port(name) for name in ("postgres", "redis", "mlflow")}
    assert len(set(ports.values())) == 3
    assert set(ports.values()) <= set(RANGE)
    again = Addresses(tmp_path, said.append)
    assert {name: again.port(name) for name in ports} == ports
    assert first.password("redis") == Addresses(tmp_path, print).password("redis")
    assert said == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"ports": {"redis": "x"}, "passwords": {}}'])
def test_a_file_of_ports_that_says_nothing_is_made_anew(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    port = Addresses(tmp_path, print).port("redis")
    assert Addresses(tmp_path, print).wanted("redis") == port


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1", "5432.0"])
def test_what_is_no_port_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLWRIGHT_REDIS_PORT", text)
    with pytest.raises(ConfigurationError, match=f"MILLWRIGHT_REDIS_PORT is '{text}'"):
        configured_port("redis")


def test_one_port_is_not_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLWRIGHT_REDIS_PORT", "6000")
    monkeypatch.setenv("MILLWRIGHT_MLFLOW_PORT", "6000")
    with pytest.raises(ConfigurationError, match="are both 6000"):
        configured_port("redis")


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ("postgresql://me:p%40ss@host/db", "-csearch_path=mlflow"),
        ("postgresql://me@host/db?options=-cjit%3Doff", "-cjit=off -csearch_path=mlflow"),
        ("postgresql://me@host/db?sslmode=require", "-csearch_path=mlflow"),
    ],
)
def test_mlflow_works_in_a_schema_of_its_own(given: str, options: str) -> None:
    before, after = make_url(given), make_url(in_schema(given))
    assert after.query["options"] == options
    assert after.difference_update_query(["options"]) == before.difference_update_query(["options"])


def test_the_end_of_a_log_has_no_secrets(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number} of hidden\n" for number in range(99)))
    assert last_lines(log, 2, ["hidden"]) == "line 97 of ***\nline 98 of ***"
    assert last_lines(tmp_path / "none") == ""


@pytest.mark.parametrize("url", ["redis://:hid%2Fden@host/0", "redis://:hid/den@[host/0"])
def test_what_a_library_says_is_told_without_the_password(url: str) -> None:
    told = clean(f"invalid dsn {url} with hid/den " + "x" * 999, url)
    assert "den" not in told
    assert len(told) < 300
