"""Rows written into PostgreSQL by COPY, whole or not at all."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from millwright.configuration import nearest
from millwright.errors import DataError
from millwright.sql import literal, quoted
from millwright.stores.asof_join import to_microseconds
from millwright.stores.postgres_server import Server, Session, connect, translated
from millwright.stores.postgres_tables import (
    Table,
    ensure_index,
    find_table,
    parts,
)

JSON = ("json", "jsonb")
KINDS = {pa.uint64(): pa.int64(), pa.date64(): pa.date32()}  # of COPY, for those it has not
LONGEST = 63  # bytes that a name of PostgreSQL may have
MANY = 10_000  # rows that change what PostgreSQL's planner should know of a table


def append(
    server: Server,
    name: str,
    rows: pa.Table,
    keys: Sequence[str] | None,
    event: str,
    created: str | None,
    types: Mapping[str, pa.DataType],
) -> None:
    """Append `rows` to the table called `name`; columns go by name, times without a zone are UTC.

    A row of the key, event time and created time of one that is there takes its place, so that
    writing a batch once more changes nothing; of such rows within `rows` the last one counts. With
    `keys` of None every row is one more. A table that is not there yet is created with the columns
    and `types`, and an index for the join. What Arrow nests becomes JSON. Writers wait for each
    other; readers see all of the rows, or none.

    Raises:
        DataError: `rows` lack a column of `types`, or have one that the table lacks.
    """
    times = [event, *filter(None, [created])]
    _check_rows(name, rows, [*types], times)
    given = _copyable(_of_types(_in_utc(rows, times), types), name)
    shown = f"table {name} in {server.place}"
    with connect(server, isolation="READ COMMITTED") as session, translated(server, shown):
        _wait(session, name)
        table = find_table(session, name)
        if not table.exists:
            table = _create(session, name, types)
        for column in rows.column_names:
            if column not in table.columns:
                raise DataError(
                    f"{table.name} has no column '{column}'; {nearest(column, [*table.columns])}"
                )
        session.load("asof_new", _numbered(given))
        session.run(f"LOCK TABLE {table.sql} IN SHARE ROW EXCLUSIVE MODE")
        if keys is None:
            _insert(session, table, rows.column_names)
        else:
            _replace(session, table, given, [*keys, *times])
            ensure_index(session, name, keys, event, created)
        if rows.num_rows >= MANY:
            session.run(f"ANALYZE {table.sql}")


def save(server: Server, name: str, batches: Iterator[pa.RecordBatch], *, overwrite: bool) -> bool:
    """Make rows, of which there is at least one batch, the table called `name`, and say if so.

    A table that is there already is replaced with `overwrite`, and otherwise left alone.

    Raises:
        DataError: PostgreSQL has no columns of such names or types.
    """
    shown = f"table {name} in {server.place}"
    with connect(server, isolation="READ COMMITTED") as session, translated(server, shown):
        if find_table(session, name).exists and not overwrite:
            return False
        _load(session, (_copyable(pa.Table.from_batches([batch]), name) for batch in batches))
        _wait(session, name)
        table = find_table(session, name)
        if table.exists and not overwrite:
            return False
        _create_schema(session, name)
        session.run(f"DROP TABLE IF EXISTS {table.sql}")
        session.run(f"CREATE TABLE {table.sql} AS SELECT * FROM asof_new")
    return True


def _wait(session: Session, name: str) -> None:
    """Let other writers of the table called `name`, which need not be there yet, end first."""
    lock = literal(".".join(parts(name)))
    session.fetch(f"SELECT pg_advisory_xact_lock(hashtext({lock}))::text AS locked")


def _load(session: Session, tables: Iterator[pa.Table]) -> None:
    """Copy `tables` into `asof_new`; what goes wrong in making them is raised as it is."""
    first, faults = next(tables), list[Exception]()

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for table in chain([first], tables):
                yield from table.to_batches()
        except Exception as err:
            faults.append(err)
            raise

    try:
        session.load("asof_new", pa.RecordBatchReader.from_batches(first.schema, batches()))
    except Exception:
        if faults:
            raise faults[0] from None
        raise


def _check_rows(name: str, rows: pa.Table, names: Sequence[str], times: Sequence[str]) -> None:
    for column in names:
        if column not in rows.column_names:
            raise DataError(f"the rows for table {name} have no column '{column}'; add it")
    for column in times:
        kind = rows.schema.field(column).type
        if not pa.types.is_timestamp(kind):
            raise DataError(
                f"the rows for table {name}: column '{column}' is {kind}; make it a timestamp"
            )


def _in_utc(rows: pa.Table, times: Sequence[str]) -> pa.Table:
    for place, column in enumerate(rows.column_names):
        kind = rows.schema.field(column).type
        if column in times or (pa.types.is_timestamp(kind) and kind.tz):
            rows = rows.set_column(place, column, to_microseconds(rows[column]))
    return rows


def _of_types(rows: pa.Table, types: Mapping[str, pa.DataType]) -> pa.Table:
    """`rows`, in which a column without a single value has its type of `types`."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_null(field.type) and field.name in types:
            empty = rows.column(place).cast(types[field.name])
            rows = rows.set_column(place, field.name, empty)
    return rows


