"""Cut-offs that are not given as a frame: those of a query, and those of a span of time."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime

import duckdb
import pyarrow as pa

from millwright.errors import InputError, first_line
from millwright.sql import quoted
from millwright.stores.asof_join import History
from millwright.stores.parquet_files import (
    Table,
    check,
    columns,
    microseconds,
    nothing,
    reading,
    within,
)

TIMESTAMP = "event_timestamp"  # what Feast calls the time of a cut-off


def of_query(
    connection: duckdb.DuckDBPyConnection, query: str, tables: Mapping[str, Table]
) -> pa.Table:
    """The rows of a query in DuckDB's SQL, which may name `tables` that have files, and files.

    Raises:
        InputError: it is no single SELECT, or cannot be answered.
    """
    try:
        connection.execute("SET autoinstall_known_extensions = false")
        statements = duckdb.extract_statements(query)
        if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
            raise InputError("entity_df must be one SELECT, or a DataFrame")
        for name, table in tables.items():
            if table.paths:
                table.attach(connection)
                connection.execute(f"CREATE TEMP VIEW {quoted(name)} AS SELECT * FROM {table.sql}")
        rows: pa.Table = connection.execute(statements[0]).to_arrow_table()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as err:
        raise InputError(f"the query of entity_df cannot be answered: {first_line(err)}") from err
    return rows


def of_span(
    connection: duckdb.DuckDBPyConnection,
    histories: Iterable[History],
    keys: Sequence[str],
    span: tuple[datetime, datetime],
) -> pa.Table:
    """The event times in `span`, ends included, at which `histories` have a row of some keys.

    Each pair of time and keys is there once, in the order of time, then of the `keys`. A row
    with a null key or time has none.
    """
    parts, found = [], list(histories)
    for history in found:
        if history.files.paths:
            kinds = columns(connection, history.files)
            check(history.files, kinds, history.keys.values(), [history.event])
            parts.append(_pairs(history, keys, kinds, span))
    if not parts:
        return columns_of_span(keys)
    names = [quoted(TIMESTAMP), *map(quoted, keys)]
    query = f"{' UNION '.join(parts)} ORDER BY {', '.join(names)}"
    with ExitStack() as stack:
        for history in found:
            stack.enter_context(reading(history.files))
        rows: pa.Table = connection.execute(query).to_arrow_table()
    return rows


def columns_of_span(keys: Sequence[str]) -> pa.Table:
    """The columns of `of_span`, without rows and without types of keys."""
    return nothing([TIMESTAMP, *keys], {TIMESTAMP})


def _pairs(
    history: History,
    keys: Sequence[str],
    kinds: Mapping[str, str],
    span: tuple[datetime, datetime],
) -> str:
    first, last = map(microseconds, span)
    event = f"epoch_us(s.{quoted(history.event)})"
    selected = [f"make_timestamptz({event}) AS {quoted(TIMESTAMP)}"]
    selected += [f"s.{quoted(history.keys[key])} AS {quoted(key)}" for key in keys]
    conditions = [within(history.event, kinds[history.event], first, last)]
    conditions += [f"{event} BETWEEN {first} AND {last}"]
    conditions += [f"s.{quoted(history.keys[key])} IS NOT NULL" for key in keys]
    return (
        f"SELECT DISTINCT {', '.join(selected)} FROM {history.files.sql} "
        f"WHERE {' AND '.join(conditions)}"
    )
