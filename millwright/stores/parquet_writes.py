"""Rows appended to a table of parquet files: whole or not at all, and the same rows once.

Into a folder they go as a file of their own, which is called by its content. A table that is a
single file is written anew.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from millwright.configuration import nearest
from millwright.errors import DataError
from millwright.sql import quoted
from millwright.stores import places
from millwright.stores.duckdb_reader import reader
from millwright.stores.parquet_files import Table, reading
from millwright.stores.places import Place
from millwright.stores.request import Written

NULL = "__HIVE_DEFAULT_PARTITION__"  # what a folder of rows without a value is called


def append(
    connection: duckdb.DuckDBPyConnection, place: Place, rows: pa.Table, written: Written
) -> None:
    """Append `rows` to the table at `place`; columns go by name, times without a zone are UTC.

    The same rows once more change nothing. In a single file they take the place of those of the
    same keys and times; in a folder the join finds the later ones, by the names of the files.

    Raises:
        DataError: `rows` lack a column, or have one that the table lacks, or another type.
        BusyError: a single file was changed at the same time.
    """
    if not rows.num_rows:
        return
    if not places.is_file(place):
        files = places.find(place)
        places.append(_typed(rows, written, files.schema() if files.paths else None, place), place)
    else:
        places.rewrite(lambda files: _anew(connection, rows, written, place, files), place)


def log(place: Place, rows: pa.Table | Path, partition_by: Sequence[str]) -> None:
    """Append `rows`, or those of a folder of parquet files, to the folder at `place`.

    There they go into a folder for each value of the columns `partition_by`, such as
    `date=2025-01-01`; the columns stay in the files too. The same rows once more change nothing.
    """
    for table in _tables(rows):
        for folders, part in _partitions(table, list(partition_by)):
            places.append(part, places.below(place, folders))


def _typed(rows: pa.Table, written: Written, schema: pa.Schema | None, place: Place) -> pa.Table:
    """`rows` with the types of the files at `place`, or of the view where there are none yet."""
    types = {field.name: field.type for field in schema} if schema else {}
    types |= {name: kind for name, kind in written.types.items() if name not in types}
    for name in written.types:
        if name not in rows.column_names:
            raise DataError(f"the rows for {place} have no column '{name}'; add it")
    columns: dict[str, Any] = {}
    for name in rows.column_names:
        if name not in types:
            raise DataError(f"{place} has no column '{name}'; {nearest(name, [*types])}")
        kind = types[name]
        try:
            columns[name] = rows[name].cast(kind, safe=not pa.types.is_timestamp(kind))
        except pa.ArrowException as err:
            raise DataError(
                f"the rows for {place}: column '{name}' is {rows[name].type} and cannot be "
                f"{kind}: {err}"
            ) from err
    return pa.table({name: columns[name] for name in types if name in columns})


def _anew(
    connection: duckdb.DuckDBPyConnection,
    rows: pa.Table,
    written: Written,
    place: Place,
    files: Table | None,
) -> Iterator[pa.RecordBatch]:
    """The rows of `files`, with `rows` in place of others of the same keys and times."""
    if files is None:
        yield from _typed(rows, written, None, place).to_batches()
        return
    schema = files.schema()
    connection.register("new", _typed(rows, written, schema, place))
    names = [*written.keys, written.event, *filter(None, [written.created])]
    same = [f"s.{quoted(name)} IS NOT DISTINCT FROM new.{quoted(name)}" for name in names]
    files.attach(connection)
    with reading(files):
        batches = reader(
            connection,
            f"""
            SELECT s.* FROM {files.sql}
            WHERE NOT EXISTS (SELECT 1 FROM new WHERE {" AND ".join(same)})
            UNION ALL BY NAME SELECT * FROM new
            """,
        )
        for batch in batches:
            yield batch.cast(schema)


def _tables(rows: pa.Table | Path) -> Iterator[pa.Table]:
    if isinstance(rows, Path):
        for fragment in pyarrow.dataset.dataset(rows, format="parquet").get_fragments():
            yield fragment.to_table()
    elif rows.num_rows:
        yield rows


def _partitions(rows: pa.Table, names: list[str]) -> Iterator[tuple[list[str], pa.Table]]:
    """The rows of each combination of values, and the folders that are called by it."""
    if not names:
        yield [], rows
        return
    name, *others = names
    if name not in rows.column_names:
        raise DataError(f"the rows have no column '{name}' to cut them by; add it")
    for value in pc.unique(rows[name]).to_pylist():
        chosen: Any = pc.is_null(rows[name]) if value is None else pc.equal(rows[name], value)
        folder = f"{name}={NULL if value is None else quote(str(value), safe=' ')}"
        for folders, part in _partitions(rows.filter(chosen), others):
            yield [folder, *folders], part
