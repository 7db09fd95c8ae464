"""The newest row of every device, from parquet to Redis and SQLite: ours against Feast as shipped.

Ours is the materialization of the pipelines, and Feast's own `FeatureStore.materialize` with our
stores and provider. Both of them look for every row afterwards, which Feast as shipped does not.
Feast brings one view after the other, where the pipelines bring all views of a machine together.
"""

import contextlib
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import redis
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

from benchmarks.benchmark import Benchmark, Case, Contender, Size, faster
from millwright.materialization import materialize

START = datetime(2025, 1, 1, tzinfo=UTC)
END = START + timedelta(days=2)
HOURS = 24  # of history, a row for each
KEY = "device_id"
READ = 10_000  # devices whose features are compared, spread over all
AT_ONCE = 1_000

OURS, BY_HAND, FEAST = "millwright", "millwright, by feast", "feast"
OPTIONS = {"seed": 1, "views": 4, "features": 10}
ONLINE = {
    (OURS, "redis"): "millwright.stores.online_redis.OrderedRedisOnlineStore",
    (OURS, "sqlite"): "millwright.stores.online_sqlite.OrderedSqliteOnlineStore",
}


def make(case: Case) -> None:
    """A parquet file for each view, and the same of three devices to warm up with."""
    options = case.options
    for folder, devices in ((case.data, options["devices"]), (case.data / "tiny", 3)):
        folder.mkdir(parents=True, exist_ok=True)
        names = np.array([f"device_{number:06d}" for number in range(devices)])
        hours = np.datetime64(START.replace(tzinfo=None), "us") + np.arange(HOURS) * np.timedelta64(
            1, "h"
        )
        times = pa.array(np.repeat(hours, devices)).cast(pa.timestamp("us", tz="UTC"))
        generator = np.random.default_rng(options["seed"])
        for view, features in _views(case).items():
            columns: dict[str, Any] = {KEY: np.tile(names, HOURS), "event": times, "created": times}
            for feature in features:
                columns[feature] = generator.standard_normal(len(times), dtype=np.float32)
            pq.write_table(pa.table(columns), folder / f"{view}.parquet")


def _by_pipeline(store: FeatureStore) -> None:
    materialize(store, [view.name for view in store.list_feature_views()], END)


def _by_feast(store: FeatureStore) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        store.materialize(START, END)


def _begin(
    online: str, kind: str, work: Callable[[FeatureStore], None], case: Case
) -> Callable[[], object]:
    """Do it once with the tiny fleet; return the work, whose result is read after the clock."""
    if kind == "redis":
        with redis.Redis.from_url(case.servers["redis"]) as client:
            client.flushall()
    work(_opened(online, kind, case, case.data / "tiny", case.scratch / "tiny"))
    store = _opened(online, kind, case, case.data, case.scratch / "fleet")

    def measured() -> object:
        work(store)
        return partial(_read, store, case)

    return measured


def _opened(online: str, kind: str, case: Case, data: Path, folder: Path) -> FeatureStore:
    """A feature store in `folder`, with all views applied to it."""
    folder.mkdir(parents=True)
    ours = online == OURS
    section: dict[str, Any] = {"type": ONLINE.get((online, kind), kind)}
    if kind == "sqlite":
        section["path"] = str(folder / "online.db")
    else:
        url = case.servers["redis"]
        section["connection_string"] = url if ours else as_feast_writes_it(url)
    configuration = {
        "project": folder.name,
        "provider": "millwright.stores.provider.GuardedProvider" if ours else "local",
        "registry": str(folder / "registry.db"),
        "offline_store": {
            "type": "millwright.stores.asof.AsofDuckDBOfflineStore" if ours else "duckdb"
        },
        "online_store": section,
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    store = FeatureStore(repo_path=str(folder))
    device = Entity(name="device", join_keys=[KEY], value_type=ValueType.STRING)
    store.apply([device, *(_view(device, data, *each) for each in _views(case).items())])
    return store


def _view(device: Entity, data: Path, name: str, features: list[str]) -> FeatureView:
    source = FileSource(
        name=name,
        path=str(data / f"{name}.parquet"),
        timestamp_field="event",
        created_timestamp_column="created",
    )
    schema = [Field(name=feature, dtype=Float32) for feature in features]
    return FeatureView(name=name, entities=[device], ttl=None, schema=schema, source=source)


def _views(case: Case) -> dict[str, list[str]]:
    return {
        f"view_{view}": [f"v{view}_f{feature}" for feature in range(case.options["features"])]
        for view in range(case.options["views"])
    }


def _read(store: FeatureStore, case: Case) -> pd.DataFrame:
    """What `get_online_features` gives for devices spread over the fleet."""
    devices = case.options["devices"]
    asked = [{KEY: f"device_{number:06d}"} for number in range(0, devices, -(-devices // READ))]
    features = [f"{view}:{name}" for view, names in _views(case).items() for name in names]
    found: pd.DataFrame = pd.concat(
        store.get_online_features(features, asked[start : start + AT_ONCE]).to_df()
        for start in range(0, len(asked), AT_ONCE)
    )
    return found


def as_feast_writes_it(url: str) -> str:
    """The URL of a Redis server, as Feast's own store reads it."""
    parts = urlsplit(url)
    password = f",password={parts.password}" if parts.password else ""
    return f"{parts.hostname}:{parts.port}{password}"


def _benchmark(kind: str, times: float, times_by_hand: float) -> Benchmark:
    claims = [faster(FEAST, times, ours=OURS), faster(FEAST, times_by_hand, ours=BY_HAND)]
    return Benchmark(
        f"materialize {kind}",
        f"the newest of {HOURS} rows a device, 40 features, to {kind}, against Feast as shipped",
        make,
        [
            Contender(OURS, partial(_begin, OURS, kind, _by_pipeline)),
            Contender(BY_HAND, partial(_begin, OURS, kind, _by_feast), as_shipped=True),
            Contender(FEAST, partial(_begin, FEAST, kind, _by_feast), as_shipped=True),
        ],
        sizes={
            "quick": Size({**OPTIONS, "devices": 1_000}),
            "full": Size({**OPTIONS, "devices": 100_000}, repeats=1, claims=claims),
        },
        key=[KEY],
        servers=["redis"] if kind == "redis" else [],
    )


BENCHMARKS = [_benchmark("redis", 5, 4), _benchmark("sqlite", 1, 1)]
