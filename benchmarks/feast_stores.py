"""Feast as a user has it: a `feature_store.yaml` that names a store, and `FeatureStore`."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.types import Float32

from benchmarks import fleets
from benchmarks.benchmark import Case, Contender

# As the environments of this project have them; the rest as Feast ships it.
STORES: Mapping[str, dict[str, Any]] = {
    "millwright": {
        "type": "millwright.stores.asof.AsofDuckDBOfflineStore",
        "memory_limit": "2GB",
    },
    "millwright postgres": {"type": "millwright.stores.postgres.AsofPostgresOfflineStore"},
    "feast duckdb": {"type": "duckdb"},
    "feast dask": {"type": "dask"},
    "feast postgres": {"type": "postgres"},
}
PARQUET = "result.parquet"

Fetch = Callable[[], RetrievalJob]


def to_frame(store: str, name: str = "", **options: Any) -> Contender:
    """The features of all cut-offs as a frame of pandas, by one of `STORES`."""
    return Contender(
        name or store,
        lambda case: _begun(store, case, lambda fetch, _: fetch().to_df()),
        {key: value for key, value in options.items() if key != "repeats"},
        options.get("repeats"),
        as_shipped=_feasts_own(store),
    )


def to_parquet(store: str, **options: Any) -> Contender:
    """The same to a parquet file, as a saved dataset would have it."""

    def save(fetch: Fetch, folder: Path) -> Path:
        path = folder / PARQUET
        fetch().persist(SavedDatasetFileStorage(str(path)), allow_overwrite=True)
        return path

    return Contender(
        store,
        lambda case: _begun(store, case, save),
        repeats=options.get("repeats"),
        as_shipped=_feasts_own(store),
    )


def _feasts_own(store: str) -> bool:
    return not STORES[store]["type"].startswith("millwright.")


def opened(store: str, case: Case, folder: Path, prefix: str = "") -> FeatureStore:
    """A feature store in `folder`, with the views of a benchmark applied to it.

    `prefix` is that of the tables' names, where they are in PostgreSQL.
    """
    section = STORES[store]
    if "postgres" in case.servers:
        section = {**section, **_address(case.servers["postgres"])}
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "project": "benchmark",
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "offline_store": section,
        "online_store": {"type": "sqlite", "path": str(folder / "online.db")},
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    feature_store = FeatureStore(repo_path=str(folder))
    machine = Entity(name="machine", value_type=ValueType.STRING)
    sources = {view.name: _source(view, case, prefix) for view in fleets.views(case.options)}
    feature_store.apply(
        [
            machine,
            *(
                FeatureView(
                    name=view.name,
                    entities=[machine],
                    ttl=timedelta(hours=view.hours_to_live),
                    schema=[Field(name=name, dtype=Float32) for name in view.columns],
                    source=sources[view.name],
                )
                for view in fleets.views(case.options)
            ),
        ]
    )
    return feature_store


def _begun(store: str, case: Case, work: Callable[[Fetch, Path], object]) -> Callable[[], object]:
    """Do all of it once with a tiny fleet, so that what is imported late is; return the work."""
    tiny = case.scratch / "tiny"
    work(_fetching(store, case, tiny, case.data / "tiny", "tiny_"), tiny)
    fetch = _fetching(store, case, case.scratch, case.data, "")
    return lambda: work(fetch, case.scratch)


def _fetching(store: str, case: Case, folder: Path, data: Path, prefix: str) -> Fetch:
    here = Case(case.options, data, folder, case.servers)
    feature_store = opened(store, here, folder, prefix)
    cutoffs = pd.read_parquet(data / fleets.CUTOFFS)
    features = [f"{v.name}:{name}" for v in fleets.views(case.options) for name in v.columns]
    return lambda: feature_store.get_historical_features(entity_df=cutoffs, features=features)


def _source(view: fleets.View, case: Case, prefix: str) -> FileSource | PostgreSQLSource:
    columns = {
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": "created_timestamp",
    }
    if "postgres" in case.servers:
        return PostgreSQLSource(name=view.name, table=f"{prefix}{view.name}", **columns)
    newest = sorted((case.data / view.name).iterdir())[-case.options.get("newest", 1) :]
    folder = case.scratch / "source" / view.name
    folder.mkdir(parents=True)
    for file in newest:
        (folder / file.name).hardlink_to(file)
    # Feast's own stores take a file.
    path = folder if len(newest) > 1 else folder / newest[0].name
    return FileSource(name=view.name, path=str(path), **columns)


def _address(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "host": parts.hostname,
        "port": parts.port,
        "database": parts.path.lstrip("/"),
        "db_schema": "public",
        "user": parts.username,
        "password": parts.password,
        "sslmode": "disable",
    }
