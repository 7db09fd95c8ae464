"""Tables in PostgreSQL that hold histories: their columns, their index, reading and appending.

The place of a row (`ctid`) names it for as long as one transaction reads, and rises in the order in
which rows were appended to a table that loses none. Whatever has no such places, a view or a query,
is copied into a temporary table when they are needed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from millwright.configuration import nearest
from millwright.errors import ConfigurationError, DataError
from millwright.sql import literal, moment, quoted
from millwright.stores.postgres_server import Session, translated

INSTANT = pa.timestamp("us", tz="UTC")
MOMENT = "timestamp with time zone"
MOMENTS = (MOMENT, "timestamp without time zone", "date")
# Types that come as Arrow's own. PostgreSQL's numbers of any length come as float8, the rest as
# text: Arrow would get them as something that pandas and Feast cannot read.
NATIVE = re.compile(
    r"(smallint|integer|bigint|real|double precision|text|character( varying)?|name|boolean|date"
    r"|bytea|time(stamp)? with(out)? time zone)(\[\])?"
)
PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^".\s]+))\s*(?:\.|$)')


@dataclass(frozen=True)
class Table:
    """A table, a view or a query, as it is there at one time.

    `name` is for messages and `sql` for the FROM clause of a query. `columns` gives PostgreSQL's
    types by name; there are none if the table does not exist. `rows` is how many rows PostgreSQL
    thinks there are, 0 if it does not know.
    """

    name: str
    sql: str
    columns: Mapping[str, str]
    has_places: bool = True
    rows: int = 0

    @property
    def exists(self) -> bool:
        """Whether there is such a table."""
        return bool(self.columns)

    def time(self, column: str) -> str:
        """The time in `column` of the row `s`; one without a zone is in UTC."""
        bare = f"s.{quoted(column)}"
        return bare if self.columns[column] == MOMENT else f"{bare}::timestamptz"

    def value(self, column: str) -> str:
        """`column` of the row `s` as a type that Arrow has."""
        kind, bare = self.columns[column], f"s.{quoted(column)}"
        if kind.startswith("timestamp"):
            return self.time(column) if "[" not in kind else bare
        if NATIVE.fullmatch(kind):
            return bare
        array = "[]" if kind.endswith("[]") else ""
        target = "float8" if kind.startswith("numeric") else "text"
        return f"{bare}::{target}{array}"


@dataclass(frozen=True)
class Source:
    """Where rows come from: the table called `name`, or `query`, which is then called `name`."""

    name: str
    query: str = ""

    def find(self, session: Session, number: int = 0) -> Table:
        """Look at it; `number` tells the queries of one transaction apart."""
        if self.query:
            return find_query(session, self.query, self.name, number)
        return find_table(session, self.name)


def parts(name: str) -> list[str]:
    """The parts of `schema.table` as PostgreSQL reads them: what is not quoted is in lower case.

    Raises:
        ConfigurationError: it is no name.
    """
    found: list[str] = []
    position = 0
    while position < len(name) or not found:
        match = PART.match(name, position)
        if match is None or len(found) == 2 or (name.endswith(".") and match.end() == len(name)):
            raise ConfigurationError(f"'{name}' names no table; write schema.table")
        whole, plain = match.groups()
        found.append(whole.replace('""', '"') if whole else plain.lower())
        position = match.end()
    return found


def find_table(session: Session, name: str) -> Table:
    """The table called `name`, which need not be there yet."""
    sql = ".".join(map(quoted, parts(name)))
    return _described(session, f"table {name} in {session.server.place}", sql)


def find_query(session: Session, query: str, name: str, number: int = 0) -> Table:
    """What `query` gives, under a temporary name that ends in `number`.

    Raises:
        DataError: the query is wrong.
    """
    view = f"asof_query_{number}"
    shown = f"the query of '{name}' in {session.server.place}"
    with translated(session.server, shown):
        session.run(f"CREATE OR REPLACE TEMP VIEW {view} AS\n{query.strip().rstrip(';')}")
    return _described(session, shown, view)


def placed(
    session: Session, table: Table, names: Iterable[str], condition: str, number: int
) -> Table:
    """`table` itself, or a copy of its columns `names` whose rows have places."""
    if table.has_places:
        return table
    copy = f"asof_copy_{number}"
    chosen = ", ".join(f"s.{quoted(name)}" for name in dict.fromkeys(names))
    session.run(f"DROP TABLE IF EXISTS {copy}")
    session.run(
        f"CREATE TEMP TABLE {copy} AS SELECT {chosen} FROM {table.sql} AS s WHERE {condition}"
    )
    session.run(f"ANALYZE {copy}")
    return Table(table.name, copy, table.columns)


def count(session: Session, table: Table) -> int:
    """How many rows there are, where PostgreSQL has not counted them for itself."""
    found: int = session.fetch(f"SELECT count(*) AS n FROM {table.sql} AS s")["n"][0].as_py()
    return found


def check(table: Table, names: Iterable[str], times: Iterable[str]) -> None:
    """Refuse a `table` that lacks a column of `names`, or whose `times` are no timestamps."""
    for name in [*names, *times]:
        if name not in table.columns:
            raise DataError(
                f"{table.name} has no column '{name}'; {nearest(name, [*table.columns])}"
            )
    for name in times:
        if table.columns[name] not in MOMENTS:
            raise DataError(
                f"{table.name}: column '{name}' is {table.columns[name]}; make it timestamptz"
            )


def has_index(session: Session, table: Table, keys: Sequence[str], event: str) -> bool:
    """Whether an index finds the last rows of a key before a time."""
    found = session.fetch(
        f"""
        SELECT array(
            SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS part (number, place)
            JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = part.number
            ORDER BY part.place
        ) AS names
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS m
            ON m.oid = c.relam
        WHERE i.indrelid = to_regclass({literal(table.sql)}) AND i.indisvalid
            AND i.indpred IS NULL AND i.indexprs IS NULL AND m.amname = 'btree'
        """
    )
    count = len(keys)
    return any(
        set(names[:count]) == set(keys) and names[count : count + 1] == [event]
        for names in found["names"].to_pylist()
        if names is not None
    )


def index(table: str, keys: Sequence[str], event: str, created: str | None) -> str:
    """SQL for the index that joins of few cut-offs go by; `table` is as in SQL."""
    columns = [*map(quoted, keys), f"{quoted(event)} DESC"]
    if created:
        columns.append(f"{quoted(created)} DESC NULLS LAST")
    return f"CREATE INDEX ON {table} ({', '.join(columns)})"


def ensure_index(
    session: Session, name: str, keys: Sequence[str], event: str, created: str | None
) -> None:
    """Index the table called `name` by key, event time and created time, newest first.

    Joins of few cut-offs need it; without it every join reads the whole span of time.
    """
    table = find_table(session, name)
    check(table, keys, [event, *filter(None, [created])])
    if has_index(session, table, keys, event):
        return
    with translated(session.server, table.name):
        session.run(index(table.sql, keys, event, created))


def read_all(session: Session, table: Table) -> pa.Table:
    """All rows and columns, in their order."""
    with translated(session.server, table.name):
        return session.fetch(f"SELECT {_selected(table, table.columns)} FROM {table.sql} AS s")


def read(
    session: Session,
    table: Table,
    names: Sequence[str],
    timestamp: str,
    span: tuple[datetime | None, datetime | None] = (None, None),
) -> pa.Table:
    """The rows whose `timestamp` is in `span`, ends included, in the order of the table."""
    if not table.exists:
        return _nothing(names, {timestamp})
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
        return _nothing(names, set(times))
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
            """
        )


def _described(session: Session, name: str, sql: str) -> Table:
    found: list[dict[str, Any]] = session.fetch(
        f"""
        SELECT a.attname::text AS name, format_type(a.atttypid, NULL) AS kind,
            c.relkind::text AS relation, greatest(c.reltuples, 0)::bigint AS rows
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.oid = to_regclass({literal(sql)}) AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
        """
    ).to_pylist()
    columns: dict[str, str] = {row["name"]: row["kind"] for row in found}
    if not found:
        return Table(name, sql, {})
    return Table(name, sql, columns, found[0]["relation"] in ("r", "m"), found[0]["rows"])


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


def _nothing(names: Sequence[str], times: set[str]) -> pa.Table:
    """A table without rows: no table says what type its columns would have."""
    return pa.schema(
        [(name, INSTANT if name in times else pa.null()) for name in names]
    ).empty_table()