def _numbered(rows: pa.Table) -> pa.Table:
    """`rows` with the number of each, by which PostgreSQL can tell the last of equal ones."""
    return rows.append_column("asof_row", pa.array(range(rows.num_rows), pa.int64()))


def _create(session: Session, name: str, types: Mapping[str, pa.DataType]) -> Table:
    """Create an empty table with the types that COPY gives to Arrow's."""
    _create_schema(session, name)
    session.load("asof_empty", _copyable(pa.schema(list(types.items())).empty_table(), name))
    for column, kind in types.items():
        if _is_nested(kind):
            session.run(
                f"ALTER TABLE asof_empty ALTER {quoted(column)} TYPE jsonb "
                f"USING {quoted(column)}::jsonb"
            )
    sql = ".".join(map(quoted, parts(name)))
    session.run(f"CREATE TABLE IF NOT EXISTS {sql} (LIKE asof_empty)")
    session.run("DROP TABLE asof_empty")
    return find_table(session, name)


def _is_nested(kind: Any) -> bool:
    """Whether COPY has no type for it: a struct, a map, or a list of such or of lists."""
    if _is_list(kind):
        return _is_nested(kind.value_type) or _is_list(kind.value_type)
    return pa.types.is_struct(kind) or pa.types.is_map(kind)


def _is_list(kind: Any) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _copyable(rows: pa.Table, name: str) -> pa.Table:
    """`rows` for the table called `name`, with types that COPY has: nesting becomes JSON."""
    for place, field in enumerate(rows.schema):
        # PostgreSQL would cut it off and say nothing.
        if len(field.name.encode()) > LONGEST:
            raise DataError(
                f"column '{field.name}' is too long a name for table {name}: PostgreSQL has "
                f"{LONGEST} bytes; make it shorter"
            )
        try:
            rows = rows.set_column(place, field.name, _copyable_column(rows.column(place)))
        except pa.ArrowException as err:
            raise DataError(
                f"the rows for table {name}: column '{field.name}' is {field.type}, which "
                f"PostgreSQL cannot hold: {err}"
            ) from err
    return rows


def _copyable_column(column: Any) -> Any:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _copyable_column(column.cast(kind.value_type))
    if kind in KINDS:
        return column.cast(KINDS[kind])
    if not _is_nested(kind):
        return column
    values = column.to_pylist(maps_as_pydicts="strict")
    texts = [None if value is None else json.dumps(value, default=str) for value in values]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _create_schema(session: Session, name: str) -> None:
    schema = parts(name)[:-1] or [session.server.schema]
    session.run(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema[0])}")


def _replace(session: Session, table: Table, given: pa.Table, identity: Sequence[str]) -> None:
    """Insert `given` in place of the rows of the same `identity`; nulls are the same too."""
    names = given.column_names
    # Only `=` is found by hashing or in an index, so nulls are minded where there are some.
    equal = {name: "IS NOT DISTINCT FROM" if given[name].null_count else "=" for name in identity}
    same = " AND ".join(f"s.{quoted(name)} {sign} n.{quoted(name)}" for name, sign in equal.items())
    chosen = ", ".join(f"n.{quoted(name)}" for name in names)
    distinct = ", ".join(f"n.{quoted(name)}" for name in identity)
    session.run("ANALYZE asof_new")
    session.run(f"DELETE FROM {table.sql} AS s USING asof_new AS n WHERE {same}")
    _insert(
        session,
        table,
        names,
        f"""(
            SELECT DISTINCT ON ({distinct}) {chosen}, n.asof_row FROM asof_new AS n
            ORDER BY {distinct}, n.asof_row DESC
        )""",
    )


def _insert(session: Session, table: Table, names: Sequence[str], given: str = "asof_new") -> None:
    """Insert rows of `given`; JSON comes as text."""
    values = [
        f"{quoted(name)}::{table.columns[name]}" if table.columns[name] in JSON else quoted(name)
        for name in names
    ]
    session.run(
        f"INSERT INTO {table.sql} ({', '.join(map(quoted, names))}) "
        f"SELECT {', '.join(values)} FROM {given} AS given ORDER BY asof_row"
    )
