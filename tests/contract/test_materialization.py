"""Materialization: the newest known row of every machine gets online, whatever happens."""

import multiprocessing
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from feast import FeatureStore, FeatureView, Field, FileSource
from feast.cli.cli import cli
from feast.feature_view import FeatureViewState
from feast.types import Float64
from hypothesis import given, settings
from hypothesis import strategies as st
from online_repository import (
    HOUR,
    START,
    TICK,
    definitions,
    materialize_elsewhere,
    new_store,
    read_rows,
    write_offline,
    write_online,
)
from oracle import Row, answer

from millwright.errors import DataError, InputError, MillwrightError
from millwright.materialization import Materialized, materialize
from millwright.online import compare
from millwright.stores import online_load
from millwright.stores.asof import AsofDuckDBOfflineStore
from millwright.stores.online_sqlite import OrderedSqliteOnlineStore
from millwright.stores.provider import RefusedWindowError, check_window

NOW = START + 10 * HOUR
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
PRELOADED = [
    "millwright.materialization",
    "millwright.stores.asof",
    "millwright.stores.online_redis",
    "millwright.stores.online_sqlite",
    "millwright.stores.provider",
]
MACHINES = [f"m{number}" for number in range(40)]


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStore:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    return new_store(tmp_path, url)


def reading(name: str, event: datetime, created: datetime | None, value: float) -> Row:
    return Row((name,), event, created, (value, None))


def test_the_newest_row_of_each_machine_gets_online(store):
    rows = [reading(m, START + h * HOUR, START + h * HOUR, h) for m in "ab" for h in range(3)]
    write_offline(store, "readings", [*rows, reading("b", START, NOW, 9)])
    write_offline(store, "notes", [Row(("a",), START, START, (None,))])
    said: list[tuple[str, int, int]] = []
    done = materialize(store, ["readings", "notes"], NOW, lambda *what: said.append(what))
    assert done == [
        Materialized("readings", BEGINNING, NOW, expected=2, written=2, kept=0),
        Materialized("notes", BEGINNING, NOW, expected=1, written=1, kept=0),
    ]
    assert said[-1] == ("notes to the online store", 1, 1)
    assert [what for what in said if what[0].startswith("readings")] == [
        ("readings to the online store", n, 2) for n in (0, 2)
    ]
    assert read_rows(store, ["a", "b"]) == [(START + 2 * HOUR, (2, None))] * 2
    assert read_rows(store, ["a"], "notes") == [(START, (None,))]


def test_views_are_written_in_turn_so_that_a_machine_is_touched_once(offline, monkeypatch):
    monkeypatch.setattr(online_load, "ROWS_AT_ONCE", 7)
    write_offline(offline, "readings", [reading(m, START, START, 1) for m in MACHINES])
    write_offline(offline, "notes", [Row((m,), START, START, (m,)) for m in MACHINES])
    done: dict[str, int] = {}
    turns = []

    def listen(name: str, rows: int, _total: int) -> None:
        if name in done:
            turns.append((name, min(done.values()) == done[name]))
        done[name] = rows

    materialize(offline, ["readings", "notes"], NOW, listen)
    assert [*done.values()] == [len(MACHINES)] * 2
    assert len(turns) == 2 * 6
    assert all(was_behind for _, was_behind in turns)


