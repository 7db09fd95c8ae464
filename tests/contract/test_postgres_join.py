"""The join in PostgreSQL, by each of its three ways, against a plain Python oracle."""

import math
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Row, answer
from servers import database

from millwright.errors import ConfigurationError, DataError, InputError, MillwrightError
from millwright.stores import postgres_join
from millwright.stores.postgres_join import TableHistory, join
from millwright.stores.postgres_rows import read, read_latest
from millwright.stores.postgres_search import Search
from millwright.stores.postgres_server import Server, Session, connect
from millwright.stores.postgres_tables import (
    Source,
    ensure_index,
    find_table,
    has_index,
    parts,
)

START = datetime(2025, 3, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
INSTANT = pa.timestamp("us", tz="UTC")
KEYS = {
    "readings": (("machine_id", pa.string()),),
    "parts": (("machine_id", pa.string()), ("slot", pa.int64())),
    "plant": (),
}
KINDS = {"machine_id": "text", "slot": "integer"}


def server(url: str) -> Server:
    parsed = sqlalchemy.make_url(url)
    return Server(
        str(parsed.query["host"]), 5432, parsed.database, parsed.username, parsed.password or ""
    )


@pytest.fixture(scope="module")
def place(postgres: str) -> Iterator[Server]:
    """A database whose clock is not in UTC, with the tables of `KEYS`, each with an index."""
    with database(postgres) as url:
        name = sqlalchemy.make_url(url).database
        execute(url, f"ALTER DATABASE {name} SET TimeZone = 'America/New_York'")
        execute(url, f"ALTER DATABASE {name} SET synchronous_commit = off")  # for speed
        execute(url, 'CREATE SCHEMA "Odd ""one"')
        for view, keys in KEYS.items():
            columns = "".join(f"{name} {KINDS[name]}, " for name, _ in keys)
            execute(
                url,
                f'CREATE TABLE "Odd ""one".{view} ({columns} event timestamptz, '
                'created timestamptz, "the value" float8)',
            )
        found = server(url)
        with connect(found) as session:
            for view, keys in KEYS.items():
                ensure_index(session, named(view), [name for name, _ in keys], "event", "created")
        yield found


def execute(url: str, sql: str) -> None:
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(sql)
    engine.dispose()


def named(view: str) -> str:
    return f'"Odd ""one".{view}'


def history(view: str, life: timedelta | None = None, **changes: object) -> TableHistory:
    parts = {
        "name": view,
        "source": Source(named(view)),
        "keys": {name: name for name, _ in KEYS[view]},
        "event": "event",
        "created": "created",
        "features": {f"{view}_value": "the value"},
        "types": {f"{view}_value": pa.float64()},
        "time_to_live": life,
    }
    return TableHistory(**parts | changes)


def write(session: Session, view: str, rows: Sequence[Row]) -> None:
    session.run(f"DELETE FROM {named(view)}")
    names = [*(name for name, _ in KEYS[view]), "event", "created", "the value"]
    kinds = [*(kind for _, kind in KEYS[view]), INSTANT, INSTANT, pa.float64()]
    records = [(*row.key, row.event, row.created, *row.values) for row in rows]
    columns = list(zip(*records, strict=True)) if records else [()] * len(names)
    session.run("DROP TABLE IF EXISTS written")
    session.load(
        "written",
        pa.table([pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], names=names),
    )
    session.run(f"INSERT INTO {named(view)} SELECT * FROM written")
    session.run(f"ANALYZE {named(view)}")


def cutoffs(asked: Sequence[tuple[object, object, object]]) -> pa.Table:
    machines, slots, times = zip(*asked, strict=True) if asked else ((), (), ())
    return pa.table(
        {
            "machine_id": pa.array(machines, pa.string()),
            "slot": pa.array(slots, pa.int64()),
            "at": pa.array(times, INSTANT),
        }
    )


moments = st.builds(
    lambda hours, ticks: START + hours * HOUR + ticks * TICK,
    st.integers(0, 5),
    st.integers(-1, 1),
)
machine_ids = st.sampled_from(["a", "b", "Ä b", None])
slots = st.sampled_from([1, 2, None])


@st.composite
def rows(draw: st.DrawFn, view: str) -> list[Row]:
    identity = {"readings": st.tuples(machine_ids), "parts": st.tuples(machine_ids, slots)}
    key = identity.get(view, st.just(()))
    drawn = draw(st.lists(st.tuples(key, moments, st.none() | moments), max_size=12))
    return [
        Row(key, event, known, (math.nan if number == 3 else float(number),))
        for number, (key, event, known) in enumerate(drawn)
    ]


asked = st.lists(st.tuples(machine_ids, slots, st.none() | moments), max_size=10)
lives = st.sampled_from([None, timedelta(0), HOUR, 2 * HOUR, timedelta(days=700_000)])


BY_THE_INDEX, BY_A_SCAN, BY_A_MERGE = WAYS = [(0, 0), (10**9, 10**9), (10**9, 0)]
by_every_way = pytest.mark.parametrize(
    ("rows_per_look", "rows_per_cutoff"), WAYS, ids=["by the index", "by a scan", "by a merge"]
)


@by_every_way
@settings(max_examples=20, deadline=None)
@given(
    data=st.fixed_dictionaries({view: rows(view) for view in KEYS}),
    asked=asked,
    life=lives,
)
def test_every_answer_is_the_oracles(place, rows_per_look, rows_per_cutoff, data, asked, life):
    with pytest.MonkeyPatch.context() as patch, connect(place) as session:
        patch.setattr(postgres_join, "ROWS_PER_LOOK", rows_per_look)
        patch.setattr(postgres_join, "ROWS_PER_CUTOFF", rows_per_cutoff)
        for view, stored in data.items():
            write(session, view, stored)
        given = cutoffs(asked)
        for as_known in (True, False):
            result = join(
                session, given, "at", [history(view, life) for view in KEYS], as_known=as_known
            )
            assert result.select(given.column_names).equals(given)
            for view, stored in data.items():
                keys = {"readings": 1, "parts": 2, "plant": 0}[view]
                expected = [
                    when and answer(stored, ask[:keys], when, as_known=as_known, time_to_live=life)
                    for *ask, when in asked
                ]
                assert [str(value) for value in result[f"{view}_value"].to_pylist()] == [
                    str(row and row.values[0]) for row in expected
                ], (view, as_known)


def test_few_cutoffs_are_looked_up_many_are_merged_and_for_most_all_rows_are_read(
    place, monkeypatch
):
    taken = []

    def noting(way, whole):
        return lambda *rest: taken.append(way) or whole(*rest)

    for way in ("look", "merge"):
        monkeypatch.setattr(Search, way, noting(way, getattr(Search, way)))
    monkeypatch.setattr(postgres_join, "scanned", noting("scan", postgres_join.scanned))
    stored = [Row((f"m{n % 10}",), START + n * HOUR, START, (n,)) for n in range(1000)]
    with connect(place) as session:
        write(session, "readings", stored)
        for count in (5, 200, 500):
            asked = cutoffs([(f"m{n % 10}", 0, START + n * HOUR) for n in range(count)])
            result = join(session, asked, "at", [history("readings")], as_known=True)
            assert result["readings_value"].to_pylist() == list(range(count))
    assert taken == ["look", "merge", "scan"]


@pytest.mark.parametrize(
    ("kind", "value", "asked"),
    [
        ("integer", "7", pa.array([7], pa.int8())),
        ("bigint", "7", pa.array([7.0], pa.float64())),
        ("numeric", "7", pa.array([7], pa.int64())),
        ("bigint", "7", pa.array([7], pa.uint64())),
        ("bigint", "7", pa.array([7]).dictionary_encode()),
        ("varchar(5)", "'7'", pa.array(["7"]).dictionary_encode()),
        ("char(5)", "'7'", pa.array(["7"])),
        ("code", "7", pa.array([7])),
        (
            "uuid",
            "'00000000-0000-0000-0000-000000000007'",
            pa.array(["00000000-0000-0000-0000-000000000007"]),
        ),
        ("boolean", "true", pa.array([True])),
        ("date", "'2025-03-30'", pa.array([START.date()])),
    ],
)
def test_keys_of_like_types_find_each_other(place, monkeypatch, kind, value, asked):
    with connect(place) as session:
        session.run("CREATE DOMAIN pg_temp.code AS integer")
        kind = kind.replace("code", "pg_temp.code")
        session.run(f"CREATE TEMP TABLE keyed (id {kind}, event timestamp, value numeric)")
        session.run(f"INSERT INTO keyed VALUES ({value}, '2025-03-30 00:00', 1.5)")
        one = history(
            "readings", source=Source("keyed"), keys={"id": "id"}, created=None,
            features={"value": "value"}, types={"value": pa.float64()},
        )  # fmt: skip
        given = pa.table({"id": asked, "at": pa.array([START], INSTANT)})
        for rows_per_cutoff in (0, 10**9):
            monkeypatch.setattr(postgres_join, "ROWS_PER_CUTOFF", rows_per_cutoff)
            result = join(session, given, "at", [one], as_known=True)
            assert result["value"].to_pylist() == [1.5]
            assert result.schema.field("value").type == pa.float64()


@by_every_way
def test_times_without_end_and_tables_of_parts_are_answered_alike(
    place, monkeypatch, rows_per_look, rows_per_cutoff
):
    monkeypatch.setattr(postgres_join, "ROWS_PER_LOOK", rows_per_look)
    monkeypatch.setattr(postgres_join, "ROWS_PER_CUTOFF", rows_per_cutoff)
    types = {"value": pa.float64(), "until": INSTANT}
    one = history(
        "readings", source=Source("whole"), types=types, features={name: name for name in types}
    )
    given = cutoffs([("a", 1, START), ("b", 1, START), ("c", 1, START)])
    with connect(place) as session:
        session.run(
            "CREATE TEMP TABLE whole (machine_id text, event timestamptz, created timestamptz, "
            "value float8, until timestamptz)"
        )
        session.run("INSERT INTO whole VALUES ('a', '-infinity', 'infinity', 1, 'infinity')")
        for number, created in ((2, "infinity"), (3, "-infinity")):
            part = f"part_{number}"
            session.run(f"CREATE TEMP TABLE {part} () INHERITS (whole)")
            ensure_index(session, part, ["machine_id"], "event", "created")
            session.run(
                f"INSERT INTO {part} VALUES "
                f"('b', '2025-03-01Z', '{created}', {number}, '2026-01-01Z')"
            )
        ensure_index(session, "whole", ["machine_id"], "event", "created")
        for as_known, expected in ((False, [1, 2, None]), (True, [None, 3, None])):
            result = join(session, given, "at", [one], as_known=as_known)
            assert result["value"].to_pylist() == expected
            assert result["until"].to_pylist() == [None, datetime(2026, 1, 1, tzinfo=UTC), None]


def test_sessions_side_by_side_see_one_moment_and_keep_the_order_of_columns(place, monkeypatch):
    monkeypatch.setattr(postgres_join, "MANY", 1)
    stored = [Row(("a",), START, START, (n,)) for n in range(3)]
    with connect(place) as session:
        write(session, "readings", stored)
    views = [
        history("readings", features={f"v{n}": "the value"}, types={f"v{n}": pa.float64()})
        for n in range(5)
    ]
    given = cutoffs([("a", 1, START), ("b", 1, START)])
    with connect(place) as session:
        alone = join(session, given, "at", views, as_known=True)
        with connect(place) as other:
            write(other, "readings", [Row(("a",), START, START, (9,))])
        for threads in (2, 3, 9):
            both = join(session, given, "at", views, as_known=True, threads=threads)
            assert both.equals(alone)
    assert alone["v4"].to_pylist() == [2, None]


def test_a_fault_of_a_session_beside_is_told(place, monkeypatch):
    monkeypatch.setattr(postgres_join, "MANY", 1)
    broken = history("readings", features={"x": "absent"}, types={"x": pa.float64()})
    with connect(place) as session, pytest.raises(DataError, match="no column 'absent'"):
        join(
            session, cutoffs([("a", 1, START)]), "at", [history("readings"), broken],
            as_known=True, threads=2,
        )  # fmt: skip


def test_queries_and_views_are_histories_too(place):
    with connect(place) as session:
        write(session, "readings", [Row(("a",), START, START, (n,)) for n in range(3)])
        session.run(f"CREATE TEMP VIEW seen AS SELECT * FROM {named('readings')}")
        query = f"WITH r AS (SELECT * FROM {named('readings')}) SELECT * FROM r -- all\n;"
        both = [
            history("readings", source=Source("seen")),
            history("readings", source=Source("mine", query), features={"b": "the value"}),
        ]
        given = cutoffs([("a", 1, START), ("b", 1, START)])
        result = join(session, given, "at", both, as_known=True)
    assert result["readings_value"].to_pylist() == result["b"].to_pylist() == [2, None]


def test_a_table_that_is_not_there_yet_is_null_and_typed(place):
    absent = history("readings", source=Source("nowhere.readings"), types={"x": pa.float32()},
                     features={"x": "x"})  # fmt: skip
    with connect(place) as session:
        result = join(session, cutoffs([("a", 1, START)]), "at", [absent], as_known=True)
        assert result["x"].null_count == 1
        assert result.schema.field("x").type == pa.float32()
        table = find_table(session, "nowhere.readings")
        assert read(session, table, ["x", "event"], "event").num_rows == 0
        span = (START, START)
        rows = read_latest(session, table, ["k"], ["k", "event"], "event", None, span)
        assert rows.num_rows == 0


def test_keys_that_are_null_everywhere_find_nothing(place):
    with connect(place) as session:
        write(session, "readings", [Row((None,), START, START, (1,))])
        given = pa.table({"machine_id": pa.nulls(2), "at": pa.array([START, None], INSTANT)})
        result = join(session, given, "at", [history("readings")], as_known=False)
    assert result["readings_value"].to_pylist() == [None, None]


def test_what_is_wrong_is_named(place, monkeypatch):
    given = cutoffs([("a", 1, START)])
    faults = {
        r"one\".readings in .* has no column 'valu'; did you mean 'the value'": {
            "features": {"x": "valu"}
        },
        "column 'machine_id' is text; make it timestamptz": {"event": "machine_id"},
        "key 'slot' is bigint in the cut-offs, but 'machine_id' is text": {
            "keys": {"slot": "machine_id"}
        },
        "the query of 'mine' in .*: relation \"nothing\" does not exist": {
            "source": Source("mine", "SELECT * FROM nothing")
        },
    }
    for message, changes in faults.items():
        with pytest.raises(DataError, match=message), connect(place) as session:
            write(session, "readings", [Row(("a",), START, START, (1,))])
            join(session, given, "at", [history("readings", **changes)], as_known=True)
    with pytest.raises(InputError, match="no column 'when'"), connect(place) as session:
        join(session, given, "when", [history("readings")], as_known=True)
    monkeypatch.setattr(postgres_join, "ROWS_PER_CUTOFF", 0)
    broken = given.set_column(0, "machine_id", pa.array(["a\0b"]))
    with pytest.raises(DataError, match=r"the cut-offs: .*invalid byte"), connect(place) as session:
        join(session, broken, "at", [history("readings")], as_known=True)


def test_a_table_without_an_index_is_told_once_and_what_to_type_makes_one(place, caplog):
    stored = [Row((f"m{n % 10}",), START + n * HOUR, START, (n,)) for n in range(100)]
    name = f"{named('readings')}"
    bare = history("readings", source=Source("bare"))
    with connect(place) as session:
        write(session, "readings", stored)
        session.run(f"CREATE TEMP TABLE bare AS SELECT * FROM {name}")
        session.run("ANALYZE bare")
        for _ in range(2):
            found = join(session, cutoffs([("m3", 1, START + DAY)]), "at", [bare], as_known=True)
            assert found["readings_value"].to_pylist() == [23]
        [told] = caplog.messages
        assert "table bare in" in told
        session.run(told[told.index("CREATE INDEX") :])
        assert has_index(session, find_table(session, "bare"), ["machine_id"], "event")


def test_the_server_has_nothing_to_complain_of(place, postgres):
    log = Path(place.host) / "log"
    before = log.stat().st_size  # what others have done to the server is not the join's
    with connect(place) as session:
        session.load("copied", pa.table({"a": [1]}))
        session.run("ANALYZE copied")
    assert b"already a transaction in progress" not in log.read_bytes()[before:]


def test_the_index_is_made_once_and_found(place):
    with connect(place) as session:
        session.run("CREATE TEMP TABLE fresh (b text, a text, event timestamptz, value real)")
        assert not has_index(session, find_table(session, "fresh"), ["a", "b"], "event")
        for _ in range(2):
            ensure_index(session, "fresh", ["a", "b"], "event", None)
        assert has_index(session, find_table(session, "fresh"), ["b", "a"], "event")
        assert not has_index(session, find_table(session, "fresh"), ["a"], "event")
        found = session.fetch("SELECT count(*) AS n FROM pg_indexes WHERE tablename = 'fresh'")
    assert found["n"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Plain", ["plain"]),
        ("Schema.Table", ["schema", "table"]),
        ('"My.Schema"."T""x"', ["My.Schema", 'T"x']),
    ],
)
def test_names_of_tables_are_read_as_postgres_reads_them(name, expected):
    assert parts(name) == expected


