"""Rows written into PostgreSQL by COPY, whole or not at all."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import pyarrow as pa

from millwright.configuration import nearest
from millwright.errors import DataError
from millwright.sql import quoted
from millwright.stores.postgres_server import Server, Session, connect, translated
from millwright.stores.postgres_tables import (
    INSTANT,
    Table,
    ensure_index,
    find_table,
    parts,
)

JSON = ("json", "jsonb")
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
    given = _without_nesting(_in_utc(rows, times))
    shown = f"table {name} in {server.place}"
    with connect(server, isolation="READ COMMITTED") as session, translated(server, shown):
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
            _replace(session, table, rows.column_names, [*keys, *times])
            ensure_index(session, name, keys, event, created)
        if rows.num_rows >= MANY:
            session.run(f"ANALYZE {table.sql}")


def save(server: Server, name: str, batches: Iterator[pa.RecordBatch], *, overwrite: bool) -> bool:
    """Make rows, of which there is at least one batch, the table called `name`, and say if so.

    A table that is there already is replaced with `overwrite`, and otherwise left alone.
    """
    with connect(server) as session, translated(server, f"table {name} in {server.place}"):
        table = find_table(session, name)
        if table.exists and not overwrite:
            return False
        parts = (_without_nesting(pa.Table.from_batches([batch])) for batch in batches)
        first = next(parts)
        rest = (batch for part in chain([first], parts) for batch in part.to_batches())
        session.load("asof_new", pa.RecordBatchReader.from_batches(first.schema, rest))
        _create_schema(session, name)
        session.run(f"DROP TABLE IF EXISTS {table.sql}")
        session.run(f"CREATE TABLE {table.sql} AS SELECT * FROM asof_new")
    return True


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
            instants = rows[column].cast(INSTANT, safe=False)
            rows = rows.set_column(place, column, instants)
    return rows


def _numbered(rows: pa.Table) -> pa.Table:
    """`rows` with the number of each, by which PostgreSQL can tell the last of equal ones."""
    return rows.append_column("asof_row", pa.array(range(rows.num_rows), pa.int64()))


def _create(session: Session, name: str, types: Mapping[str, pa.DataType]) -> Table:
    """Create an empty table with the types that COPY gives to Arrow's."""
    _create_schema(session, name)
    session.load("asof_empty", _without_nesting(pa.schema(list(types.items())).empty_table()))
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


def _is_nested(kind: pa.DataType) -> bool:
    """Whether COPY has no type for it: a struct, a map, or a list of such or of lists."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_nested(kind.value_type) or pa.types.is_list(kind.value_type)
    return pa.types.is_struct(kind) or pa.types.is_map(kind)


def _without_nesting(rows: pa.Table) -> pa.Table:
    for place, field in enumerate(rows.schema):
        if _is_nested(field.type):
            values = rows.column(place).to_pylist(maps_as_pydicts="strict")
            texts = [None if value is None else json.dumps(value, default=str) for value in values]
            rows = rows.set_column(place, field.name, pa.array(texts, pa.string()))
    return rows


def _create_schema(session: Session, name: str) -> None:
    schema = parts(name)[:-1] or [session.server.schema]
    session.run(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema[0])}")


def _replace(session: Session, table: Table, names: Sequence[str], identity: Sequence[str]) -> None:
    same = " AND ".join(f"s.{quoted(name)} = n.{quoted(name)}" for name in identity)
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
