"""Which row of a table counts at each cut-off: the search of `postgres_join`, in SQL."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from millwright.stores.postgres_server import Session
from millwright.stores.postgres_tables import MOMENT, Table, has_index

LONGEST = 4000 * 365 * 86_400_000_000  # microseconds; PostgreSQL's calendar begins in 4713 BC
# Types with an order in common: an index of one finds the values of another.
ORDERS = ({"text", "character varying"}, {"smallint", "integer", "bigint"})


@dataclass(frozen=True)
class Key:
    """The key `name`, `asked` in SQL and of the type `kind`, and the `column` of the table."""

    name: str
    asked: str
    kind: str
    column: str


@dataclass(frozen=True)
class Search:
    """What is searched: for each cut-off one row of `table`, which has places.

    With `as_known` a row is visible only once it was created. `life` is in microseconds, as are
    the first and the last cut-off, the `span`, which `newest` does without.
    """

    session: Session
    table: Table
    keys: tuple[Key, ...]
    event: str
    created: str | None
    life: int
    as_known: bool
    span: tuple[int, int] = (0, 0)

    def has_common_types(self) -> bool:
        """Whether the keys of cut-offs and rows are of types that compare alike everywhere."""
        return all(_in_one_order(key.kind, self.table.columns[key.column]) for key in self.keys)

    def is_indexed(self) -> bool:
        """Whether the index can find keys of the types that the cut-offs have."""
        columns = self.table.columns
        times = [self.event, self.created] if self.created else [self.event]
        return (
            self.has_common_types()
            and all(columns[time] == MOMENT for time in times)
            and has_index(self.session, self.table, [key.column for key in self.keys], self.event)
        )

    def _equal(self, other: str) -> list[str]:
        """Conditions that hold if a row `s` has the key of a row of `other`."""
        return [
            "true",
            *(f"{self.table.key(key.column)} = {other}.{key.asked}" for key in self.keys),
        ]

    def _alive(self, event: str, cutoff: str) -> str:
        """A condition that holds unless a row is too old."""
        if self.life > LONGEST:
            return "true"
        return f"{event} >= {cutoff} - interval '{self.life} microseconds'"

    def in_reach(self) -> str:
        """A condition that holds for the rows `s` that some cut-off may find."""
        event, (first, last) = self.table.time(self.event), map(_moment, self.span)
        return f"{event} <= {last} AND {self._alive(event, first)}"

    def newest(self, features: Iterable[str], cutoff: str = "asked.cutoff") -> str:
        """SQL for the `features` of the row that counts at a `cutoff` of `asked`."""
        event = self.table.time(self.event)
        visible = [f"{event} <= {cutoff}", self._alive(event, cutoff)]
        order = [f"{event} DESC"]
        if self.created:
            created = self.table.time(self.created)
            order.append(f"{created} DESC NULLS LAST")
            visible += [f"{created} <= {cutoff}"] if self.as_known else []
        order += ["s.ctid DESC"] if self.table.has_places else []
        values = [f"{self.table.value(column)} AS f{n}" for n, column in enumerate(features)]
        return f"""
            SELECT {", ".join(values)} FROM {self.table.sql} AS s
            WHERE {" AND ".join([*self._equal("asked"), *visible])}
            ORDER BY {", ".join(order)} LIMIT 1
        """

    def look(self, features: Iterable[str]) -> pa.Table:
        """The numbers of the rows of `asof_given` that find one, and the `features` of that.

        Each cut-off is looked up in the index, key by key and time by time, so that one finds in
        memory what the one before it has read.
        """
        keys = [key.asked for key in self.keys]
        # Without statistics PostgreSQL might scan the table once for each cut-off.
        self.session.run("SET LOCAL enable_seqscan = off")
        self.session.run("SET LOCAL enable_bitmapscan = off")
        found = self.session.fetch(
            f"""
            SELECT asked.row, found.*
            FROM (
                SELECT * FROM asof_given WHERE cutoff IS NOT NULL
                ORDER BY {", ".join([*keys, "cutoff"])}
            ) AS asked CROSS JOIN LATERAL (
                {self.newest(features)}
            ) AS found
            """
        )
        self.session.run("SET LOCAL enable_seqscan TO DEFAULT")
        self.session.run("SET LOCAL enable_bitmapscan TO DEFAULT")
        return found

    def merge(self, features: Iterable[str]) -> pa.Table:
        """As `look`, but merge `asof_cutoffs` with all rows that they may find, by `asof_keys`."""
        self.session.run("DROP TABLE IF EXISTS asof_versions, asof_matches")
        self._merge()
        self.session.run("ANALYZE asof_matches")
        values = "".join(f", {self.table.value(c)} AS f{n}" for n, c in enumerate(features))
        return self.session.fetch(
            f"SELECT matches.row{values} FROM {self.table.sql} AS s "
            "JOIN asof_matches AS matches ON s.ctid = matches.place"
        )

    def _merge(self) -> None:
        """Put the number of each cut-off that finds a row, and that one's place, together."""
        table = self.table
        event = table.time(self.event)
        created = table.time(self.created) if self.created else "NULL::timestamptz"
        both = self.as_known and self.created is not None
        known = [f"{created} IS NOT NULL"] if both else []
        self.session.run(
            f"""
            CREATE TEMP TABLE asof_versions AS
            SELECT keys.key, s.ctid AS place, {event} AS event,
                {f"greatest({event}, {created})" if both else event} AS effective,
                row_number() OVER (
                    ORDER BY keys.key, {event}, {created} NULLS FIRST, s.ctid
                ) AS number
            FROM {table.sql} AS s JOIN asof_keys AS keys
                ON {" AND ".join(self._equal("keys"))}
            WHERE {" AND ".join([self.in_reach(), *known])}
            """
        )
        self.session.run("ANALYZE asof_versions")
        # What becomes visible at a moment comes before the cut-offs of the same moment.
        self.session.run(
            f"""
            CREATE TEMP TABLE asof_matches AS
            WITH merged AS (
                SELECT row, moment, max(number) OVER (
                    PARTITION BY key ORDER BY moment, row NULLS FIRST ROWS UNBOUNDED PRECEDING
                ) AS number
                FROM (
                    SELECT key, effective AS moment, number, NULL::bigint AS row
                    FROM asof_versions
                    UNION ALL
                    SELECT key, cutoff, NULL, row FROM asof_cutoffs
                ) AS events
            )
            SELECT merged.row, versions.place
            FROM merged JOIN asof_versions AS versions ON versions.number = merged.number
            WHERE merged.row IS NOT NULL AND {self._alive("versions.event", "merged.moment")}
            """
        )


def _moment(microseconds: int) -> str:
    return f"(timestamptz 'epoch' + interval '{microseconds} microseconds')"


def _in_one_order(one: str, other: str) -> bool:
    return one == other or any({one, other} <= order for order in ORDERS)