@pytest.mark.parametrize("name", ["", "a.b.c", "a.", ".a", 'a"b', "a b", "a; DROP TABLE b"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ConfigurationError, match="names no table"):
        parts(name)


def test_a_server_that_is_not_there_says_how_to_start_one(tmp_path):
    absent = Server(str(tmp_path), 5432, "plant", "me", "secret'word")
    with pytest.raises(MillwrightError) as caught, connect(absent):
        pass
    assert f"{tmp_path}:5432/plant cannot be reached" in str(caught.value)
    assert "services up" in str(caught.value)
    assert "secret" not in str(caught.value) + repr(caught.value.__cause__) + repr(absent)


def test_a_wrong_password_is_told_and_not_shown(postgres, place):
    """Only the role `locked` has to give one; all others of this server still need none."""
    rules = Path(place.host) / "pg_hba.conf"
    before = rules.read_text()
    execute(postgres, "CREATE ROLE locked LOGIN PASSWORD 'right'")
    try:
        rules.write_text(f"local all locked scram-sha-256\n{before}")
        execute(postgres, "SELECT pg_reload_conf()")
        locked = replace(place, user="locked")
        with connect(replace(locked, password="right")) as session:  # noqa: S106
            assert session.fetch("SELECT current_user::text AS me")["me"].to_pylist() == ["locked"]
        for password in ("wrong'one", ""):
            refused = pytest.raises(ConfigurationError, match="password of user 'locked'")
            with refused as caught, connect(replace(locked, password=password)):
                pass
            assert "wrong" not in str(caught.value) + str(caught.value.__cause__)
    finally:
        rules.write_text(before)
        execute(postgres, "SELECT pg_reload_conf()")
        execute(postgres, "DROP ROLE locked")


def test_a_server_that_accepts_and_says_nothing_is_given_up():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        frozen = Server("127.0.0.1", port, "plant", "me", "", more=(("connect_timeout", "2"),))
        given_up = pytest.raises(MillwrightError, match=f"127.0.0.1:{port}/plant cannot be reached")
        with given_up, connect(frozen):
            pass


def test_a_server_lost_on_the_way_is_no_fault_of_the_data(postgres, place):
    with pytest.raises(MillwrightError, match="broke off") as caught, connect(place) as session:
        mine = session.fetch("SELECT pg_backend_pid() AS pid")["pid"].to_pylist()[0]
        execute(postgres, f"SELECT pg_terminate_backend({mine}, 5000)")
        session.run("CREATE TEMP TABLE late (a text)")
    assert not isinstance(caught.value, InputError)
