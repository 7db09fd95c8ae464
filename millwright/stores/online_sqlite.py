"""Feast's SQLite online store, whose rows only ever become newer.

In `feature_store.yaml`:

    online_store:
      type: millwright.stores.online_sqlite.OrderedSqliteOnlineStore
      path: ../.millwright/local/online.db

Feast's own store lets whoever writes last win, and keeps times in seconds. This one keeps of two
rows of one key that with the later event time, and of two with one event time that with the later
created time. Feast's own readers can read its tables, which have two more columns; what
Feast's own store has written counts as older than everything.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from feast import Entity, FeatureView, RepoConfig, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.sqlite import (
    SqliteOnlineStore,
    SqliteOnlineStoreConfig,
    _alter_table_add_column_if_missing,
    _table_id,
    adapt_datetime_epoch,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import to_naive_utc
from pydantic import StrictStr

from millwright.errors import BusyError, MillwrightError
from millwright.sql import quoted
from millwright.stores.online_rows import NEVER, OnlineRows, OrderedOnlineStore
from millwright.stores.parquet_files import EPOCH

BUSY_SECONDS = 30  # that a writer waits for its turn
KEYS_AT_ONCE = 10_000  # SQLite takes 32,766 parameters
TIMES = ("event_us", "created_us")  # microseconds since 1970, UTC

Found = tuple[datetime | None, dict[str, Value] | None]


class OrderedSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):  # type: ignore[misc]
    """The section `online_store` of `feature_store.yaml`."""

    type: StrictStr = "millwright.stores.online_sqlite.OrderedSqliteOnlineStore"


class OrderedSqliteOnlineStore(OrderedOnlineStore, SqliteOnlineStore):  # type: ignore[misc]
    """Feast's SQLite store with order-safe, idempotent writes. It keeps no vectors."""

    _conn: sqlite3.Connection | None = None

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        if self._conn is None:
            self._conn = _connect(self._get_db_path(config))
        return self._conn

    def write_rows(self, config: RepoConfig, view: FeatureView, rows: OnlineRows) -> None:
        """Write the rows that are not older than what is there, all of them or none.

        Raises:
            BusyError: others kept the file locked.
            MillwrightError: it cannot be written, or the view was not published.
        """
        path, name = self._get_db_path(config), _name(config, view)
        texts = {f.name for f in view.features if f.dtype.to_value_type() == ValueType.STRING}
        # A connection of its own, so that threads that read never see half a batch.
        with _naming(path, view), closing(_connect(path)) as connection:
            _add_times(connection, name)
            with connection:
                connection.executemany(_upsert(name), _records(rows, texts))

    def event_times(
        self, config: RepoConfig, view: FeatureView, keys: "pa.Array[Any]"
    ) -> list[int | None]:
        """When the row of each of `keys` was true, in microseconds since 1970, or None."""
        found: dict[bytes, int] = {}
        names: list[Any] = keys.to_pylist()
        with _naming(self._get_db_path(config), view):
            connection = self._get_conn(config)
            for start in range(0, len(names), KEYS_AT_ONCE):
                some = names[start : start + KEYS_AT_ONCE]
                found |= connection.execute(
                    f"SELECT entity_key, event_us FROM {quoted(_name(config, view))} WHERE "
                    f"feature_name = ? AND entity_key IN ({', '.join('?' * len(some))})",
                    [view.features[0].name, *some],
                )
        return [found.get(name) for name in names]

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,  # noqa: ARG002
    ) -> list[Found]:
        """All features of each key with their event time in microseconds, or twice None."""
        keys = [_key(config, key) for key in entity_keys]
        found: dict[bytes, tuple[datetime, dict[str, Value]]] = {}
        with _naming(self._get_db_path(config), table):
            connection, name = self._get_conn(config), _name(config, table)
            _add_times(connection, name)
            for start in range(0, len(keys), KEYS_AT_ONCE):
                some = keys[start : start + KEYS_AT_ONCE]
                rows = connection.execute(
                    "SELECT entity_key, feature_name, value, event_us, event_ts "
                    f"FROM {quoted(name)} WHERE entity_key IN ({', '.join('?' * len(some))})",
                    some,
                )
                for key, feature, value, event, seconds in rows:
                    when = seconds.replace(tzinfo=UTC) if event is None else _moment(event)
                    found.setdefault(key, (when, {}))[1][feature] = Value.FromString(value)
        return [found.get(key, (None, None)) for key in keys]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Make and drop tables as Feast does, and empty those of views with other features now.

        What was computed by another definition must not hold back what the new one says.
        """
        with _naming(self._get_db_path(config)):
            super().update(
                config,
                tables_to_delete,
                tables_to_keep,
                entities_to_delete,
                entities_to_keep,
                partial,
            )
            connection = self._get_conn(config)
            for view in tables_to_keep:
                name = _name(config, view)
                _add_times(connection, name)
                rows = connection.execute(f"SELECT DISTINCT feature_name FROM {quoted(name)}")
                known = {row[0] for row in rows}
                if isinstance(view, FeatureView) and known - {f.name for f in view.features}:
                    with connection:
                        connection.execute(f"DELETE FROM {quoted(name)}")

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Remove the file and what SQLite keeps beside it."""
        if self._conn is not None:  # it would go on with the file that is gone
            self._conn.close()
            self._conn = None
        super().teardown(config, tables, entities)
        for suffix in ("-wal", "-shm"):
            Path(f"{self._get_db_path(config)}{suffix}").unlink(missing_ok=True)


