"""The cut-offs of a span of time: the keys and times at which there are rows in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from millwright.sql import quoted
from millwright.stores.asof_cutoffs import TIMESTAMP, columns_of_span
from millwright.stores.postgres_join import TableHistory
from millwright.stores.postgres_rows import in_span
from millwright.stores.postgres_server import Session, translated
from millwright.stores.postgres_tables import Table, check


def of_span(
    session: Session,
    histories: Sequence[TableHistory],
    keys: Sequence[str],
    span: tuple[datetime, datetime],
) -> pa.Table:
    """The event times in `span`, ends included, at which `histories` have a row of some keys.

    Each pair of time and keys is there once, in the order of time, then of the `keys`. A row
    with a null key or time has none.
    """
    tables = [each.source.find(session, number) for number, each in enumerate(histories)]
    query = span_query(histories, tables, keys, span)
    if not query:
        return columns_of_span(keys)
    with translated(session.server, "the rows of a span of time"):
        return session.fetch(query)


def span_query(
    histories: Sequence[TableHistory],
    tables: Sequence[Table],
    keys: Sequence[str],
    span: tuple[datetime, datetime],
) -> str:
    """SQL for the rows of `of_span`; there is none before the first of the `tables` exists."""
    parts, texts = [], set()
    for history, table in zip(histories, tables, strict=True):
        if table.exists:
            check(table, history.keys.values(), [history.event])
            parts.append(_pairs(history, table, keys, span))
            texts |= {key for key in keys if table.is_text(history.keys[key])}
    if not parts:
        return ""
    order = [quoted(key) + (' COLLATE "C"' if key in texts else "") for key in keys]
    return (
        f"SELECT * FROM ({' UNION '.join(parts)}) AS pairs "
        f"ORDER BY {', '.join([TIMESTAMP, *order])}"
    )


def _pairs(
    history: TableHistory, table: Table, keys: Sequence[str], span: tuple[datetime, datetime]
) -> str:
    selected = [f"{table.time(history.event)} AS {TIMESTAMP}"]
    selected += [f"{table.value(history.keys[key])} AS {quoted(key)}" for key in keys]
    conditions = [in_span(table, history.event, span)]
    conditions += [f"s.{quoted(history.keys[key])} IS NOT NULL" for key in keys]
    return (
        f"SELECT DISTINCT {', '.join(selected)} FROM {table.sql} AS s "
        f"WHERE {' AND '.join(conditions)}"
    )
