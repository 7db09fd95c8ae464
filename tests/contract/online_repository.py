"""A small feature repository for the tests of the online side, on SQLite and on Redis."""

import inspect
import os
import secrets
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float32, String
from oracle import Row

from millwright.materialization import materialize
from millwright.stores import online_load, online_redis, online_sqlite

START = datetime(2025, 3, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
INSTANT = pa.timestamp("us", tz="UTC")

CONFIGURATION = """
project: {project}
provider: millwright.stores.provider.GuardedProvider
registry:
  registry_type: sql
  path: sqlite:///{folder}/registry.db
  cache_ttl_seconds: 3600
  serve_features_while_materializing: true
online_store:
{online}
offline_store:
  type: millwright.stores.asof.AsofDuckDBOfflineStore
  memory_limit: 1GB
  threads: 1
materialization:
  pull_latest_features: true
entity_key_serialization_version: 3
"""
SQLITE = """\
  type: millwright.stores.online_sqlite.OrderedSqliteOnlineStore
  path: {folder}/online.db"""
REDIS = """\
  type: millwright.stores.online_redis.OrderedRedisOnlineStore
  connection_string: {url}"""

FEATURES = {"readings": ("load", "wear"), "notes": ("note",)}
KINDS = {"load": (Float32, pa.float32()), "wear": (Float32, pa.float32()),
         "note": (String, pa.string())}  # fmt: skip
LIVES = {"readings": 2 * HOUR, "notes": None}


def machine() -> Entity:
    return Entity(name="machine", join_keys=["machine_id"], value_type=ValueType.STRING)


def view(name: str, features: Sequence[str] | None = None) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[machine()],
        ttl=LIVES[name],
        schema=[
            Field(name="machine_id", dtype=String),
            *(Field(name=f, dtype=KINDS[f][0]) for f in features or FEATURES[name]),
        ],
        source=FileSource(
            name=f"{name}_source",
            path=name,
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )


def definitions() -> list[object]:
    """Everything there is; made anew each time, for Feast writes into what it publishes."""
    readings, notes = view("readings"), view("notes")
    both = FeatureService(name="both", features=[notes, readings[["wear", "load"]]])
    return [machine(), readings, notes, both]


def new_store(folder: Path, redis_url: str | None = None) -> FeatureStore:
    """A feature store with everything published, on SQLite or on Redis, in a project of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    online = SQLITE.format(folder=folder) if redis_url is None else REDIS.format(url=redis_url)
    text = CONFIGURATION.format(project=f"p{secrets.token_hex(4)}", folder=folder, online=online)
    (folder / "feature_store.yaml").write_text(text)
    store = FeatureStore(repo_path=str(folder))
    store.apply(definitions())
    return store


def write_offline(store: FeatureStore, name: str, rows: Sequence[Row]) -> None:
    """Replace the rows of a view in the offline store."""
    columns = [
        pa.array([row.key[0] for row in rows], pa.string()),
        pa.array([row.event for row in rows], INSTANT),
        pa.array([row.created for row in rows], INSTANT),
    ]
    for index, feature in enumerate(FEATURES[name]):
        columns.append(pa.array([row.values[index] for row in rows], KINDS[feature][1]))
    names = ["machine_id", "event_timestamp", "created_timestamp", *FEATURES[name]]
    folder = Path(store.repo_path) / name
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns, names=names), folder / "part.parquet")


def entity_key(name: str) -> EntityKey:
    return EntityKey(join_keys=["machine_id"], entity_values=[Value(string_val=name)])


def write_online(store: FeatureStore, rows: Sequence[Row], name: str = "readings") -> None:
    """Write rows straight to the online store, as one batch."""
    batch = [
        (
            entity_key(row.key[0]),
            {f: as_value(v) for f, v in zip(FEATURES[name], row.values, strict=True)},
            row.event,
            row.created,
        )
        for row in rows
    ]
    published = store.get_feature_view(name, allow_registry_cache=True)
    store._get_provider().online_write_batch(store.config, published, batch, None)


def read_rows(
    store: FeatureStore, machines: Sequence[str], name: str = "readings"
) -> list[tuple[datetime | None, tuple[object, ...] | None]]:
    """What the online store has of each machine: event time and values."""
    published = store.get_feature_view(name, allow_registry_cache=True)
    found = store._get_provider().online_read(
        store.config, published, [entity_key(m) for m in machines], list(FEATURES[name])
    )
    return [
        (event, None if values is None else tuple(plain(values[f]) for f in FEATURES[name]))
        for event, values in found
    ]


def as_value(value: object) -> Value:
    if value is None:
        return Value()
    return Value(string_val=value) if isinstance(value, str) else Value(float_val=value)


def plain(value: Value) -> object:
    kind = value.WhichOneof("val")
    return getattr(value, kind) if kind else None


def materialize_elsewhere(
    folder: str, now: datetime, ready: Event, go: Event, rows: int | None
) -> None:
    """What a process does that gets killed, or kills itself in the middle after so many `rows`."""
    online_load.ROWS_AT_ONCE, online_redis.ROWS_AT_ONCE = 7, 3
    if rows is not None:
        left = iter(range(rows))
        for module, name in ((online_sqlite, "_records"), (online_redis, "_contents")):
            setattr(module, name, _deadly(getattr(module, name), left))
    store = FeatureStore(repo_path=folder)
    store.list_feature_views()
    ready.set()
    go.wait()
    while True:
        materialize(store, ["readings", "notes"], now)


def _deadly(function: Callable[..., Iterable[object]], left: Iterator[int]) -> object:
    def records(*arguments: object) -> Iterator[object]:
        for record in function(*arguments):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            yield record

    if inspect.isgeneratorfunction(function):
        return records
    return lambda *arguments: list(records(*arguments))
