"""Rows as they go online, in columns, and what our online stores have in common.

Of two rows of one key that with the later event time stays, and of two with one event time that
with the later created time, whoever writes first. So writing may be repeated, late or doubled.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Self

import numpy as np
import pyarrow as pa
from feast import FeatureView, Field, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from millwright.errors import DataError, InputError, first_line
from millwright.stores import online_values
from millwright.stores.asof_join import to_microseconds
from millwright.stores.parquet_files import microseconds

NEVER = -(2**53)  # the created time of a row without one; Redis counts exactly no further

FeastRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


@dataclass(frozen=True)
class OnlineRows:
    """Some rows of one view, as bytes.

    `keys` are Feast's serialized entity keys; `values` holds a column of Feast's serialized values
    for each feature. `events` and `created` are microseconds since 1970, UTC.
    """

    keys: "pa.Array[Any]"
    events: "np.ndarray[Any, Any]"
    created: "np.ndarray[Any, Any]"
    values: Mapping[str, "pa.Array[Any]"]

    def __len__(self) -> int:
        return len(self.events)

    @classmethod
    def of_arrow(cls, view: FeatureView, rows: pa.RecordBatch) -> Self:
        """The rows of an offline store, whose columns are called as in the view.

        Raises:
            DataError: there can be no such key, or a value is not what its feature is.
        """
        source = view.batch_source
        created = source.created_timestamp_column
        return cls(
            _keys(view, rows),
            _instants(rows[source.timestamp_field]),
            _instants(rows[created]) if created else np.full(len(rows), NEVER),
            {field.name: _values(view, field, rows[field.name]) for field in view.features},
        )

    @classmethod
    def of_feast(cls, config: RepoConfig, rows: Iterable[FeastRow]) -> Self:
        """Rows as Feast has them, all of them with the same features."""
        entities, messages, events, created = zip(*rows, strict=True)
        version = config.entity_key_serialization_version
        return cls(
            pa.array([serialize_entity_key(key, version) for key in entities], pa.binary()),
            np.array([microseconds(time) for time in events]),
            np.array([NEVER if time is None else microseconds(time) for time in created]),
            {
                name: pa.array([each[name].SerializeToString() for each in messages], pa.binary())
                for name in messages[0]
            },
        )


class OrderedOnlineStore(OnlineStore):  # type: ignore[misc]
    """An online store of Feast whose rows only ever become newer."""

    writers = 1  # batches that it is worth to have under way at once

    @abstractmethod
    def write_rows(self, config: RepoConfig, view: FeatureView, rows: OnlineRows) -> None:
        """Write the rows that are not older than what is there, each of them whole."""

    @abstractmethod
    def event_times(
        self, config: RepoConfig, view: FeatureView, keys: "pa.Array[Any]"
    ) -> list[int | None]:
        """When the row of each of `keys` was true, in microseconds since 1970, or None."""

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[FeastRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows as Feast has them, as `write_rows` does."""
        for _, rows in groupby(data, key=lambda row: tuple(row[1])):
            some = OnlineRows.of_feast(config, rows)
            self.write_rows(config, table, some)
            if progress:
                progress(len(some))


def _keys(view: FeatureView, rows: pa.RecordBatch) -> online_values.Bytes:
    kinds = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    try:
        return online_values.entity_keys({name: rows[name] for name in kinds}, kinds, len(rows))
    except InputError as err:
        raise DataError(f"view '{view.name}': {err}") from err


def _values(view: FeatureView, field: Field, column: "pa.Array[Any]") -> online_values.Bytes:
    try:
        return online_values.values(column, field.dtype.to_value_type())
    except (ValueError, TypeError, AssertionError) as err:  # as Feast and Arrow put it
        raise DataError(
            f"view '{view.name}': feature '{field.name}' is {field.dtype}, and its source has "
            f"{column.type}: {first_line(err)}; correct the view or the rows"
        ) from err


def _instants(times: Any) -> "np.ndarray[Any, Any]":
    whole: Any = to_microseconds(times).cast(pa.int64())
    found: np.ndarray[Any, Any] = whole.fill_null(NEVER).to_numpy(zero_copy_only=False)
    return found
