"""The point-in-time join of `postgres_join` as one query, for others to run or to build upon."""

from collections.abc import Sequence

import pyarrow as pa

from millwright.sql import literal, quoted
from millwright.stores.postgres_cutoffs import comparable
from millwright.stores.postgres_join import TableHistory, time_columns
from millwright.stores.postgres_search import Key, Search
from millwright.stores.postgres_server import Session, translated
from millwright.stores.postgres_tables import Table, check, find_query, find_table

CUTOFF, ROW = "asof_cutoff", "asof_row"


def query(
    session: Session,
    cutoffs: str,
    timestamp: str,
    histories: Sequence[TableHistory],
    *,
    as_known: bool,
) -> str:
    """SQL for the rows of `join`, in their order, that needs nothing but the tables it names.

    `cutoffs` is SQL for the cut-offs. Each looks for its own row, which takes an index where there
    are many. Of equal rows of a view or of a query any counts.
    """
    asked = find_query(session, cutoffs, "entity_df")
    check(asked, [], [timestamp])
    selected = [f"asked.{quoted(name)}" for name in asked.columns]
    joins = []
    for number, history in enumerate(histories):
        newest = _newest(session, asked, history, as_known=as_known)
        names = [quoted(name) for name in history.features]
        if newest is None:
            selected += [f"NULL AS {name}" for name in names]
            continue
        joins.append(f"LEFT JOIN LATERAL ({newest}) AS view_{number} ON true")
        selected += [f"view_{number}.f{n} AS {name}" for n, name in enumerate(names)]
    return f"""
        SELECT {", ".join(selected)}
        FROM (
            SELECT s.*, {asked.time(timestamp)} AS {CUTOFF}, row_number() OVER () AS {ROW}
            FROM ({cutoffs}) AS s
        ) AS asked {" ".join(joins)}
        ORDER BY asked.{ROW}
    """


def values(session: Session, rows: pa.Table) -> str:
    """SQL that has `rows` in itself."""
    with translated(session.server, "the cut-offs"):
        session.load("asof_asked", comparable(rows))
        table = find_table(session, "asof_asked")
        # JSON keeps numbers to the last digit, and times to the microsecond.
        found = session.fetch(
            "SELECT coalesce(json_agg(s ORDER BY s.ctid), '[]')::text AS rows FROM asof_asked AS s"
        )
    kinds = ", ".join(f"{quoted(name)} {kind}" for name, kind in table.columns.items())
    text = literal(found["rows"][0].as_py())
    return f"SELECT * FROM json_to_recordset({text}) AS given ({kinds})"


def _newest(session: Session, asked: Table, history: TableHistory, *, as_known: bool) -> str | None:
    """SQL for the row of `history` that counts at a row of `asked`, if there is its table."""
    table = history.source.inline(history.source.find(session))
    if not table.exists:
        return None
    check(table, [*history.keys.values(), *history.features.values()], time_columns(history))
    keys = tuple(
        Key(name, quoted(name), asked.columns[name], column)
        for name, column in history.keys.items()
    )
    search = Search(session, table, keys, history.event, history.created, history.life, as_known)
    return search.newest(history.features.values(), f"asked.{CUTOFF}")
