"""The prediction log in a real PostgreSQL: the same rows as in files, each exactly once."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import psycopg2
import pyarrow as pa
import pytest
from killed_log import COMMITTED, LAST
from scored import START, scored

from millwright.prediction_log import opening, postgres_sink
from millwright.prediction_log.history import Selection
from millwright.prediction_log.log import PredictionLog
from millwright.prediction_log.records import Outcome
from millwright.settings import State, load_settings

FLEET = "plant"
Open = Callable[[State], PredictionLog]
MOMENT = datetime.fromtimestamp(START / 1e6, UTC)


@pytest.fixture
def staging(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", postgres_url)
    return State(tmp_path, "staging")


@pytest.fixture
def open_log() -> Iterator[Callable[[State], PredictionLog]]:
    """Opens logs, which are closed after the test."""
    opened = []

    def begin(state: State) -> PredictionLog:
        opened.append(opening.open_log(state, FLEET))
        return opened[-1]

    yield begin
    for log in opened:
        log.close(20)


def worked(log: PredictionLog) -> None:
    assert log._drain.work(), log.status().fault


def ids(state: State) -> list[str]:
    found: list[str] = opening.read(state, FLEET, None, None)["prediction_id"].to_pylist()
    return found


def of(*numbers: int) -> list[str]:
    return [id_ for number in numbers for id_ in scored(number).ids]


def asked(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        found: list[tuple[Any, ...]] = cursor.fetchall()
    connection.close()
    return found


def strange(number: int) -> Any:
    """A batch with all that is hard to keep."""
    return scored(
        number, rows=3, columns=3, views=1, release=2, role="canary",
        machines=["m1", "b\0", "ü'\\\""], statuses=["ok", "degraded", "unknown"],
        probabilities=np.array([1.0, 0.1 + 0.2, np.nan]),
        matrix=np.array([[np.inf, -np.inf, np.nan], [1e-45, 3.4e38, -0.0], [np.nan] * 3], "f4"),
    )  # fmt: skip


def test_both_places_give_equal_tables(staging: State, open_log: Open) -> None:
    local = State(staging.home, "local")
    outcomes = [
        Outcome("m1", START + 7_000_000, failed=True, component="c1", note="it's\\ gone"),
        Outcome("m2", START + 90_000_000_000, failed=False, prediction=of(1)[2]),
    ]
    for state in (local, staging):
        log = open_log(state)
        for number in range(6):
            log.append(strange(number) if number % 3 == 2 else scored(number))
            worked(log)
        log.append(scored(9, latency=np.zeros(1)))
        worked(log)

    # Reported once, so that both know the same time of it.
    for outcome in outcomes:
        for state in (local, staging):
            log = open_log(state)
            log.report([outcome])
            worked(log)

    since, until = MOMENT + timedelta(seconds=1), MOMENT + timedelta(seconds=5)
    horizon = timedelta(hours=1)
    for ask in (
        lambda state: opening.read(state, FLEET, None, None),
        lambda state: opening.read(state, FLEET, since, until),
        lambda state: opening.read(state, FLEET, None, None, release=2),
        lambda state: opening.read(state, FLEET, None, None, release=7),
        lambda state: opening.recent(state, FLEET, "m1", 4),
        lambda state: opening.recent(state, FLEET, "ü'\\\"", 4),
        lambda state: opening.count(state, FLEET),
        lambda state: opening.count(state, FLEET, since, until, "m1"),
        lambda state: opening.joined(state, FLEET, since, None, horizon),
        lambda state: opening.open_history(state, FLEET).outcomes().drop(["reported_at"]),
        lambda state: opening.open_history(state, FLEET).losses(Selection()).drop(["at"]),
    ):
        here, there = ask(local), ask(staging)
        assert len(here) == len(there)
        if isinstance(here, pa.Table):
            assert here.schema.equals(there.schema)
            assert here.to_pylist() == there.to_pylist()
            for name in here.column_names:
                assert here[name].null_count == there[name].null_count
        else:
            assert here == there
    assert len(opening.read(staging, FLEET, None, None)) == 18
    assert opening.joined(staging, FLEET, None, None, horizon)["label"].null_count < 18


@pytest.mark.parametrize("environment", ["local", "staging"])
def test_predictions_go_when_they_are_older_than_they_are_to_be_kept(
    staging: State, open_log: Open, monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    state = State(staging.home, environment)
    settings = load_settings(environment)
    serving = settings.serving.model_copy(update={"keep_days": 30})
    kept = settings.model_copy(update={"serving": serving})
    log = open_log(state)
    for number in range(3):
        log.append(scored(number))
    worked(log)
    assert ids(state) == of(0, 1, 2)

    monkeypatch.setattr(opening, "load_settings", lambda _: kept)
    monkeypatch.setattr(postgres_sink, "AT_ONCE", 5)  # fewer than are too old
    now = datetime.now(UTC)
    log = open_log(state)
    for number, days in ((3, 29.9), (4, 30.1)):
        asked = round((now - timedelta(days=days)).timestamp() * 1e6)
        log.append(scored(number, asked_at=np.full(3, asked)))
        worked(log)
    for _ in range(2):
        worked(log)
    assert ids(state) == of(3)


def test_a_segment_whose_process_died_after_its_commit_is_not_taken_twice(
    staging: State, postgres_url: str, open_log: Open
) -> None:
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests.parent), str(tests)])
    words = [str(tests / "killed_log.py"), str(staging.journals(FLEET)), COMMITTED, postgres_url]
    done = subprocess.run(
        [sys.executable, *words], env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    given = [int(line) for line in done.stdout.split()]
    assert given == list(range(LAST + 1))
    log = open_log(staging)
    for number in (7, 8):
        log.append(scored(number))
        worked(log)
    assert ids(staging) == of(*given, 7, 8)
    ((left,),) = asked(postgres_url, f"SELECT count(*) FROM predictions_{FLEET}.segments")
    assert left == 1  # the last, until the next tells that it is gone
    assert list(staging.journals(FLEET).iterdir()) == []


def test_a_connection_that_breaks_in_the_middle_leaves_nothing_half_done(
    staging: State, postgres_url: str, open_log: Open
) -> None:
    log = open_log(staging)
    log.append(scored(1))
    worked(log)
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert asked(postgres_url, end) == [(True,)]
    log.append(scored(2))
    assert not log._drain.work()
    assert log.status().waiting == 3
    assert "cannot write the prediction log in postgresql://" in str(log.status().fault)
    worked(log)
    assert ids(staging) == of(1, 2)


@contextlib.contextmanager
def relay(port: int, path: str) -> Iterator[None]:
    """A TCP port that leads to the socket of a server; all connections must end in the block."""

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def lead(near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(path)
            back = threading.Thread(target=pass_on, args=(far, near))
            back.start()
            pass_on(near, far)
            back.join()

    with socket.create_server(("127.0.0.1", port)) as listening, ThreadPoolExecutor() as leading:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    leading.submit(lead, listening.accept()[0])

        leading.submit(accept)
        yield
        listening.shutdown(socket.SHUT_RDWR)


def test_answers_wait_while_the_server_is_away_and_go_there_when_it_is_back(
    staging: State, postgres_url: str, open_log: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MILLWRIGHT_POSTGRES_URL")
    log = open_log(staging)
    log.append(scored(1))
    assert not log._drain.work()
    assert "needs postgres, and no URL of it is known" in str(log.status().fault)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    place, _, folder = unquote(postgres_url).partition("?host=")
    database = place.rpartition("/")[2]
    url = f"postgresql://postgres:secret@127.0.0.1:{port}/{database}"
    monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", url)
    log.append(scored(2))
    assert not log._drain.work()
    fault = str(log.status().fault)
    assert "refused" in fault
    assert "secret" not in fault
    assert (log.status().waiting, log.status().lost) == (6, 0)
    with relay(port, f"{folder}/.s.PGSQL.5432"):
        log.append(scored(3))
        worked(log)
        log.close(1)
    assert log.status().fault is None
    monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", postgres_url)
    assert ids(staging) == of(1, 2, 3)


def test_a_server_that_does_not_answer_keeps_no_service_waiting(
    staging: State, open_log: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        url = f"postgresql://postgres@127.0.0.1:{frozen.getsockname()[1]}/plant"
        monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", url)
        log = open_log(staging)
        log.start()
        log.append(scored(0))
        near, _ = frozen.accept()
        with near:
            for number in range(1, 50):
                log.append(scored(number))
            found = log.status()
            assert (found.appended, found.waiting, found.lost) == (150, 150, 0)
            log.close(0.01)
        frozen.close()
        log.close(20)
    assert log.status().waiting == 150


def test_two_services_may_begin_at_once(staging: State, open_log: Open) -> None:
    logs = [open_log(staging) for _ in range(3)]
    for number, log in enumerate(logs):
        log.append(scored(number))
        log.start()
    for log in logs:
        log.close(20)
    assert ids(staging) == of(0, 1, 2)


def test_the_last_word_on_a_machine_stays_in_whatever_order_it_comes(
    staging: State, open_log: Open
) -> None:
    early, late = open_log(staging), open_log(staging)
    early.report([Outcome("m1", 5, failed=False)])
    late.report([Outcome("m1", 5, failed=True), Outcome("m1", 6, failed=False)])
    worked(late)
    worked(early)
    found = opening.open_history(staging, FLEET).outcomes().to_pylist()
    assert [row["failed"] for row in found] == [True, False]


def test_the_history_of_a_machine_is_found_by_an_index(
    staging: State, postgres_url: str, open_log: Open
) -> None:
    log = open_log(staging)
    for number in range(20):
        log.append(scored(number, rows=200))
    worked(log)
    asked(postgres_url, f"ANALYZE predictions_{FLEET}.predictions; SELECT 1")
    plan = asked(
        postgres_url,
        f"EXPLAIN SELECT * FROM predictions_{FLEET}.predictions WHERE machine_id = 'm1' "
        'ORDER BY asked_at DESC, prediction_id COLLATE "C" DESC LIMIT 5',
    )
    assert any("predictions_machine" in line for (line,) in plan)


def test_where_nothing_was_logged_everything_is_empty(staging: State, open_log: Open) -> None:
    assert len(opening.read(staging, FLEET, None, None)) == 0
    assert opening.recent(staging, FLEET, "m1", 5) == []
    assert len(opening.count(staging, FLEET)) == 0
    assert len(opening.joined(staging, FLEET, None, None, timedelta(hours=1))) == 0
