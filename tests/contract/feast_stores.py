"""Feast's stores and ours over the same rows, for tests that compare their answers."""

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy
from adbc_driver_postgresql import dbapi
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Float64, Int32, Int64, String
from feast.value_type import ValueType

from millwright.sql import quoted

INSTANT = pa.timestamp("us", tz="UTC")
TYPES = {
    pa.string(): (String, ValueType.STRING),
    pa.int16(): (Int32, ValueType.INT32),
    pa.int32(): (Int32, ValueType.INT32),
    pa.int64(): (Int64, ValueType.INT64),
    pa.float64(): (Float64, ValueType.DOUBLE),
}
OFFLINE_STORES = {
    "dask": {"type": "dask"},
    "duckdb": {"type": "duckdb"},
    "postgres": {"type": "postgres", "password": "", "sslmode": "disable"},
    "asof": {"type": "millwright.stores.asof.AsofDuckDBOfflineStore"},
    "asof_postgres": {"type": "millwright.stores.postgres.AsofPostgresOfflineStore"},
}


@dataclass(frozen=True)
class View:
    """A feature view, and the types that its columns are stored with."""

    name: str
    keys: Mapping[str, pa.DataType]
    features: Mapping[str, pa.DataType]
    event: pa.DataType = INSTANT
    created: pa.DataType | None = INSTANT
    time_to_live: timedelta | None = None
    indexed: bool = False

    @property
    def schema(self) -> pa.Schema:
        times = [("event_timestamp", self.event)]
        if self.created is not None:
            times.append(("created_timestamp", self.created))
        return pa.schema([*self.keys.items(), *times, *self.features.items()])

    def table(self, records: Sequence[Sequence[object]]) -> pa.Table:
        """Rows of keys, event time, created time if there is one, and features."""
        columns = zip(*records, strict=True) if records else [()] * len(self.schema)
        arrays = [
            pa.array(list(column), kind)
            for column, kind in zip(columns, self.schema.types, strict=True)
        ]
        return pa.table(arrays, schema=self.schema)

    def of(self, source: DataSource) -> FeatureView:
        """The view as Feast knows it."""
        columns = {**self.keys, **self.features}
        return FeatureView(
            name=self.name,
            entities=[entity(name, kind) for name, kind in self.keys.items()],
            ttl=self.time_to_live,
            schema=[Field(name=name, dtype=TYPES[kind][0]) for name, kind in columns.items()],
            source=source,
        )


def entity(name: str, kind: pa.DataType) -> Entity:
    return Entity(name=f"{name}_entity", join_keys=[name], value_type=TYPES[kind][1])


class Database:
    """The tables of views in PostgreSQL. The clock of its sessions is in `zone`."""

    def __init__(self, url: str, zone: str) -> None:
        parsed = sqlalchemy.make_url(url)
        self._connection = dbapi.connect(url, autocommit=True)
        self.place = {
            "host": parsed.query["host"],
            "database": parsed.database,
            "user": parsed.username,
        }
        self.run(f"ALTER DATABASE {parsed.database} SET TimeZone = '{zone}'")
        self.run(f"ALTER DATABASE {parsed.database} SET synchronous_commit = off")  # for speed

    def create(self, view: View) -> None:
        self.write(view, view.table([]))
        if view.indexed:
            keys = "".join(f"{name}, " for name in view.keys)
            created = ", created_timestamp DESC NULLS LAST" if view.created is not None else ""
            self.run(f"CREATE INDEX ON {view.name} ({keys}event_timestamp DESC{created})")

    def write(self, view: View, rows: pa.Table) -> None:
        """Have the table hold `rows`, in their order, and no others."""
        with self._connection.cursor() as cursor:
            cursor.adbc_ingest(view.name, rows.slice(0, 0), mode="create_append")
            cursor.execute(f"TRUNCATE {quoted(view.name)}")
            cursor.adbc_ingest(view.name, rows, mode="append")
            cursor.execute(f"ANALYZE {quoted(view.name)}")

    def drop(self, view: View) -> None:
        self.run(f"DROP TABLE {quoted(view.name)}")

    def close(self) -> None:
        self._connection.close()

    def run(self, sql: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)


class Stores:
    """Stores called `names`, with the same `views`, over parquet in `folder` and over `database`.

    What they are given as entity frame stays as it is: Feast does not make its times aware.
    """

    def __init__(
        self, folder: Path, database: Database, views: Sequence[View], names: Sequence[str]
    ) -> None:
        self.folder = folder
        self.database = database
        self._numbers = itertools.count()
        for view in views:
            database.create(view)
            self.write(view, [])
        self._stores = {name: self._opened(name, views) for name in names}

    def _opened(self, name: str, views: Sequence[View]) -> FeatureStore:
        on_server = "postgres" in name
        settings = OFFLINE_STORES[name] | (self.database.place if on_server else {})
        store = FeatureStore(
            config=RepoConfig(
                project="comparison",
                provider="local",
                registry=str(self.folder / f"{name}.db"),
                online_store={"type": "sqlite", "path": str(self.folder / "online.db")},
                offline_store=settings,
                entity_key_serialization_version=3,
                coerce_tz_aware=False,
            )
        )
        keys = {name: kind for view in views for name, kind in view.keys.items()}
        applied: list[Any] = [entity(name, kind) for name, kind in keys.items()]
        for view in views:
            times = {"timestamp_field": "event_timestamp"}
            if view.created is not None:
                times["created_timestamp_column"] = "created_timestamp"
            source: DataSource
            if on_server:
                source = PostgreSQLSource(name=f"{view.name}_rows", table=view.name, **times)
            else:
                path = str(self.folder / view.name)
                source = FileSource(
                    name=f"{view.name}_rows", path=path, file_format=ParquetFormat(), **times
                )
            applied.append(view.of(source))
        store.apply(applied)
        return store

    def serve(self, compose: Callable[[dict[str, FeatureView]], FeatureService]) -> None:
        """Have all stores know the service that `compose` makes of their views."""
        for store in self._stores.values():
            store.apply(compose({view.name: view for view in store.list_feature_views()}))

    def write(self, view: View, *files: Sequence[Sequence[object]]) -> None:
        """Have `view` hold the records of `files`, in their order, and no others.

        Files get names of their own: DuckDB, as Feast keeps it, would take one for another of its
        name and second.
        """
        place = self.folder / view.name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        tables = [view.table(records) for records in files]
        for rows in tables:
            pq.write_table(rows, place / f"{next(self._numbers):06}.parquet", row_group_size=100)
        self.database.write(view, pa.concat_tables(tables))

    def remove(self, view: View) -> None:
        """Have neither files nor a table of `view`."""
        shutil.rmtree(self.folder / view.name)
        self.database.drop(view)

    def ask(
        self, name: str, frame: pd.DataFrame | None, features: Sequence[str] | str, **options: Any
    ) -> pa.Table:
        """What the store called `name` answers. `features` are references or a service's name."""
        given = None if frame is None else frame.copy()
        store = self._stores[name]
        asked = store.get_feature_service(features) if isinstance(features, str) else [*features]
        return store.get_historical_features(given, asked, **options).to_arrow()
