"""The servers of staging, for real: started, found again, killed, stopped; their data stay."""

import argparse
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis
import requests

from millwright.endpoints import VARIABLES, Endpoints, endpoints
from millwright.errors import ConfigurationError, MillwrightError
from millwright.services import (
    account,
    addresses,
    answers,
    command,
    mlflow_server,
    postgres,
    redis_server,
)
from millwright.services.lifecycle import down, up
from millwright.services.process import MARK, running
from millwright.services.status import Status, end_of_log, status, table
from millwright.settings import Settings, State, load_settings

UP = """
import sys
from pathlib import Path
from millwright.services.lifecycle import up
from millwright.settings import State
up(State(Path(sys.argv[1]), "staging"), print)
"""
OURS = (*VARIABLES.values(), *addresses.VARIABLES.values(), "MILLWRIGHT_HOME")


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def staging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[State, list[str]]]:
    """All three servers, and what was said while they were started."""
    state, said = State(tmp_path_factory.mktemp("all"), "staging"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        for name in OURS:
            patch.delenv(name, raising=False)
        try:
            up(state, said.append)
            yield state, said
        finally:
            down(state, said.append)


@pytest.fixture
def without_mlflow(
    staging: tuple[State, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[State]:
    """An environment of its own, whose MLflow is another's: it takes seconds to start."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", endpoints(staging[0]).mlflow)
    state = State(tmp_path, "staging")
    yield state
    down(state, print)
    assert marked(state) == []


def marked(state: State) -> list[psutil.Process]:
    """Every process that a server of `state` consists of."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(str(state.services)):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def by_name(state: State) -> dict[str, Status]:
    return {each.name: each for each in status(state)}


def process(state: State, server: str) -> psutil.Process:
    found = running(state.services / server)
    assert found is not None
    return found


def ask_postgres(url: str, question: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(question)
        rows: list[tuple[object, ...]] = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


def test_every_server_answers_where_the_endpoints_say(staging: tuple[State, list[str]]) -> None:
    state, _ = staging
    assert answers.unreachable(endpoints(state)) == {}
    for each in status(state):
        assert (each.state, each.answers, each.problem) == ("running", True, None)
        assert each.version
        assert each.pid == process(state, each.name).pid


def test_up_again_finds_them_all_running(staging: tuple[State, list[str]]) -> None:
    state, _ = staging
    before = {each.name: each.pid for each in status(state)}
    found = endpoints(state)
    said: list[str] = []
    assert up(state, said.append) == found
    assert {each.name: each.pid for each in status(state)} == before
    assert sum("runs already" in line for line in said) == 3


def test_postgres_and_redis_are_set_as_they_should(staging: tuple[State, list[str]]) -> None:
    found = endpoints(staging[0])
    wanted = {
        "timezone": "UTC", "server_encoding": "UTF8", "data_checksums": "on", "jit": "off",
        "listen_addresses": "127.0.0.1", "work_mem": "64MB",
    }  # fmt: skip
    for name, value in wanted.items():
        assert ask_postgres(found.postgres, f"SHOW {name}") == [(value,)]
    with redis.Redis.from_url(found.redis) as client:
        for name, value in {"appendonly": "yes", "hash-max-ziplist-entries": "512"}.items():
            assert client.config_get(name) == {name: value}


def test_mlflow_has_its_tables_in_its_schema_and_serves_artifacts(
    staging: tuple[State, list[str]],
) -> None:
    found = endpoints(staging[0])
    said = requests.get(
        f"{found.mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=30
    ).json()
    assert said["experiment"]["artifact_location"].startswith("mlflow-artifacts:/")
    counts = "SELECT count(*) FROM pg_tables WHERE schemaname = '{}'"
    assert ask_postgres(found.postgres, counts.format("mlflow"))[0][0] != 0
    assert ask_postgres(found.postgres, counts.format("public")) == [(0,)]
    schemas = {row[0] for row in ask_postgres(found.postgres, "SELECT nspname FROM pg_namespace")}
    assert "feast_registry" in schemas


def test_no_password_is_shown_anywhere(staging: tuple[State, list[str]]) -> None:
    state, said = staging
    kept = json.loads((state.services / "addresses.json").read_text())["passwords"]
    assert set(kept) == {"postgres", "redis"}
    secrets = kept.values()
    with pytest.raises(psycopg2.OperationalError):  # which PostgreSQL writes into its log
        psycopg2.connect(endpoints(state).postgres.replace(kept["postgres"], "wrong"))
    shown = ["\n".join(said), "\n".join(table(status(state)).values()), repr(endpoints(state))]
    for each in psutil.process_iter():
        try:
            shown.append(" ".join(each.cmdline()))
        except psutil.Error:
            continue
    for server in VARIABLES:
        shown += [(state.services / server / "log").read_text(), end_of_log(state, server, 99)]
    for text in shown:
        assert not any(secret in text for secret in secrets)
    assert state.services.stat().st_mode & 0o777 == 0o700
    for file in (state.endpoints, state.services / "addresses.json"):
        assert file.stat().st_mode & 0o777 == 0o600
    assert (state.services / "redis" / "redis.conf").stat().st_mode & 0o777 == 0o600


def test_a_server_does_not_tell_its_secrets(tmp_path: Path) -> None:
    made = [
        postgres.server(tmp_path, 1, "s3cret", print),
        redis_server.server(tmp_path, 1, "s3cret"),
        mlflow_server.server(tmp_path, 1, "postgresql://me:s3cret@host/db", tmp_path),
    ]
    assert "s3cret" not in repr(made)


def test_servers_that_variables_name_are_used_and_none_is_started(
    without_mlflow: State, postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", postgres_url)
    monkeypatch.setenv("MILLWRIGHT_REDIS_URL", redis_url)
    said: list[str] = []
    found = up(without_mlflow, said.append, may_start=False)
    assert (found.postgres, found.redis) == (postgres_url, redis_url)
    assert marked(without_mlflow) == []
    assert [line for line in said if "elsewhere" in line] == said
    assert {each.state for each in status(without_mlflow)} == {"elsewhere"}
    rows = ask_postgres(postgres_url, "SELECT 1 FROM pg_namespace WHERE nspname = 'feast_registry'")
    assert rows == [(1,)]


def test_nothing_is_started_where_a_named_server_does_not_answer_or_servers_are_yours(
    without_mlflow: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match=r"postgres and redis.*MILLWRIGHT_POSTGRES_URL="):
        up(without_mlflow, print, may_start=False)
    monkeypatch.setenv("MILLWRIGHT_REDIS_URL", "redis://:hidden@127.0.0.1:1/0")
    with pytest.raises(MillwrightError, match=r"redis at redis://:\*\*\*@127.0.0.1:1/0") as caught:
        up(without_mlflow, print)
    assert "hidden" not in str(caught.value)
    assert not without_mlflow.services.exists()


def test_data_and_urls_outlive_servers_that_stop_and_that_are_killed(without_mlflow: State) -> None:
    state = without_mlflow
    first = up(state, print)
    ask_postgres(first.postgres, "CREATE TABLE kept AS SELECT 7 AS number")
    with redis.Redis.from_url(first.redis) as client:
        client.set("kept", "7")

    for server in ("postgres", "redis"):
        killed = process(state, server)
        killed.kill()
        killed.wait()
    found = by_name(state)
    assert (found["postgres"].state, found["redis"].state) == ("stopped", "stopped")
    assert not found["postgres"].answers
    # The number of a server that died is soon another program's.
    lock = state.services / "postgres" / "data" / "postmaster.pid"
    lock.write_text("\n".join([str(os.getpid()), *lock.read_text().splitlines()[1:]]) + "\n")
    for begin in (lambda: None, lambda: down(state, print)):
        begin()
        assert up(state, print) == first
        assert ask_postgres(first.postgres, "SELECT number FROM kept") == [(7,)]
        with redis.Redis.from_url(first.redis) as client:
            assert client.get("kept") == b"7"


def test_down_stops_what_was_started_and_nothing_else(
    without_mlflow: State, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = State(tmp_path_factory.mktemp("beside"), "staging")
    try:
        ours, theirs = up(without_mlflow, print), up(other, print)
        assert ours.postgres != theirs.postgres
        assert ours.redis != theirs.redis
        said: list[str] = []
        for _ in range(2):
            down(without_mlflow, said.append)
        assert sum("stopped" in line for line in said) == 2
        assert [each.answers for each in status(without_mlflow)] == [False, False, True]
        assert [each.answers for each in status(other)] == [True, True, True]
    finally:
        down(other, print)


def test_up_goes_on_from_wherever_another_was_killed(without_mlflow: State) -> None:
    state = without_mlflow
    for seconds in (0.3, 0.5, 0.7, 0.9, 1.1, 1.4):
        with subprocess.Popen(
            [sys.executable, "-c", UP, str(state.home)], stdout=subprocess.DEVNULL
        ) as killed:
            time.sleep(seconds)
            killed.kill()
        if seconds == 0.9:  # as if it had been killed before it could write the record
            (state.services / "redis" / "process.json").unlink(missing_ok=True)
            (state.services / "postgres" / "process.json").unlink(missing_ok=True)
    found = up(state, print)
    assert answers.unreachable(found) == {}
    top = {each.pid for each in marked(state) if each.ppid() not in map(_pid, marked(state))}
    assert top == {process(state, "postgres").pid, process(state, "redis").pid}


def _pid(each: psutil.Process) -> int:
    return int(each.pid)


def test_two_at_once_start_one_server_of_each_kind(without_mlflow: State) -> None:
    words = [sys.executable, "-c", UP, str(without_mlflow.home)]
    with subprocess.Popen(words) as one, subprocess.Popen(words) as another:
        assert (one.wait(), another.wait()) == (0, 0)
    assert answers.unreachable(endpoints(without_mlflow)) == {}
    found = [each for each in marked(without_mlflow) if "postgres:" not in each.cmdline()[0]]
    assert len(found) == 2


def test_a_port_that_is_taken_is_told_or_replaced(
    without_mlflow: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = up(without_mlflow, print)
    down(without_mlflow, print)
    port = int(first.redis.rpartition(":")[2].partition("/")[0])
    with socket.create_server(("127.0.0.1", port)):
        monkeypatch.setenv("MILLWRIGHT_REDIS_PORT", str(port))
        with pytest.raises(ConfigurationError, match=rf"port {port}.*process {os.getpid()}"):
            up(without_mlflow, print)
        monkeypatch.delenv("MILLWRIGHT_REDIS_PORT")
        said: list[str] = []
        second = up(without_mlflow, said.append)
    assert f"redis: port {port} is taken now by" in "\n".join(said)
    assert second.redis != first.redis
    assert second.postgres == first.postgres
    assert endpoints(without_mlflow) == second
    monkeypatch.setenv("MILLWRIGHT_REDIS_PORT", str(port))  # free again: it moves there
    assert up(without_mlflow, print) == first


def test_whoever_needs_servers_learns_within_seconds_which_does_not_answer(
    without_mlflow: State,
) -> None:
    found = up(without_mlflow, print)
    stopped = [process(without_mlflow, name) for name in ("postgres", "redis")]
    for each in stopped:
        each.send_signal(signal.SIGSTOP)
    since = time.monotonic()
    with pytest.raises(MillwrightError, match=r"postgres at .*; redis at .*services up --stack st"):
        answers.check(found, without_mlflow, seconds=2)
    assert time.monotonic() - since < 5
    theirs = dataclasses.replace(found, redis="redis://:secret@127.0.0.1:1/0")
    ways = r"services up --stack staging; mend what MILLWRIGHT_REDIS_URL names"
    with pytest.raises(MillwrightError, match=ways):
        answers.check(theirs, without_mlflow, seconds=2)
    for each in stopped:
        each.send_signal(signal.SIGCONT)
    wrong = Endpoints(
        found.postgres.replace("millwright:", "millwright:x"),
        found.redis.replace("redis://:", "redis://:x"),
        "http://127.0.0.1:1",
    )
    problems = answers.unreachable(wrong)
    assert problems["postgres"].startswith("refuses the user or password")
    assert problems["redis"].startswith("refuses the user or password")
    assert "does not run there" in problems["mlflow"]


def test_root_can_do_without_a_user_namespace(
    without_mlflow: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        state = State(Path(home), "staging")
        try:
            with monkeypatch.context() as patch:
                patch.setattr(account.shutil, "which", lambda _: None)
                ask_postgres(up(state, print).postgres, "CREATE TABLE kept AS SELECT 7 AS number")
                down(state, print)
            found = up(state, print)  # with a namespace again, if there can be one
            assert ask_postgres(found.postgres, "SELECT number FROM kept") == [(7,)]
        finally:
            down(state, print)


def verb(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(required=True))
    return parser.parse_args(["services", *words])


def run(*words: str) -> int:
    asked = verb(*words)
    return int(asked.do(asked))


def test_the_verb_tells_the_status_and_shows_logs(
    staging: tuple[State, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def settings(name: str) -> Settings:
        return load_settings().model_copy(update={"servers": "here", "environment": name})

    monkeypatch.setattr(command, "load_settings", settings)
    monkeypatch.setenv("MILLWRIGHT_HOME", str(staging[0].home))
    assert run("status", "--json", str(tmp_path / "found.json")) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["environment"] == "staging"
    assert {each["state"] for each in found["servers"].values()} == {"running"}
    assert capsys.readouterr().out.count("running, ") == 3
    assert run("logs", "postgres", "--lines", "3") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert run("logs") == 0
    assert str(staging[0].services / "redis" / "log") in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="did you mean 'postgres'"):
        run("logs", "postgre")
    monkeypatch.setenv("MILLWRIGHT_HOME", str(tmp_path))
    assert run("status") == 1


def test_the_local_environment_has_no_servers() -> None:
    with pytest.raises(ConfigurationError, match="'local' has no servers") as caught:
        run("up", "--stack", "local")
    assert caught.value.exit_code == 2