def _connect(path: str) -> sqlite3.Connection:
    """Open the file so that reads answer while somebody writes.

    A kill of the process loses nothing that was committed; a power cut may lose the last batches,
    which the next materialization writes again.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        detect_types=sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES,
        check_same_thread=False,
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _name(config: RepoConfig, view: FeatureView) -> str:
    name: str = _table_id(
        config.project, view, config.registry.enable_online_feature_view_versioning
    )
    return name


def _key(config: RepoConfig, key: EntityKey) -> bytes:
    serialized: bytes = serialize_entity_key(
        key, entity_key_serialization_version=config.entity_key_serialization_version
    )
    return serialized


def _moment(since_1970: int) -> datetime:
    return EPOCH + timedelta(microseconds=since_1970)


def _add_times(connection: sqlite3.Connection, name: str) -> None:
    """Give a table the columns that Feast's has not."""
    there = {row[1] for row in connection.execute(f"PRAGMA table_info({quoted(name)})")}
    for column in TIMES:
        if there and column not in there:
            _alter_table_add_column_if_missing(connection, name, column, "INTEGER")


def _upsert(name: str) -> str:
    columns = ["entity_key", "feature_name", "value", "value_text", "event_ts", "created_ts"]
    columns += TIMES
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns[2:])
    return (
        f"INSERT INTO {quoted(name)} AS old ({', '.join(columns)}) "
        f"VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT (entity_key, feature_name) DO UPDATE SET {changes} "
        "WHERE old.event_us IS NULL "
        "OR (excluded.event_us, excluded.created_us) >= (old.event_us, old.created_us)"
    )


def _records(rows: OnlineRows, texts: Collection[str]) -> Iterator[tuple[Any, ...]]:
    """One record for each feature of each row, with times as Feast writes them and as we do.

    Feast keeps the features `texts` in plain text, too. It does so with numbers, and never looks.
    """
    names, nothing = list(rows.values), [None] * len(rows)
    values = [column.to_pylist() for column in rows.values.values()]
    plain = [
        _texts(column) if name in texts else nothing
        for name, column in zip(names, values, strict=True)
    ]
    seconds = [_seconds(times) for times in (rows.events, rows.created)]
    times = zip(*seconds, rows.events.tolist(), rows.created.tolist(), strict=True)
    cells = zip(zip(*values, strict=True), zip(*plain, strict=True), strict=True)
    for key, when, (row, row_texts) in zip(rows.keys.to_pylist(), times, cells, strict=True):
        for name, value, text in zip(names, row, row_texts, strict=True):
            yield (key, name, value, text, *when)


def _texts(values: list[Any]) -> list[str | None]:
    return [Value.FromString(value).string_val if value else None for value in values]


def _seconds(times: "np.ndarray[Any, Any]") -> list[int | None]:
    """Times as Feast's own store writes them, each distinct one converted once."""
    distinct, places = np.unique(times, return_inverse=True)
    known = [
        None if time == NEVER else adapt_datetime_epoch(to_naive_utc(_moment(time)))
        for time in distinct.tolist()
    ]
    return [known[place] for place in places.tolist()]


@contextmanager
def _naming(path: str, view: FeatureView | None = None) -> Iterator[None]:
    """Name the file in whatever goes wrong with it."""
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as err:
        reason = str(err)
        if "locked" in reason:
            raise BusyError(f"the online store {path} is locked by others; try again") from err
        if "no such table" in reason and view is not None:
            raise MillwrightError(
                f"the online store {path} does not know view '{view.name}'; publish it: feast apply"
            ) from err
        raise MillwrightError(f"the online store {path} cannot be used: {reason}") from err
