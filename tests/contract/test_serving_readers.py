"""What the service reads without Feast is what Feast's provider gives, on both stores."""

import logging
import resource
import sqlite3
import struct
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from feast import FeatureStore, RepoConfig
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from online_repository import (
    FEATURES,
    HOUR,
    START,
    TICK,
    as_value,
    definitions,
    entity_key,
    new_store,
    write_online,
)
from oracle import Row
from redis_outages import Redis
from servers import redis_server

from millwright.errors import MillwrightError
from millwright.online import MACHINE, read_online
from millwright.release import ServedView
from millwright.serving import sqlite_reader
from millwright.serving.features import OnlineReader, lacking, read
from millwright.serving.plan import MistypedError, Plan
from millwright.serving.predictions import micros
from millwright.serving.redis_reader import RedisReader
from millwright.serving.rows import MISSING, NEVER, STATUSES, FeatureRows
from millwright.serving.sqlite_reader import SqliteReader
from millwright.stores.online_layout import KeyMaker

NOW = START + 10 * HOUR
NOTES = ServedView(name="notes", features={"note": "string"}, time_to_live=None)
READINGS = ServedView(
    name="readings", features={"wear": "float32", "load": "float32"}, time_to_live=7200.0
)
GHOST = ServedView(name="ghost", features={"fear": "float32", "name": "string"}, time_to_live=None)
BOTH = Plan((NOTES, READINGS))
STRANGE = [
    "o'neil", '"quoted"', "größe ß", "新しい", "a b\tc\n", "m*", "m?[a-z]^\\", "*", "-", "m\x00n",
    "x" * 200, "é" * 200, "readings", "$KEY", "", "\U0001f527",
]  # fmt: skip


def single(bits: int) -> float:
    """The float32 of these bits."""
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


