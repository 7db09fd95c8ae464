"""Which row of a table counts at each cut-off: the search of `postgres_join`, in SQL."""

from dataclasses import dataclass

from millwright.sql import quoted
from millwright.stores.postgres_server import Session
from millwright.stores.postgres_tables import MOMENT, Table, has_index, placed

# A look into the index takes as long as merging so many rows, and much longer from a cold disk.
ROWS_PER_LOOK = 8
LONGEST = 4000 * 365 * 86_400_000_000  # microseconds; PostgreSQL's calendar begins in 4713 BC
# Types with an order in common: an index of one finds the values of another.
ORDERS = ({"text", "character varying"}, {"smallint", "integer", "bigint"})


@dataclass(frozen=True)
class Key:
    """A column `asked` of the cut-offs, of the type `kind`, and the `column` of the table."""

    asked: str
    kind: str
    column: str


@dataclass(frozen=True)
class Search:
    """What is searched: for each row of `asof_cutoffs` one of `table`.

    `asof_keys` numbers the keys of the cut-offs. With `as_known` a row is visible only once it was
    created. `life` is in microseconds.
    """

    session: Session
    table: Table
    keys: tuple[Key, ...]
    event: str
    created: str | None
    life: int
    as_known: bool

    def run(self, names: list[str], number: int, cutoffs: int) -> Table:
        """Put the places of the rows found into `asof_matches`.

        The places are those of the table that is returned: `table`, or a copy of its columns
        `names`, which is told from others of its transaction by `number`.
        """
        table = placed(self.session, self.table, names, self._in_reach(), number)
        self.session.run("DROP TABLE IF EXISTS asof_versions, asof_matches")
        if cutoffs * ROWS_PER_LOOK < self.table.rows and self._is_indexed():
            self._look()
        else:
            self._merge(table)
        self.session.run("ANALYZE asof_matches")
        return table

    def _is_indexed(self) -> bool:
        """Whether the index can find keys of the types that the cut-offs have."""
        columns = self.table.columns
        times = [self.event, self.created] if self.created else [self.event]
        return (
            self.table.has_places
            and all(_in_one_order(key.kind, columns[key.column]) for key in self.keys)
            and all(columns[time] == MOMENT for time in times)
            and has_index(self.session, self.table, [key.column for key in self.keys], self.event)
        )

    def _equal(self, other: str) -> list[str]:
        """Conditions that hold if a row `s` has the key of a row of `other`."""
        return ["true", *(f"s.{quoted(key.column)} = {other}.{key.asked}" for key in self.keys)]

    def _alive(self, event: str, cutoff: str) -> str:
        """A condition that holds unless a row is too old."""
        if self.life > LONGEST:
            return "true"
        return f"{event} >= {cutoff} - interval '{self.life} microseconds'"

    def _in_reach(self) -> str:
        """A condition that holds for the rows `s` that some cut-off may find."""
        event = self.table.time(self.event)
        first = "(SELECT min(cutoff) FROM asof_cutoffs)"
        last = "(SELECT max(cutoff) FROM asof_cutoffs)"
        return f"{event} <= {last} AND {self._alive(event, first)}"

    def _look(self) -> None:
        """Look each cut-off up in the index."""
        event = self.table.time(self.event)
        visible = [f"{event} <= asked.cutoff", self._alive(event, "asked.cutoff")]
        order = [f"{event} DESC"]
        if self.created:
            created = self.table.time(self.created)
            order.append(f"{created} DESC NULLS LAST")
            visible += [f"{created} <= asked.cutoff"] if self.as_known else []
        # Without statistics PostgreSQL might scan the table once for each cut-off.
        self.session.run("SET LOCAL enable_seqscan = off")
        self.session.run("SET LOCAL enable_bitmapscan = off")
        self.session.run(
            f"""
            CREATE TEMP TABLE asof_matches AS
            SELECT asked.row, found.place
            FROM asof_cutoffs AS asked CROSS JOIN LATERAL (
                SELECT s.ctid AS place FROM {self.table.sql} AS s
                WHERE {" AND ".join([*self._equal("asked"), *visible])}
                ORDER BY {", ".join([*order, "s.ctid DESC"])} LIMIT 1
            ) AS found
            """
        )
        self.session.run("SET LOCAL enable_seqscan = on")
        self.session.run("SET LOCAL enable_bitmapscan = on")

    def _merge(self, table: Table) -> None:
        """Merge the cut-offs with all rows of `table` that they may find."""
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
            WHERE {" AND ".join([self._in_reach(), *known])}
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


def _in_one_order(one: str, other: str) -> bool:
    return one == other or any({one, other} <= order for order in ORDERS)
