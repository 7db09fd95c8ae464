"""The cut-offs of a join in PostgreSQL: here as numbers, on the server when it needs them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from millwright.stores.asof_join import History, to_microseconds
from millwright.stores.asof_keys import Cutoffs
from millwright.stores.postgres_server import Session, translated

KINDS = {
    pa.int8(): "smallint", pa.uint8(): "smallint", pa.int16(): "smallint",
    pa.uint16(): "integer", pa.int32(): "integer",
    pa.uint32(): "bigint", pa.int64(): "bigint",
    pa.string(): "text", pa.large_string(): "text", pa.string_view(): "text",
}  # fmt: skip


WIDE = pa.decimal128(20)  # has all of uint64, which COPY would write as int64


class Given:
    """The cut-offs of one session, joined by the keys of `histories`.

    `asof_given` has each row's number, time and keys, `asof_keys` a number for each key of one
    history, and `asof_cutoffs` the rows that have them. They are copied when they are asked for.
    """

    def __init__(
        self, session: Session, table: pa.Table, timestamp: str, histories: Sequence[History]
    ) -> None:
        self._session = session
        self._instants = to_microseconds(table[timestamp])
        self._copied = False
        self._numbered: set[str] | None = None
        self.table = table
        self.keys = tuple(sorted({key for history in histories for key in history.keys}))
        self.numbers = Cutoffs(table, self._instants)

    def key(self, name: str) -> str:
        """What the column `name` is called in SQL."""
        return f"k{self.keys.index(name)}"

    def kind(self, name: str) -> str:
        """PostgreSQL's type of a key, or Arrow's where no index could be asked for it."""
        kind = self.table.schema.field(name).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        return KINDS.get(plain, str(plain))

    @cached_property
    def span(self) -> tuple[int, int]:
        """The first and the last time, in microseconds; there has to be one."""
        times = self.numbers.times[self.numbers.known]
        return int(times.min()), int(times.max())

    def finds(self, history: History) -> bool:
        """Whether some cut-off has a time and all keys of `history`."""
        numbers, _ = self.numbers.numbered(tuple(history.keys))
        return bool((numbers >= 0).any())

    def copy(self) -> None:
        """Have `asof_given` on the server."""
        if self._copied:
            return
        narrow = self.table.select(list(self.keys)).rename_columns(list(map(self.key, self.keys)))
        narrow = comparable(narrow)
        narrow = narrow.append_column("row", pa.array(np.arange(self.table.num_rows)))
        narrow = narrow.append_column("cutoff", self._instants)
        with translated(self._session.server, "the cut-offs"):
            self._session.run("DROP TABLE IF EXISTS asof_given")
            self._session.load("asof_given", narrow)
            self._session.run("ANALYZE asof_given")
        self._copied = True

    def number(self, history: History) -> None:
        """Have a number for each key on the server, so that all that follows compares one."""
        self.copy()
        if self._numbered == set(history.keys):
            return
        parts = [self.key(name) for name in history.keys]
        known = ["cutoff IS NOT NULL", *(f"{part} IS NOT NULL" for part in parts)]
        columns = ", ".join(["true AS known", *parts])
        equal = ["true", *(f"given.{part} = keys.{part}" for part in parts)]
        for statement in (
            "DROP TABLE IF EXISTS asof_cutoffs, asof_keys",
            f"""
            CREATE TEMP TABLE asof_keys AS
            SELECT *, (row_number() OVER ())::integer AS key
            FROM (SELECT DISTINCT {columns} FROM asof_given WHERE {" AND ".join(known)}) AS given
            """,
            f"""
            CREATE TEMP TABLE asof_cutoffs AS
            SELECT given.row, given.cutoff, keys.*
            FROM asof_given AS given JOIN asof_keys AS keys ON {" AND ".join(equal)}
            WHERE given.cutoff IS NOT NULL
            """,
            "ANALYZE asof_keys",
            "ANALYZE asof_cutoffs",
        ):
            self._session.run(statement)
        self._numbered = set(history.keys)


def comparable(rows: pa.Table) -> pa.Table:
    """`rows` with the same values in types that COPY has."""
    for place, name in enumerate(rows.column_names):
        kind = rows.schema.field(place).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        plain = WIDE if plain == pa.uint64() else plain
        if plain != kind:
            rows = rows.set_column(place, name, rows.column(place).cast(plain))
    return rows


def in_order(found: pa.Table, size: int) -> "list[pa.Array[Any]]":
    """The columns of `found` after the first, which numbers the rows of the result.

    Rows that were not found are null.
    """
    places = np.full(size, -1)
    places[found.column(0).to_numpy()] = np.arange(found.num_rows)
    return taken(found.columns[1:], places)


def taken(columns: "Sequence[pa.ChunkedArray[Any]]", places: Any) -> "list[pa.Array[Any]]":
    """The values at `places`, null where one is negative."""
    order = pa.array(places, mask=places < 0)
    return [column.combine_chunks().take(order) for column in columns]
