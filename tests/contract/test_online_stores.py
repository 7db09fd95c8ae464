"""The online stores, SQLite and Redis alike: a row only ever becomes newer."""

import os
import random
import secrets
import signal
import sqlite3
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis
from feast import FeatureStore, RepoConfig
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given, settings
from hypothesis import strategies as st
from online_repository import (
    HOUR,
    START,
    TICK,
    definitions,
    entity_key,
    machine,
    new_store,
    read_rows,
    view,
    write_online,
)
from oracle import Row
from servers import redis_server

from millwright.errors import BusyError, ConfigurationError, MillwrightError
from millwright.stores import online_sqlite
from millwright.stores.online_redis import OrderedRedisOnlineStore, OrderedRedisOnlineStoreConfig
from millwright.stores.online_rows import OnlineRows


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp(request.param)
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    return new_store(folder, url)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A machine that no other test has."""
    return request.node.name


def row(name: str, event: object = START, created: object = START, value: float = 1) -> Row:
    return Row((name,), event, created, (value, None))


def state(store: FeatureStore, name: str) -> tuple[object, object]:
    event, values = read_rows(store, [name])[0]
    return event, values and values[0]


def test_an_older_row_never_overwrites(store, name):
    write_online(store, [row(name, START, START + 5 * HOUR, 1)])
    write_online(store, [row(name, START - TICK, START + 9 * HOUR, 2)])
    assert state(store, name) == (START, 1)


def test_a_newer_row_replaces_even_one_that_became_known_later(store, name):
    write_online(store, [row(name, START, START + 9 * HOUR, 1)])
    write_online(store, [row(name, START + TICK, START + TICK, 2)])
    assert state(store, name) == (START + TICK, 2)


def test_a_correction_replaces_and_what_it_corrected_does_not_come_back(store, name):
    write_online(store, [row(name, START, START, 1)])
    write_online(store, [row(name, START, START + TICK, 2)])
    write_online(store, [row(name, START, START, 1)])
    assert state(store, name) == (START, 2)


def test_a_row_without_created_time_is_the_oldest_of_its_moment(store, name):
    write_online(store, [row(name, START, None, 1)])
    write_online(store, [row(name, START, START, 2)])
    write_online(store, [row(name, START, None, 1)])
    assert state(store, name) == (START, 2)


def test_the_same_definition_computed_again_replaces_a_row_of_the_same_times(store, name):
    write_online(store, [row(name, START, START, 1)])
    write_online(store, [row(name, START, START, 2)])
    assert state(store, name) == (START, 2)


def test_times_without_a_zone_are_in_utc(store, name):
    write_online(store, [row(name, START.replace(tzinfo=None), None, 1)])
    assert state(store, name) == (START, 1)


def test_of_one_batch_the_newest_row_counts(store, name):
    write_online(store, [row(name, START + n * HOUR, START, n) for n in (1, 3, 2)])
    assert state(store, name) == (START + 3 * HOUR, 3)


def test_null_replaces_a_value_and_is_not_zero(store, name):
    write_online(store, [row(name, START, START, 1)])
    write_online(store, [Row((name,), START + HOUR, START, (None, 0.0))])
    assert read_rows(store, [name]) == [(START + HOUR, (None, 0.0))]


def test_a_row_of_thousands_of_features_is_written_whole(store, name):
    keys = pa.array([name.encode()], pa.binary())
    values = {f"f{number}": pa.array([b""], pa.binary()) for number in range(5_000)}
    values["load"] = pa.array([Value(float_val=7).SerializeToString()], pa.binary())
    rows = OnlineRows(keys, np.array([1]), np.array([1]), values)
    online, published = store._get_provider().online_store, view("readings")
    online.write_rows(store.config, published, rows)
    assert online.event_times(store.config, published, keys) == [1]
    if isinstance(online, OrderedRedisOnlineStore):
        client = online._get_client(store.config.online_store)
        assert client.hlen(name.encode() + store.project.encode()) == len(values) + 2


def test_an_unknown_machine_is_not_found(store, name):
    assert read_rows(store, [name]) == [(None, None)]
    response = store.get_online_features(["readings:load"], [{"machine_id": name}])
    assert response.to_dict()["load"] == [None]
    assert response.proto.results[-1].statuses == [FieldStatus.NOT_FOUND]


moments = st.integers(0, 3).map(lambda n: START + n * TICK)
versions = st.lists(
    st.tuples(st.sampled_from("ab"), moments, st.none() | moments), min_size=1, max_size=6
)


def value_of(event: datetime, created: datetime | None) -> float:
    known = (created - START) // TICK + 1 if created else 0
    return (event - START) // TICK * 10 + known


@settings(max_examples=30, deadline=None)
@given(versions=versions, data=st.data())
def test_every_order_and_repetition_of_writes_ends_in_the_same_state(store, versions, data):
    salt = secrets.token_hex(8)  # machines of this example alone
    rows = [
        row(f"{name}{salt}", event, created, value_of(event, created))
        for name, event, created in versions
    ]
    again = data.draw(st.lists(st.sampled_from(rows), max_size=4))
    order = data.draw(st.permutations(rows + again))
    cut = data.draw(st.integers(0, len(order)))
    for batch in (order[:cut], order[cut:]):
        write_online(store, batch)
    for name in "ab":
        mine = [r for r in rows if r.key == (f"{name}{salt}",)]
        expected = max(mine, key=lambda r: (r.event, r.created or START - HOUR), default=None)
        found = state(store, f"{name}{salt}")
        assert found == ((expected.event, expected.values[0]) if expected else (None, None))


def test_writers_at_once_lose_no_newer_row(store, name):
    names = [f"{name}{n}" for n in range(3)]
    rows = [row(n, START + hour * HOUR, START, hour) for n in names for hour in range(40)]
    faults: list[Exception] = []

    def write(seed: int) -> None:
        own = FeatureStore(repo_path=str(store.repo_path))  # a connection of its own
        mine = random.Random(seed).sample(rows, len(rows))
        try:
            for start in range(0, len(mine), 10):
                write_online(own, mine[start : start + 10])
        except Exception as err:
            faults.append(err)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert [state(store, n) for n in names] == [(START + 39 * HOUR, 39)] * 3


def test_a_row_that_another_writes_just_before_is_not_lost(tmp_path, redis_url, monkeypatch):
    store = new_store(tmp_path, redis_url)
    other = FeatureStore(repo_path=str(tmp_path))
    client = store._get_provider().online_store._get_client(store.config.online_store)
    execute = redis.client.Pipeline.execute
    waiting, written = [START + 3 * HOUR, START + HOUR], [START + 2 * HOUR]

    def after_the_other(self: redis.client.Pipeline, *what: object) -> object:
        if self.connection_pool is client.connection_pool and waiting:
            written.append(waiting.pop())
            write_online(other, [row("a", written[-1])])
        return execute(self, *what)

    monkeypatch.setattr(redis.client.Pipeline, "execute", after_the_other)
    write_online(store, [row("a", START + 2 * HOUR)])
    assert len(written) > 1
    assert state(other, "a")[0] == max(written)


def test_feasts_own_store_reads_what_ours_has_written(store, name):
    write_online(store, [row(name, START, START, 1.5)])
    section = store.config.online_store
    if isinstance(section, OrderedRedisOnlineStoreConfig):
        parts = redis.connection.parse_url(section.connection_string)
        place = f"{parts['host']}:{parts['port']},password={parts['password']}"
        own, online = RedisOnlineStore(), {"type": "redis", "connection_string": place}
    else:
        own, online = SqliteOnlineStore(), {"type": "sqlite", "path": section.path}
    stock = RepoConfig(
        project=store.project,
        provider="local",
        registry="unused",
        online_store=online,
        entity_key_serialization_version=3,
    )
    (event, values), *_ = own.online_read(stock, view("readings"), [entity_key(name)], ["load"])
    assert (event, values["load"]) == (START, Value(float_val=1.5))
    own.online_write_batch(
        stock,
        view("readings"),
        [(entity_key(f"{name}s"), {"load": Value(float_val=2)}, START, None)],
        None,
    )
    write_online(store, [row(f"{name}s", START - HOUR, START, 3)])  # Feast's row keeps no order
    assert state(store, f"{name}s") == (START - HOUR, 3)


def test_a_view_with_other_features_begins_anew_and_others_keep_their_rows(tmp_path, redis_url):
    for number, url in enumerate((None, redis_url)):
        store = new_store(tmp_path / str(number), url)
        write_online(store, [row("a", START + 9 * HOUR)])
        write_online(store, [Row(("a",), START, START, ("kept",))], "notes")
        store.apply(definitions())  # nothing changed
        assert state(store, "a") == (START + 9 * HOUR, 1)
        store.apply([machine(), view("readings", ["load"])])
        assert read_raw(store, "readings") == (None, None)
        gone = [store.get_feature_service("both"), store.get_feature_view("readings")]
        store.apply([], objects_to_delete=gone, partial=False)
        assert read_rows(store, ["a"], "notes") == [(START, ("kept",))]
        store.apply([machine(), view("readings")])
        write_online(store, [row("a", START)])  # older than what once was there
        assert state(store, "a") == (START, 1)
        store.teardown()


def read_raw(store: FeatureStore, name: str) -> object:
    published = store.get_feature_view(name)
    return store._get_provider().online_read(store.config, published, [entity_key("a")], ["load"])[
        0
    ]


def test_reads_answer_while_somebody_writes_to_the_file(tmp_path):
    store = new_store(tmp_path)
    write_online(store, [row("a")])
    with closing(sqlite3.connect(tmp_path / "online.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute(f'DELETE FROM "{store.project}_readings"')
        began = time.monotonic()
        assert state(store, "a") == (START, 1)
        fresh = FeatureStore(repo_path=str(tmp_path))
        assert state(fresh, "a") == (START, 1)
        assert time.monotonic() - began < 2


def test_a_file_that_stays_locked_is_named(tmp_path, monkeypatch):
    store = new_store(tmp_path)
    monkeypatch.setattr(online_sqlite, "BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(tmp_path / "online.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BusyError, match=r"online\.db is locked by others; try again"):
            write_online(store, [row("a")])


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    store = new_store(tmp_path)
    (tmp_path / "file").touch()
    store.config.online_store.path = str(tmp_path / "file" / "online.db")
    with pytest.raises(MillwrightError, match=r"file/online\.db cannot be used: .*file'"):
        write_online(store, [row("a")])


def test_a_view_that_was_not_published_is_named(tmp_path):
    new_store(tmp_path)
    (tmp_path / "online.db").unlink()
    for suffix in ("-wal", "-shm"):
        Path(f"{tmp_path}/online.db{suffix}").unlink(missing_ok=True)
    fresh = FeatureStore(repo_path=str(tmp_path))
    with pytest.raises(MillwrightError, match="'readings'; publish it: feast apply"):
        read_rows(fresh, ["a"])


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """The URL and the process of a Redis of its own."""
    with redis_server() as url:
        with redis.Redis.from_url(url) as client:
            pid = client.info("server")["process_id"]
        try:
            yield url, pid
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_frozen_redis_is_named_within_five_seconds(tmp_path, server):
    url, pid = server
    store = new_store(tmp_path, f"{url}?socket_timeout=0.4")  # a fifth of what is usual
    write_online(store, [row("a")])
    os.kill(pid, signal.SIGSTOP)
    fresh = FeatureStore(repo_path=str(tmp_path))
    for asked in (store, fresh):
        expect_named(url, "does not answer in time", lambda s=asked: read_rows(s, ["a"]))
    os.kill(pid, signal.SIGCONT)
    assert state(store, "a") == (START, 1)


def test_a_stopped_redis_is_named_within_five_seconds(tmp_path):
    with redis_server() as url:
        store = new_store(tmp_path, url)
        write_online(store, [row("a")])
    fresh = FeatureStore(repo_path=str(tmp_path))
    reads = {"features": ["readings:load"], "entity_rows": [{"machine_id": "a"}]}
    for asked in (store, fresh):
        expect_named(url, "cannot be reached", lambda s=asked: s.get_online_features(**reads))
        expect_named(url, "cannot be reached", lambda s=asked: write_online(s, [row("a")]))
        expect_named(url, "cannot be reached", lambda s=asked: s.apply([view("notes")]))
        online = asked._get_provider().online_store
        expect_named(
            url,
            "cannot be reached",
            lambda s=asked, o=online: o.delete_table(s.config, view("readings")),
        )


def test_a_wrong_password_is_told_and_not_repeated(tmp_path, redis_url):
    new_store(tmp_path, redis_url)
    wrong = redis_url.replace("redis://:", "redis://:not-")
    configuration = tmp_path / "feature_store.yaml"
    configuration.write_text(configuration.read_text().replace(redis_url, wrong))
    store = FeatureStore(repo_path=str(tmp_path))
    expect_named(wrong, "refuses the user or the password", lambda: read_rows(store, ["a"]))


def expect_named(url: str, reason: str, action: object) -> None:
    parts = redis.connection.parse_url(url)
    began = time.monotonic()
    with pytest.raises(
        MillwrightError, match=f"{parts['host']}:{parts['port']} {reason}"
    ) as caught:
        action()
    assert time.monotonic() - began < 5
    assert parts["password"] not in "".join(traceback.format_exception(caught.value))


def test_a_connection_is_a_url_or_as_feast_writes_it():
    parse = OrderedRedisOnlineStore._parse_connection_string
    patience = {"socket_timeout": 2, "socket_connect_timeout": 2, "retry": None}
    assert parse("rediss://u:p%2C%40@host:1/2?socket_timeout=0.5") == (
        [{"host": "host", "port": 1}],
        patience
        | {"username": "u", "password": "p,@", "db": 2, "ssl": True, "socket_timeout": 0.5},
    )
    assert parse("host:1,db=2") == ([{"host": "host", "port": "1"}], patience | {"db": 2})
    unquoted = "cr/et"
    with pytest.raises(ConfigurationError, match="is no URL of Redis") as caught:
        parse(f"redis://:{unquoted}@host:1")
    assert "cr" not in caught.value.args[0]
    assert unquoted not in "".join(traceback.format_exception(caught.value))


def test_the_section_shows_no_password_and_takes_no_way_around_the_order():
    section = OrderedRedisOnlineStoreConfig(connection_string="redis://:secret@host:1")
    assert "secret" not in repr(section)
    with pytest.raises(ValueError, match="skip_dedup"):
        OrderedRedisOnlineStoreConfig(skip_dedup=True)