INSTANTS = pa.array([START] * len(MACHINES), pa.timestamp("us", tz="UTC"))
TIMES = {"machine_id": MACHINES, "event_timestamp": INSTANTS, "created_timestamp": INSTANTS}
WRONG = {
    "notes": pa.table(TIMES),  # without its feature, so it cannot be read
    "readings": pa.table(TIMES | {"load": ["heavy"] * len(MACHINES), "wear": MACHINES}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_view_that_is_wrong_keeps_no_other_from_arriving(tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(online_load, "ROWS_AT_ONCE", 7)
    store = new_store(tmp_path)
    good = {"readings": "notes", "notes": "readings"}[wrong]
    rows = {"notes": [Row((m,), START, START, (m,)) for m in MACHINES], "readings": fleet(1)}
    write_offline(store, good, rows[good])
    (tmp_path / wrong).mkdir()
    pq.write_table(WRONG[wrong], tmp_path / wrong / "part.parquet")
    with pytest.raises(DataError, match=r"note|load"):
        materialize(store, ["readings", "notes"], NOW)
    assert [event for event, _ in read_rows(store, MACHINES, good)] == [START] * len(MACHINES)
    assert store.get_feature_view(good).most_recent_end_time == NOW
    assert store.get_feature_view(wrong).materialization_intervals == []
    write_offline(store, wrong, rows[wrong])
    materialize(store, ["readings", "notes"], NOW)
    assert [event for event, _ in read_rows(store, MACHINES, wrong)] == [START] * len(MACHINES)
    assert store.get_feature_view(wrong).most_recent_end_time == NOW


def test_more_views_than_are_written_at_once_all_arrive(tmp_path, monkeypatch):
    monkeypatch.setattr(online_load, "VIEWS_AT_ONCE", 1)
    store = new_store(tmp_path)
    write_offline(store, "readings", fleet(2))
    write_offline(store, "notes", [Row(("m1",), START, START, ("x",))])
    names = [done.view for done in materialize(store, ["notes", "readings"], NOW)]
    assert names == ["notes", "readings"]
    assert read_rows(store, ["m1"]) == [(START + HOUR, (2.0, None))]
    assert read_rows(store, ["m1"], "notes") == [(START, ("x",))]


def test_an_impatient_interruption_is_one_and_leaves_nothing_open(offline, monkeypatch):
    write_offline(offline, "readings", fleet(1))
    closed, caller = threading.Event(), threading.main_thread().ident

    def interrupted(*_: object) -> Iterator[pa.Table]:
        try:
            for _interruption in range(2):  # the second while the first waits for this reading
                time.sleep(0.3)
                signal.pthread_kill(caller, signal.SIGINT)
            time.sleep(0.3)
            yield pa.table({})
        finally:
            closed.set()

    monkeypatch.setattr(AsofDuckDBOfflineStore, "pull_latest_of_each", interrupted)
    # What runs in the background is born deaf to it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            materialize(offline, ["readings"], NOW)
    finally:
        signal.signal(signal.SIGINT, before)
    assert closed.wait(10)


def test_late_rows_and_corrections_arrive_with_the_next_run(store):
    first = [reading("a", START, START, 1), reading("b", START, START, 1)]
    write_offline(store, "readings", first)
    materialize(store, ["readings"], NOW)
    late = [
        reading("a", START, NOW + HOUR, 2),  # a correction
        reading("b", START + HOUR, NOW + HOUR, 2),  # true long before the last run
        reading("c", START - 900 * HOUR, NOW + HOUR, 2),  # a machine that nothing was known of
    ]
    write_offline(store, "readings", first + late)
    materialize(store, ["readings"], NOW + HOUR)
    found = read_rows(store, ["a", "b", "c"])
    assert found == [
        (START, (2, None)), (START + HOUR, (2, None)), (START - 900 * HOUR, (2, None))
    ]  # fmt: skip


def test_what_is_not_yet_known_stays_out_and_the_row_before_it_gets_in(store):
    write_offline(
        store,
        "readings",
        [
            reading("a", START, START, 1),
            reading("a", START + HOUR, NOW + TICK, 2),
            reading("b", START, NOW + TICK, 3),
            reading("c", NOW + TICK, NOW + TICK, 4),
            reading("d", NOW, NOW, 5),
        ],
    )
    (done,) = materialize(store, ["readings"], NOW)
    assert (done.expected, done.written) == (2, 2)
    assert read_rows(store, ["a", "b", "c", "d"]) == [
        (START, (1, None)), (None, None), (None, None), (NOW, (5, None))
    ]  # fmt: skip
    (done,) = materialize(store, ["readings"], NOW + TICK)
    assert done.expected == 4


def test_a_newer_row_that_something_else_has_written_is_kept_and_counted(store):
    write_offline(store, "readings", [reading("a", START, START, 1)])
    write_online(store, [reading("a", START + HOUR, START + HOUR, 2)])
    (done,) = materialize(store, ["readings"], NOW)
    assert (done.expected, done.written, done.kept) == (1, 0, 1)
    assert read_rows(store, ["a"]) == [(START + HOUR, (2, None))]


NOBODY = {"__dummy_id": ""}  # as Feast calls the entity of a view without one


@pytest.mark.parametrize("created", ["known", ""])
def test_of_a_view_without_entity_the_newest_known_row_gets_online(store, created):
    folder = Path(store.repo_path) / "plant"
    folder.mkdir()
    times = {"at": [START, START + HOUR], "known": [START, NOW + TICK]}
    pq.write_table(pa.table(times | {"level": [1.0, 2.0]}), folder / "part.parquet")
    source = FileSource(
        name="plant", path="plant", timestamp_field="at", created_timestamp_column=created
    )
    schema = [Field(name="level", dtype=Float64)]
    store.apply([FeatureView(name="plant", entities=[], schema=schema, source=source)])
    for now, level in ((NOW, 1.0 if created else 2.0), (NOW + TICK, 2.0)):
        (done,) = materialize(store, ["plant"], now)
        assert (done.expected, done.written) == (1, 1)
        found = store.get_online_features(["plant:level"], [NOBODY]).to_dict()
        assert found["level"] == [level]


def test_a_value_that_its_feature_cannot_hold_is_named_with_its_view(tmp_path):
    store = new_store(tmp_path)
    (tmp_path / "readings").mkdir()
    rows = {"machine_id": ["a"], "load": ["high"], "wear": [1.0]}
    times = {"event_timestamp": [START], "created_timestamp": [START]}
    pq.write_table(pa.table(rows | times), tmp_path / "readings/part.parquet")
    with pytest.raises(DataError, match="view 'readings': feature 'load' is Float32, and its sou"):
        materialize(store, ["readings"], NOW)
    assert read_rows(store, ["a"]) == [(None, None)]


def test_the_registry_says_up_to_when_a_view_is_online(store):
    (Path(store.repo_path) / "readings").mkdir()
    for end in (NOW, NOW + HOUR):
        (done,) = materialize(store, ["readings"], end)
        assert (done.expected, done.end) == (0, end)
        published = store.get_feature_view("readings")
        assert published.materialization_intervals == [(BEGINNING, end)]
        assert published.state == FeatureViewState.AVAILABLE_ONLINE
    store.apply(definitions())
    assert store.get_feature_view("readings").most_recent_end_time == NOW + HOUR


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return new_store(tmp_path_factory.mktemp("offline"))


moments = st.integers(0, 4).map(lambda n: START + n * HOUR)
versions = st.tuples(st.sampled_from("abc"), moments, st.none() | moments)


@settings(max_examples=25, deadline=None)
@given(history=st.lists(versions, max_size=9), now=moments)
def test_what_gets_online_is_what_the_oracle_knows(offline, history, now):
    salt = secrets.token_hex(8)  # machines of this example alone
    rows = [reading(f"{m}{salt}", *times, n) for n, (m, *times) in enumerate(history)]
    write_offline(offline, "readings", rows)
    materialize(offline, ["readings"], now)
    machines = [f"{m}{salt}" for m in "abc"]
    expected = [answer(rows, (m,), now, as_known=True, time_to_live=None) for m in machines]
    assert read_rows(offline, machines) == [
        (None, None) if row is None else (row.event, row.values) for row in expected
    ]


def test_a_now_in_the_future_is_this_moment(offline):
    write_offline(offline, "readings", [])
    before = datetime.now(UTC)
    (done,) = materialize(offline, ["readings"], before + timedelta(days=1))
    assert before <= done.end <= datetime.now(UTC)


def test_an_unknown_view_is_named_before_anything_is_written(offline):
    write_offline(offline, "notes", [Row(("x",), START, START, ("new",))])
    with pytest.raises(InputError, match="no feature view 'reading'; did you mean 'readings'"):
        materialize(offline, ["notes", "reading"], NOW)
    assert read_rows(offline, ["x"], "notes") == [(None, None)]


def test_a_row_that_does_not_arrive_is_an_error_and_nothing_is_recorded(tmp_path, monkeypatch):
    store = new_store(tmp_path)
    write_offline(store, "readings", [reading("a", START, START, 1)])
    monkeypatch.setattr(OrderedSqliteOnlineStore, "write_rows", lambda *_: None)
    with pytest.raises(MillwrightError, match="the row of machine 'a' of 2025-03-30 00:00"):
        materialize(store, ["readings"], NOW)
    assert store.get_feature_view("readings").materialization_intervals == []


def test_a_store_that_answers_no_more_is_not_asked_for_all_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(online_load, "ROWS_AT_ONCE", 1)
    store, asked = new_store(tmp_path), []

    def gone(*_: object) -> list[int | None]:
        asked.append(time.sleep(0.1))
        raise MillwrightError("it is away")

    monkeypatch.setattr(OrderedSqliteOnlineStore, "event_times", gone)
    write_offline(store, "readings", fleet(1))
    write_offline(store, "notes", [Row((m,), START, START, (m,)) for m in MACHINES])
    with pytest.raises(MillwrightError, match="it is away"):
        materialize(store, ["readings", "notes"], NOW)
    assert 1 <= len(asked) < len(MACHINES) / 2


def fleet(hours: int) -> list[Row]:
    return [
        reading(m, START + h * HOUR, START + h * HOUR, n + h)
        for h in range(hours)
        for n, m in enumerate(MACHINES)
    ]


def test_reads_answer_during_a_materialization_with_the_old_row_or_the_new(store):
    write_offline(store, "readings", fleet(1))
    materialize(store, ["readings"], START)
    allowed = {(START + h * HOUR, (1.0 + h, None)) for h in range(6)}
    reader = FeatureStore(repo_path=str(store.repo_path))
    seen, ended = [], threading.Event()

    def read() -> None:
        while not ended.is_set():
            began = time.monotonic()
            found = read_rows(reader, ["m1"])[0]
            seen.append((found, time.monotonic() - began))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for hours in range(2, 7):
            write_offline(store, "readings", fleet(hours))
            materialize(store, ["readings"], START + hours * HOUR)
    finally:
        ended.set()
        thread.join()
    assert {found for found, _ in seen} <= allowed
    assert [event for (event, _), _ in seen] == sorted(event for (event, _), _ in seen)
    assert len(seen) > 10
    assert max(seconds for _, seconds in seen) < 2


def test_killed_anywhere_and_run_again_online_equals_offline(store):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    began = time.monotonic()
    write_offline(store, "readings", fleet(1))
    materialize(store, ["readings"], START)
    whole_run = time.monotonic() - began
    for number in range(10):
        now = START + number * HOUR
        write_offline(store, "readings", fleet(number + 1))
        write_offline(store, "notes", [Row((m,), now, now, (f"{m} {number}",)) for m in MACHINES])
        rows = number * 8 if number % 2 else None  # of 80 that a run writes
        ready, go = context.Event(), context.Event()
        process = context.Process(
            target=materialize_elsewhere, args=(str(store.repo_path), now, ready, go, rows)
        )
        process.start()
        assert ready.wait(60)
        go.set()
        if rows is None:
            time.sleep(whole_run * number / 5)
            process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        for n, (event, values) in enumerate(read_rows(store, MACHINES)):
            assert event is None or values == (n + (event - START) / HOUR, None)  # a whole row
        if number % 3 == 2:
            materialize(store, ["readings", "notes"], now)
            assert compare(store, "both", MACHINES, now) == []
            assert store.get_feature_view("readings").most_recent_end_time == now


def test_a_killed_materialization_by_feasts_command_stops_no_reader_and_no_run(store):
    write_offline(store, "readings", [reading("a", START, START, 1)])
    published = store.get_feature_view("readings")
    published.state = FeatureViewState.MATERIALIZING
    store.registry.apply_feature_view(published, store.project)
    fresh = FeatureStore(repo_path=str(store.repo_path))
    asked = {"features": ["readings:load"], "entity_rows": [{"machine_id": "a"}]}
    assert fresh.get_online_features(**asked).to_dict()["load"] == [None]
    materialize(fresh, ["readings"], NOW)
    assert fresh.get_online_features(**asked).to_dict()["load"] == [1]


def run_feast(store: FeatureStore, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["-c", str(store.repo_path), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("materialize", "2025-01-01T00:00:00", "2999-01-01T00:00:00"), "in the future"),
        (("materialize-incremental", "2999-01-01T00:00:00"), "in the future"),
        (("materialize-incremental", "2001-01-01T00:00:00"), "the end is before the start"),
    ],
)
def test_feasts_command_refuses_such_a_window_and_leaves_no_trace(tmp_path, arguments, reason):
    store = new_store(tmp_path)
    write_offline(store, "readings", [reading("a", START, START, 1)])
    before = store.list_feature_views()
    code, said = run_feast(store, *arguments)
    assert code == 2
    (line,) = said.splitlines()
    assert line.startswith("Error: view '")
    assert reason in line
    assert "feast materialize-incremental 20" in line
    for view in before:
        after = store.get_feature_view(view.name)
        assert (after.state, after.materialization_intervals) == (view.state, [])
    assert read_rows(store, ["a"]) == [(None, None)]


def test_feasts_command_materializes_any_other_window(tmp_path):
    store = new_store(tmp_path)
    write_offline(store, "readings", [reading("a", START, START, 1)])
    write_offline(store, "notes", [Row(("a",), START, START, ("x",))])
    code, _ = run_feast(store, "materialize", "2025-03-30T00:00:00", "2025-03-30T00:00:00")
    assert (code, read_rows(store, ["a"])) == (0, [(START, (1, None))])
    code, _ = run_feast(store, "materialize-incremental", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}")
    assert code == 0


def test_feasts_command_finds_a_row_that_did_not_arrive(tmp_path, monkeypatch):
    store = new_store(tmp_path)
    write_offline(store, "readings", [reading("a", START, START, 1)])
    monkeypatch.setattr(OrderedSqliteOnlineStore, "write_rows", lambda *_: None)
    with pytest.raises(MillwrightError, match="the row of machine 'a' of 2025-03-30 00:00"):
        store.materialize(START, START, ["readings"])
    assert store.get_feature_view("readings").materialization_intervals == []


def test_a_window_without_a_zone_is_in_utc():
    naive, elsewhere = NOW.replace(tzinfo=None), NOW.astimezone(timezone(2 * HOUR))
    for end in (naive, elsewhere):
        check_window("v", START, end, NOW)
        with pytest.raises(RefusedWindowError, match="up to 2025-03-30T10:00:00: that is in the"):
            check_window("v", START, end, NOW - TICK)
        with pytest.raises(RefusedWindowError, match="the end is before the start"):
            check_window("v", NOW + TICK, end, NOW)
