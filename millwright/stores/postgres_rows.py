"""Rows of tables in PostgreSQL as Arrow: all, those of a span of time, the newest of each key."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from millwright.sql import moment, quoted
from millwright.stores.parquet_files import nothing
from millwright.stores.postgres_server import Session, translated
from millwright.stores.postgres_tables import Table, check, placed


def read_all(session: Session, table: Table) -> pa.Table:
    """All rows and columns, in their order."""
    with translated(session.server, table.name):
        return session.fetch(all_rows(table))


def all_rows(table: Table) -> str:
    """SQL for all rows and columns."""
    return f"SELECT {_selected(table, table.columns)} FROM {table.sql} AS s"


def read(
    session: Session,
    table: Table,
    names: Sequence[str],
    timestamp: str,
    span: tuple[datetime | None, datetime | None] = (None, None),
) -> pa.Table:
    """The rows whose `timestamp` is in `span`, ends included, in the order of the table."""
    if not table.exists:
        return nothing(names, {timestamp})
    check(table, names, [timestamp])
    order = "ORDER BY s.ctid" if table.has_places else ""
    with translated(session.server, table.name):
        return session.fetch(
            f"SELECT {_selected(table, names)} FROM {table.sql} AS s "
            f"WHERE {in_span(table, timestamp, span)} {order}"
        )


def read_latest(
    session: Session,
    table: Table,
    keys: Sequence[str],
    names: Sequence[str],
    timestamp: str,
    created: str | None,
    span: tuple[datetime, datetime],
) -> pa.Table:
    """For each key the newest row of those whose `timestamp` is in `span`, ends included.

    Of rows of one timestamp the last created one counts, then the last in the table. A row with
    a null key is nobody's.
    """
    times = [timestamp, created] if created else [timestamp]
    if not table.exists:
        return nothing(names, set(times))
    check(table, [*keys, *names], times)
    with translated(session.server, table.name):
        within = in_span(table, timestamp, span)
        table = placed(session, table, [*keys, *names, *times], within, 0)
        known = [within, *(f"s.{quoted(key)} IS NOT NULL" for key in keys)]
        identity = [f"s.{quoted(key)}" for key in keys]
        order = [*identity, *(f"{table.time(time)} DESC NULLS LAST" for time in times)]
        one = f"DISTINCT ON ({', '.join(identity)})" if keys else ""
        return session.fetch(
            f"""
            SELECT {_selected(table, names)}
            FROM {table.sql} AS s
            JOIN (
                SELECT {one} s.ctid AS place FROM {table.sql} AS s
                WHERE {" AND ".join(known)}
                ORDER BY {", ".join([*order, "s.ctid DESC"])}
                {"" if keys else "LIMIT 1"}
            ) AS newest ON s.ctid = newest.place
            {f"ORDER BY {', '.join(identity)}" if keys else ""}
            """
        )


def _selected(table: Table, names: Iterable[str]) -> str:
    return ", ".join(f"{table.value(name)} AS {quoted(name)}" for name in dict.fromkeys(names))


def in_span(table: Table, timestamp: str, span: tuple[datetime | None, datetime | None]) -> str:
    """A condition that holds for rows `s` whose `timestamp` is in `span`, ends included."""
    time = table.time(timestamp)
    conditions = [f"{time} IS NOT NULL"]
    for sign, end in zip((">=", "<="), span, strict=True):
        if end is not None:
            aware = end.replace(tzinfo=UTC) if end.tzinfo is None else end
            conditions.append(f"{time} {sign} {moment(aware)}")
    return " AND ".join(conditions)