NUMBERS = [
    0.0, -0.0, 1.0, 0.1, float("inf"), float("-inf"), None,
    *(single(bits) for bits in (1, 0x7F7FFFFF, 0xFF7FFFFF, 0x00800000, 0x3DCCCCCD, 0x80000001)),
]  # fmt: skip
MOMENTS = [
    NOW, NOW - 2 * HOUR, NOW - 2 * HOUR - TICK, NOW + TICK, NOW + 9 * HOUR, NOW - TICK,
    datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC) - TICK,
    datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(1903, 2, 3, 4, 5, 6, 7, tzinfo=UTC),
    datetime(2200, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC),
]  # fmt: skip
TEXTS = ["m1", "", "größe", "é" * 70, "x" * 20_000, "新しい", "\x00", None]


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def redis_or_none(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("redis_url") if request.param == "redis" else None


@pytest.fixture(scope="module")
def store(redis_or_none: str | None, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store of tests that add machines of their own at most."""
    return new_store(tmp_path_factory.mktemp("store"), redis_or_none)


@pytest.fixture
def own(redis_or_none: str | None, tmp_path: Path) -> FeatureStore:
    """A store of one test alone."""
    return new_store(tmp_path, redis_or_none)


def reader_of(store: FeatureStore, seconds: float = 5) -> OnlineReader:
    online, project = store.config.online_store, store.config.project
    if hasattr(online, "connection_string"):
        return RedisReader(online.connection_string, project, MACHINE, seconds)
    return SqliteReader(Path(online.path), project, MACHINE, seconds)


def at(moment: datetime, count: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    return np.full(count, micros(moment), np.int64)


def found_by(reader: OnlineReader, machines: Sequence[str], as_of: datetime = NOW) -> FeatureRows:
    return read(reader, BOTH, machines, at(as_of, len(machines)))


def assert_as_feast(
    store: FeatureStore, machines: Sequence[str], as_of: datetime = NOW
) -> FeatureRows:
    """That the service reads just what Feast does; gives what that is."""
    rows = found_by(reader_of(store), machines, as_of)
    feast = read_online(store, "both", machines, as_of)
    assert (rows.views, len(rows)) == (("notes", "readings"), len(machines))
    for place, view in enumerate(rows.views):
        events = [NEVER if event is None else micros(event) for event in feast.events[view]]
        assert rows.events[:, place].tolist() == events
        statuses = [STATUSES[state] for state in rows.states[:, place]]
        assert statuses == list(feast.statuses[view])
    assert rows.columns["note"].tolist() == feast.table["note"].to_pylist()
    for name in ("load", "wear"):
        mine = rows.columns[name]
        assert mine.dtype == np.float32
        theirs = np.array(feast.table[name].to_pylist(), np.float32)  # null becomes NaN
        assert np.array_equal(np.isnan(mine), np.isnan(theirs))
        known = ~np.isnan(mine)
        assert mine[known].tobytes() == theirs[known].tobytes()
    return rows


def row(name: str, event: datetime = NOW, load: float | None = 1.0, wear: Any = 0.5) -> Row:
    return Row((name,), event, event, (load, wear))


def note(name: str, text: str | None = "m1", event: datetime = NOW) -> Row:
    return Row((name,), event, event, (text,))


def test_numbers_are_the_same_to_the_bit(store: FeatureStore) -> None:
    rows = [row(f"n{place}", load=value, wear=0.5) for place, value in enumerate(NUMBERS)]
    write_online(store, rows)
    found = assert_as_feast(store, [each.key[0] for each in rows])
    assert np.isnan(found.columns["load"]).sum() == 1
    assert np.signbit(found.columns["load"][1])


def test_not_a_number_stays_one(store: FeatureStore) -> None:
    write_online(store, [row("nan", load=float("nan"))])
    found = assert_as_feast(store, ["nan"])
    assert np.isnan(found.columns["load"]).all()
    assert found.columns["wear"].tolist() == [0.5]


def test_texts_are_the_same(store: FeatureStore) -> None:
    rows = [note(f"t{place}", text) for place, text in enumerate(TEXTS)]
    write_online(store, rows, "notes")
    found = assert_as_feast(store, [each.key[0] for each in rows])
    assert found.columns["note"].tolist() == TEXTS


def test_times_are_the_same_to_the_microsecond_before_1970_too(store: FeatureStore) -> None:
    rows = [row(f"e{place}", event) for place, event in enumerate(MOMENTS)]
    write_online(store, rows)
    machines = [each.key[0] for each in rows]
    found = assert_as_feast(store, machines)
    assert found.events[:, 1].tolist() == [micros(event) for event in MOMENTS]
    for as_of in (NOW - TICK, NOW + 2 * HOUR, MOMENTS[-1] + HOUR):
        assert_as_feast(store, machines, as_of)


def test_machines_of_any_name_are_found_and_no_others(store: FeatureStore) -> None:
    write_online(store, [row(name, load=float(place)) for place, name in enumerate(STRANGE)])
    found = assert_as_feast(store, STRANGE)
    assert found.columns["load"].tolist() == list(range(len(STRANGE)))
    near = [name + "x" for name in STRANGE] + [name[:-1] + "\x01" for name in STRANGE if name]
    assert (assert_as_feast(store, near).states == MISSING).all()


def test_unknown_machines_and_views_without_rows_are_missing(own: FeatureStore) -> None:
    write_online(own, [row("known")])
    found = assert_as_feast(own, ["unknown", "known", "unknown"])
    assert found.events[:, 0].tolist() == [NEVER] * 3
    assert found.columns["note"].tolist() == [None] * 3
    assert found.columns["load"].tolist()[1] == 1


def test_more_than_a_thousand_machines_some_of_them_twice_are_read_at_once(
    own: FeatureStore,
) -> None:
    rng = np.random.default_rng(3)
    names = [f"m{number}" for number in range(900)]
    write_online(own, [row(n, NOW - TICK * k, float(k), None) for k, n in enumerate(names)])
    write_online(own, [note(n, f"of {n}", NOW - HOUR * k) for k, n in enumerate(names)], "notes")
    asked = [f"m{number}" for number in rng.integers(0, 1_000, 1_200)]
    assert len({*asked}) < len(asked)
    found = assert_as_feast(own, asked)
    assert (found.states == MISSING).all(axis=1).sum() == sum(int(n[1:]) >= 900 for n in asked)


def test_no_machines_are_no_rows(store: FeatureStore) -> None:
    found = found_by(reader_of(store), [])
    assert (len(found), found.events.shape, found.states.shape) == (0, (0, 2), (0, 2))
    assert {name: len(column) for name, column in found.columns.items()} == {
        "wear": 0, "load": 0, "note": 0,
    }  # fmt: skip


def test_a_view_that_was_never_published_is_missing_and_named(store: FeatureStore) -> None:
    write_online(store, [row("seen")])
    reader, plan = reader_of(store), Plan((READINGS, GHOST))
    found = read(reader, plan, ["seen", "unseen"], at(NOW, 2))
    assert found.columns["load"].tolist()[0] == 1
    assert np.isnan(found.columns["fear"]).all()
    assert found.columns["name"].tolist() == [None, None]
    assert (found.states[:, 1] == MISSING).all()
    published = reader.published()
    assert published is not None
    assert {*published} == {"notes", "readings"}
    assert {*published["readings"]} == {"load", "wear"}
    assert lacking(reader, BOTH) is None
    assert f"view 'ghost' is not in {reader}; publish it" in str(lacking(reader, plan))


def test_a_feature_that_a_published_view_has_not_is_named(store: FeatureStore) -> None:
    write_online(store, [row("seen")])
    more = READINGS.model_copy(update={"features": {**READINGS.features, "smell": "float32"}})
    told = lacking(reader_of(store), Plan((NOTES, more)))
    assert "view 'readings' in " in str(told)
    assert "has no 'smell', which the release needs; publish" in str(told)


def test_each_machine_that_has_a_row_of_the_release_is_listed_once(own: FeatureStore) -> None:
    write_online(own, [row(name) for name in STRANGE])
    write_online(own, [note(name) for name in [*STRANGE, "noted"]], "notes")
    reader = reader_of(own)
    assert sorted(reader.machines(BOTH)) == sorted([*STRANGE, "noted"])
    assert sorted(reader.machines(Plan((READINGS,)))) == sorted(STRANGE)
    assert list(reader.machines(Plan((GHOST,)))) == []


def test_thousands_of_machines_are_listed_once_each(own: FeatureStore) -> None:
    names = [f"m{number}" for number in range(2_500)]
    write_online(own, [row(name) for name in names])
    assert sorted(reader_of(own).machines(BOTH)) == sorted(names)


def test_a_project_reads_no_rows_of_another(own: FeatureStore, tmp_path: Path) -> None:
    write_online(own, [row("shared")])
    project = own.config.project
    for other in (project[1:], f"x{project}", f"{project}_x"):
        reader = reader_of(own)
        reader._project = other  # type: ignore[attr-defined]
        assert (found_by(reader, ["shared"]).states == MISSING).all()
        assert list(reader.machines(BOTH)) == []


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        ("load", Value(double_val=1.0)),
        ("load", Value(int64_val=1)),
        ("load", Value(string_val="fast")),
        ("load", Value(string_val="abc")),  # as long as a number
        ("wear", Value(bool_val=True)),
        ("note", Value(float_val=1.0)),
        ("note", Value(int32_val=5)),
    ],
    ids=str,
)
def test_a_feature_of_another_type_is_named(
    store: FeatureStore, feature: str, value: Value
) -> None:
    view = next(view for view, features in FEATURES.items() if feature in features)
    values = {name: Value() for name in FEATURES[view]} | {feature: value}
    there = store.get_feature_view(view)
    batch = [(entity_key("mistyped"), values, NOW, NOW + HOUR)]
    store._get_provider().online_write_batch(store.config, there, batch, None)
    told = f"'{feature}' of view '{view}' is of another type in the online store than the release"
    with pytest.raises(MillwrightError, match=told):
        found_by(reader_of(store), ["unknown", "mistyped"])
    clean = {name: Value() for name in FEATURES[view]}
    batch = [(entity_key("mistyped"), clean, NOW, NOW + HOUR)]
    store._get_provider().online_write_batch(store.config, there, batch, None)
    assert_as_feast(store, ["mistyped"])


def test_threads_read_from_one_reader_at_once(store: FeatureStore) -> None:
    names = [f"p{number}" for number in range(40)]
    write_online(store, [row(name, load=float(name[1:])) for name in names])
    reader = reader_of(store)

    def ask(turn: int) -> bool:
        some = names[turn % 20 :]
        found = found_by(reader, some).columns["load"].tolist()
        return found == [float(name[1:]) for name in some]

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(100)))


def test_what_is_written_later_is_read_by_a_reader_that_is_open(store: FeatureStore) -> None:
    reader = reader_of(store)
    for hour in range(3):
        write_online(store, [row("later", NOW + hour * HOUR, float(hour))])
        found = found_by(reader, ["later"], NOW + 9 * HOUR)
        assert found.events[0, 1] == micros(NOW + hour * HOUR)


def stock_rows() -> dict[str, list[Row]]:
    """Rows in whole seconds, which is all that Feast's own SQLite store keeps."""
    return {
        "readings": [
            row("one", NOW - HOUR, 0.1, None),
            row("two", NOW - 3 * HOUR, float("inf"), float("nan")),
            row("old", datetime(1969, 12, 31, 23, 59, 58, tzinfo=UTC), -0.0, 1.0),
        ],
        "notes": [note("one", "é", NOW - timedelta(days=400)), note("two", None)],
    }


def test_rows_that_feasts_own_stores_have_written_are_read_too(own: FeatureStore) -> None:
    """Into an empty store, and over a row of ours."""
    section, views = own.config.online_store, [own.get_feature_view(name) for name in FEATURES]
    if hasattr(section, "connection_string"):
        parts = redis.connection.parse_url(section.connection_string)
        place = f"{parts['host']}:{parts['port']},password={parts['password']}"
        stock, online = RedisOnlineStore(), {"type": "redis", "connection_string": place}
    else:
        stock, online = SqliteOnlineStore(), {"type": "sqlite", "path": section.path}
        own._get_provider().online_store.teardown(own.config, [], [])
    config = RepoConfig(
        project=own.project, provider="local", registry="unused", online_store=online,
        entity_key_serialization_version=3,
    )  # fmt: skip
    stock.update(config, [], views, [], [], False)
    for name, rows in stock_rows().items():
        batch = [
            (
                entity_key(each.key[0]),
                dict(zip(FEATURES[name], map(as_value, each.values), strict=True)),
                each.event,
                each.created,
            )
            for each in rows
        ]
        stock.online_write_batch(config, own.get_feature_view(name), batch, None)
    names = ["one", "two", "old", "none"]
    before = found_by(reader_of(own), names)
    assert before.events[:, 1].tolist() == [
        *(micros(each.event) for each in stock_rows()["readings"]), NEVER,
    ]  # fmt: skip
    assert before.columns["load"].tolist()[0] == np.float32(0.1)
    assert_as_feast(own, names)
    write_online(own, [row("two", NOW, 5.0)])
    assert assert_as_feast(own, names).columns["load"].tolist()[1] == 5
    assert sorted(reader_of(own).machines(BOTH)) == ["old", "one", "two"]


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    write_online(store, [row("a", load=1.0)])
    reader = reader_of(store)
    assert found_by(reader, ["a"]).columns["load"].tolist() == [1]
    store._get_provider().online_store.teardown(store.config, [], [])
    with pytest.raises(MillwrightError, match=r"online\.db is not there; publish its views"):
        found_by(reader, ["a"])
    store.apply(definitions())
    write_online(store, [row("a", load=2.0)])
    assert found_by(reader, ["a"]).columns["load"].tolist() == [2]


def test_sqlite_is_read_while_somebody_writes(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    write_online(store, [row("a", load=1.0)])
    reader = reader_of(store, seconds=0.1)
    with closing(sqlite3.connect(tmp_path / "online.db")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        table = f'"{store.config.project}_readings"'
        writer.execute(f"DELETE FROM {table}")
        assert found_by(reader, ["a"]).columns["load"].tolist() == [1]
        writer.rollback()


ODD_TIMES = {
    "cut off": (b"\x08", "'abc'"),
    "no time": (b"2026-01-01", "x'ff'"),
    "nothing": (b"\x08\x80", "NULL"),
    "in milliseconds": (
        Timestamp(seconds=1_760_000_000_000).SerializeToString(), "1760000000000000000",
    ),
    "the largest": (b"\x08" + b"\xff" * 8 + b"\x7f", "9223372036854775807"),
    "before year 1": (Timestamp(seconds=-99_999_999_999).SerializeToString(), "-99999999999000000"),
}  # fmt: skip


def spoil(store: FeatureStore, machine: str, in_redis: bytes, in_sqlite: str) -> None:
    """Have a machine's event time be what is none."""
    online, key = store.config.online_store, KeyMaker(MACHINE).key(machine)
    if hasattr(online, "connection_string"):
        with redis.Redis.from_url(online.connection_string) as client:
            client.hset(key + store.project.encode(), "_ts:readings", in_redis)  # type: ignore[arg-type]
        return
    with closing(sqlite3.connect(online.path)) as connection, connection:
        connection.execute(
            f'UPDATE "{store.project}_readings" SET event_us = {in_sqlite}, event_ts = NULL '
            "WHERE entity_key = ?",
            [key],
        )


def assert_passed_over(reader: OnlineReader, caplog: pytest.LogCaptureFixture, told: str) -> None:
    """That each list of machines has the others, and that this is told once."""
    for _ in range(2):
        assert sorted(reader.machines(BOTH)) == ["a", "b"]
    (warning,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert told in warning.getMessage()


@pytest.mark.parametrize(("in_redis", "in_sqlite"), ODD_TIMES.values(), ids=[*ODD_TIMES])
def test_a_machine_whose_event_time_is_none_is_named_and_no_other_suffers(
    own: FeatureStore, in_redis: bytes, in_sqlite: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_online(own, [row("a"), row("odd"), row("b")])
    spoil(own, "odd", in_redis, in_sqlite)
    reader = reader_of(own)
    for machines in (["odd"], ["a", "odd", "b"]):
        with pytest.raises(MistypedError, match="something of machine 'odd' that is no row"):
            found_by(reader, machines)
    assert found_by(reader, ["a", "b"]).columns["load"].tolist() == [1, 1]
    assert_passed_over(reader, caplog, "odd")


def test_a_key_that_is_no_text_is_passed_over(
    own: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    write_online(own, [row("a"), row("xy"), row("b")])
    online, key = own.config.online_store, KeyMaker(MACHINE).key("xy")
    odd = key[:-2] + b"\xff\xfe"
    if hasattr(online, "connection_string"):
        with redis.Redis.from_url(online.connection_string) as client:
            client.rename(key + own.project.encode(), odd + own.project.encode())  # type: ignore[arg-type]
    else:
        with closing(sqlite3.connect(online.path)) as connection, connection:
            change = f'UPDATE "{own.project}_readings" SET entity_key = ? WHERE entity_key = ?'
            connection.execute(change, [odd, key])
    assert_passed_over(reader_of(own), caplog, "which is no text")


def test_who_asks_for_some_machines_does_not_wait_for_a_look_at_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = new_store(tmp_path)
    names = [f"m{number}" for number in range(1_000, 1_000 + 2 * sqlite_reader.LISTED)]
    write_online(store, [row(name) for name in [*names, "z9999"]])
    spoil(store, "z9999", b"", "x'ff'")
    listed = reader_of(store).machines(BOTH)
    first = next(listed)
    assert "whose event time is none" not in caplog.text
    assert sorted([first, *listed]) == names
    assert "whose event time is none" in caplog.text


@pytest.mark.parametrize("key", ["odd", 5])
def test_a_key_of_another_type_in_sqlite_is_passed_over(
    tmp_path: Path, key: str | int, caplog: pytest.LogCaptureFixture
) -> None:
    store = new_store(tmp_path)
    write_online(store, [row("a"), row("odd"), row("b")])
    with closing(sqlite3.connect(tmp_path / "online.db")) as connection, connection:
        change = f'UPDATE "{store.project}_readings" SET entity_key = ? WHERE entity_key = ?'
        connection.execute(change, [key, KeyMaker(MACHINE).key("odd")])
    assert_passed_over(reader_of(store), caplog, f"the key {key!r} of")


def test_a_key_of_redis_of_another_type_is_its_machines_alone(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = new_store(tmp_path, redis_url)
    write_online(store, [row("a"), row("b")])
    with redis.Redis.from_url(redis_url) as client:
        client.set(KeyMaker(MACHINE).key("odd") + store.project.encode(), "no hash")
    reader = reader_of(store)
    for machines in (["odd"], ["a", "odd", "b"]):
        with pytest.raises(MistypedError, match=r"'odd' .*its key is of another type than a hash"):
            found_by(reader, machines)
        assert found_by(reader, ["a", "b"]).columns["load"].tolist() == [1, 1]
    assert_passed_over(reader, caplog, "its key is of another type")


@pytest.mark.parametrize(("name", "features"), [("x", "{"), ("x", "5"), (b"\xff", "[]")])
def test_what_is_no_list_of_published_features_is_named(
    redis_url: str, tmp_path: Path, name: Any, features: str
) -> None:
    store = new_store(tmp_path, redis_url)
    key = f"millwright:features:{store.project}"
    with redis.Redis.from_url(redis_url) as client:
        client.hset(key, name, features)
    with pytest.raises(MillwrightError, match=f"has in {key} what is no list of features"):
        reader_of(store).published()


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process grows."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_sqlite_is_read_on_a_full_disk_if_nothing_is_in_its_log(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    write_online(store, [row("a", load=1.0)])
    place = tmp_path / "copy.db"
    with closing(sqlite3.connect(tmp_path / "online.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        place.write_bytes((tmp_path / "online.db").read_bytes())
    reader = SqliteReader(place, store.project, MACHINE, 1)
    with full_disk():
        found = found_by(reader, ["a"])
        listed = list(reader.machines(BOTH))
    assert (found.columns["load"].tolist(), listed) == ([1], ["a"])
    with closing(sqlite3.connect(place)) as connection:
        with connection:
            connection.execute(f'DELETE FROM "{store.project}_readings"')
        assert (found_by(reader, ["a"]).states == MISSING).all()
        place.with_name("other.db").write_bytes(place.read_bytes())
        log = place.with_name("copy.db-wal").read_bytes()
    place.with_name("other.db-wal").write_bytes(log)
    anew = SqliteReader(place.with_name("other.db"), store.project, MACHINE, 1)
    with full_disk(), pytest.raises(MillwrightError, match=r"other\.db cannot be read"):
        found_by(anew, ["a"])


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    path.write_bytes(b"no database" * 1000)
    reader = SqliteReader(path, "p", MACHINE, 1)
    with pytest.raises(MillwrightError, match=r"online\.db cannot be read: file is not a database"):
        found_by(reader, ["a"])


@pytest.fixture(scope="module")
def outages() -> Iterator[Redis]:
    with redis_server() as url:
        found = Redis(url)
        yield found
        found.end()


def test_a_redis_that_was_started_anew_costs_no_read(outages: Redis, tmp_path: Path) -> None:
    store = new_store(tmp_path, outages.url)
    write_online(store, [row("a", load=1.0)])
    reader = reader_of(store)
    with ThreadPoolExecutor(4) as threads:  # several connections that will all be dead
        assert all(threads.map(lambda _: len(found_by(reader, ["a"])), range(40)))
        outages.kill()
        outages.start()
        found = list(threads.map(lambda _: found_by(reader, ["a"]).columns["load"][0], range(40)))
    assert found == [1] * 40
    assert list(reader.machines(BOTH)) == ["a"]


def test_a_redis_that_is_frozen_or_gone_is_named_in_time_and_read_again(
    outages: Redis, tmp_path: Path
) -> None:
    store = new_store(tmp_path, outages.url)
    write_online(store, [row("a", load=1.0)])
    used, new = (reader_of(store, seconds=0.15) for _ in range(2))
    server = outages.url.partition("@")[2].partition("/")[0]
    assert found_by(used, ["a"]).columns["load"].tolist() == [1]
    with outages.frozen():
        for reader in (used, new):
            assert_told(reader, f"Redis at {server} does not answer in time")
    for reader in (used, new):
        assert found_by(reader, ["a"]).columns["load"].tolist() == [1]
    outages.kill()
    for reader in (used, new):
        assert_told(reader, f"Redis at {server} cannot be reached")
    outages.start()
    for reader in (used, new):
        assert found_by(reader, ["a"]).columns["load"].tolist() == [1]


def assert_told(reader: OnlineReader, reason: str) -> None:
    """That each way to read fails within a second, and says why without the password."""
    asked = [
        lambda: found_by(reader, ["a"]), reader.published, lambda: list(reader.machines(BOTH)),
    ]  # fmt: skip
    for ask in asked:
        began = time.monotonic()
        with pytest.raises(MillwrightError, match=reason):
            ask()
        assert time.monotonic() - began < 1
