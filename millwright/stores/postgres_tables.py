"""Tables in PostgreSQL that hold histories: their names, their columns, their index.

The place of a row (`ctid`) names it for as long as one transaction reads, and rises in the order in
which rows were appended to a table that loses none. What has no such places, a view, a query or a
table of several parts, is copied into a temporary table when they are needed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from millwright.configuration import nearest
from millwright.errors import ConfigurationError, DataError
from millwright.sql import literal, quoted
from millwright.stores.postgres_server import Session, translated

INSTANT = pa.timestamp("us", tz="UTC")
MOMENT = "timestamp with time zone"
TEXTS = ("text", "character varying", "name")
MOMENTS = (MOMENT, "timestamp without time zone", "date")
# Types that come as Arrow's own. PostgreSQL's numbers of any length come as float8, the rest as
# text: Arrow would get them as something that pandas and Feast cannot read, or padded by blanks.
NATIVE = re.compile(
    r"(smallint|integer|bigint|real|double precision|text|character varying|name|boolean|date"
    r"|bytea|time without time zone|timestamp with(out)? time zone)(\[\])?"
)
PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^".\s]+))\s*(?:\.|$)')


@dataclass(frozen=True)
class Table:
    """A table, a view or a query, as it is there at one time.

    `name` is for messages and `sql` for the FROM clause of a query. `columns` gives PostgreSQL's
    types by name; there are none if the table does not exist. `rows` is how many rows PostgreSQL
    thinks there are, 0 if it does not know. `loose` are columns in which texts of different
    characters may be equal, as without regard to capitals.
    """

    name: str
    sql: str
    columns: Mapping[str, str]
    has_places: bool = True
    rows: int = 0
    loose: frozenset[str] = frozenset()

    @property
    def exists(self) -> bool:
        """Whether there is such a table."""
        return bool(self.columns)

    def time(self, column: str) -> str:
        """The time in `column` of the row `s`; one without a zone is in UTC."""
        bare = f"s.{quoted(column)}"
        if self.columns[column] == MOMENT:
            return bare
        return f"({bare}::timestamp AT TIME ZONE 'UTC')"

    def value(self, column: str) -> str:
        """`column` of the row `s` as a type that Arrow has; a time without end is null."""
        kind, bare = self.columns[column], f"s.{quoted(column)}"
        if kind in MOMENTS:
            time = bare if kind == "date" else self.time(column)
            return f"CASE WHEN isfinite({bare}) THEN {time} END"
        if NATIVE.fullmatch(kind):
            return bare
        array = "[]" if kind.endswith("[]") else ""
        target = "float8" if kind.startswith("numeric") else "text"
        return f"{bare}::{target}{array}"

    def is_text(self, column: str) -> bool:
        """Whether the values of `column` come as text."""
        return self.columns[column] in TEXTS or self.value(column).endswith("::text")

    def key(self, column: str) -> str:
        """`column` of the row `s` as it is compared: what comes as text, as text."""
        return self.value(column) if self.is_text(column) else f"s.{quoted(column)}"


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

    def inline(self, table: Table) -> Table:
        """The `table` that was found, as one that stands in a query of its own."""
        return replace(table, sql=f"(\n{_bare(self.query)}\n)") if self.query else table


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
        session.run(f"DROP VIEW IF EXISTS {view}")
        session.run(f"CREATE TEMP VIEW {view} AS\n{_bare(query)}")
    return _described(session, shown, view)


def _bare(query: str) -> str:
    return query.strip().rstrip(";")


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
    return replace(table, sql=copy, has_places=True, rows=0)


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
            WHERE part.place <= i.indnkeyatts ORDER BY part.place
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


def _described(session: Session, name: str, sql: str) -> Table:
    # Since they were counted, tables may have grown by whole pages. A domain is its base type.
    found: list[dict[str, Any]] = session.fetch(
        f"""
        SELECT a.attname::text AS name,
            format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL) AS kind,
            coalesce(n.collisdeterministic, true) AS exact,
            c.relkind IN ('r', 'm') AND NOT c.relhassubclass AS placed,
            CASE WHEN c.relpages > 0 THEN c.reltuples::float8 / c.relpages
                * (pg_relation_size(c.oid) / current_setting('block_size')::integer)
                ELSE 0 END::bigint AS rows
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
            JOIN pg_type AS t ON t.oid = a.atttypid
            LEFT JOIN pg_collation AS n ON n.oid = a.attcollation
        WHERE c.oid = to_regclass({literal(sql)}) AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
        """
    ).to_pylist()
    columns: dict[str, str] = {row["name"]: row["kind"] for row in found}
    if not found:
        return Table(name, sql, {})
    loose = frozenset(row["name"] for row in found if not row["exact"])
    return Table(name, sql, columns, found[0]["placed"], found[0]["rows"], loose)
