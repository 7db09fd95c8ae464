"""Results of contenders, kept as parquet and compared value by value.

Nulls are equal to nulls. A frame of pandas has NaN for them, so NaN counts as null. Times are
compared in UTC, to the microsecond; one without a zone is in UTC.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq


def keep(result: Any, folder: Path) -> None:
    """Keep what a contender has made: a frame, parquet files, or a dictionary of such."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = result if isinstance(result, Mapping) else {"result": result}
    for name, table in tables.items():
        if isinstance(table, Path):
            table.rename(folder / name)
        else:
            pq.write_table(_arrow(table), folder / name, compression="lz4")


def difference(
    one: Path, other: Path, key: Sequence[str] | Mapping[str, Sequence[str]], tolerance: float
) -> str | None:
    """Where the results in two folders differ first, or None if they are equal."""
    names = [sorted(path.name for path in folder.iterdir()) for folder in (one, other)]
    if names[0] != names[1]:
        return f"tables {', '.join(names[0])} against {', '.join(names[1])}"
    for name in names[0]:
        by = key.get(name, ()) if isinstance(key, Mapping) else key
        found = _table_difference(_dataset(one / name), _dataset(other / name), by, tolerance)
        if found:
            return found if len(names[0]) == 1 else f"{name}: {found}"
    return None


def _table_difference(
    one: pyarrow.dataset.Dataset,
    other: pyarrow.dataset.Dataset,
    key: Sequence[str],
    tolerance: float,
) -> str | None:
    if one.count_rows() != other.count_rows():
        return f"{one.count_rows():,} rows against {other.count_rows():,}"
    columns = [set(each.schema.names) for each in (one, other)]
    if columns[0] != columns[1]:
        return f"only one has the columns {', '.join(sorted(columns[0] ^ columns[1]))}"
    readers = [_reader(each, key) for each in (one, other)]
    for name in one.schema.names:
        found = _column_difference(readers[0](name), readers[1](name), tolerance)
        if found:
            return f"column {name}: {found}"
    return None


def _reader(table: pyarrow.dataset.Dataset, key: Sequence[str]) -> Callable[[str], "pa.Array[Any]"]:
    """What reads a column of `table`, in the order of the key if there is one."""

    def column(name: str) -> "pa.Array[Any]":
        return _plain(table.to_table(columns=[name])[name].combine_chunks())

    if not key:
        return column
    order = pc.sort_indices(
        pa.table({name: column(name) for name in key}),
        sort_keys=[(name, "ascending") for name in key],
    )
    return lambda name: column(name).take(order)


def _column_difference(
    one: "pa.Array[Any]", other: "pa.Array[Any]", tolerance: float
) -> str | None:
    numeric = [pa.types.is_integer(a.type) or pa.types.is_floating(a.type) for a in (one, other)]
    if all(numeric) and one.type != other.type:
        one, other = one.cast(pa.float64()), other.cast(pa.float64())
    if one.type != other.type:
        return f"{one.type} against {other.type}"
    unequal = _numpy(pc.not_equal(one.is_null(), other.is_null()))
    if pa.types.is_floating(one.type) and tolerance:
        values = [_numpy(each.fill_null(0)) for each in (one, other)]
        unequal |= ~np.isclose(values[0], values[1], rtol=tolerance, atol=tolerance)
    else:
        apart: Any = pc.not_equal(one, other)
        unequal |= _numpy(apart.fill_null(fill_value=False))
    at = np.flatnonzero(unequal)
    if not len(at):
        return None
    first = int(at[0])
    return f"{len(at):,} values, the first in row {first}: {one[first]} against {other[first]}"


def _numpy(column: Any) -> "np.ndarray[Any, Any]":
    return np.array(column.to_numpy(zero_copy_only=False))


def _plain(column: "pa.Array[Any]") -> "pa.Array[Any]":
    """`column` as a type that says nothing of where it came from."""
    kind: Any = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_timestamp(kind):
        in_utc = column.cast(pa.timestamp(kind.unit, tz="UTC"))
        return in_utc.cast(pa.timestamp("us", tz="UTC"), safe=False)
    if pa.types.is_floating(kind):
        plain: pa.Array[Any] = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
        return plain
    return column


def _dataset(path: Path) -> pyarrow.dataset.Dataset:
    return pyarrow.dataset.dataset(path, format="parquet")


def _arrow(frame: Any) -> pa.Table:
    if isinstance(frame, pa.Table):
        return frame
    if hasattr(frame, "to_arrow"):  # of polars
        table: pa.Table = frame.to_arrow()
        return table
    return pa.Table.from_pandas(frame, preserve_index=False)
