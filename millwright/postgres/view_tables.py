"""The table of one feature view in PostgreSQL, and the manifest that vouches for its periods.

Rows of a period and the manifest's line on it are replaced in one transaction. What the rows were
made from - the definition of the view, the batches of the raw store and, of scores, the detector -
stands in the manifest too; a table made from anything else is made anew.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, cast

import pandas as pd
import psycopg2
import pyarrow as pa

from millwright import periods
from millwright.errors import MillwrightError
from millwright.fleet import Fleet
from millwright.postgres.connection import connect_arrow, errors_named
from millwright.sql import literal, quoted
from millwright.stores.postgres_tables import index
from millwright.views import View
from millwright.warehouse import ALWAYS, KEYS, Rows

SQL_TYPES = {"float32": "real", "string": "text"}
# The least and largest numbers that `real` holds in full; nearer to null it has nothing but 0.
_TINY = "1.2e-38"
# The label of a period, as `periods` writes it.
_FORMATS = {"day": "YYYY-MM-DD", "month": "YYYY-MM"}


def schema_of(fleet: Fleet) -> str:
    """The schema in which a fleet's feature tables are."""
    return f"features_{fleet.name}"


def table_of(fleet: Fleet, view: str) -> str:
    """The table of a view, as Feast is told it."""
    return f"{schema_of(fleet)}.{view}"


class ViewTable:
    """The table of one view, as far as its manifest vouches for it; see `warehouse.Tables`."""

    def __init__(
        self, url: str, fleet: Fleet, view: View, definition: str, known: Collection[str], do: Any
    ) -> None:
        self.url = url
        self.fleet = fleet
        self.view = view
        self.definition = definition
        self.batches: tuple[str, ...] = ()
        self.detector: str | None = None
        self.periods: dict[str, int] = {}
        self._do = do
        self._table = f"{quoted(schema_of(fleet))}.{quoted(view.name)}"
        self._manifest = f"{quoted(schema_of(fleet))}._views"
        self._lines = f"{quoted(schema_of(fleet))}._periods"
        self._view = literal(view.name)
        self._read_manifest(known)

    @property
    def rows(self) -> int:
        """How many rows there are in all periods."""
        return sum(self.periods.values())

    def damaged(self) -> set[str]:
        """The periods that have other numbers of rows than they were left with."""
        if not self.periods:
            return set()
        form = literal(_FORMATS[self.fleet.partition])
        period = f"to_char(event_timestamp AT TIME ZONE 'UTC', {form})"
        if ALWAYS in self.periods:
            period = literal(ALWAYS)
        found = dict(self._do(f"SELECT {period} AS period, count(*) FROM {self._table} GROUP BY 1"))
        return {period for period, rows in self.periods.items() if found.get(period) != rows}

    def read(self, period: str) -> pa.Table:
        """The rows of one period."""
        (found,) = self._fetch(
            f"SELECT {self._columns()} FROM {self._table} WHERE {self._of(period)}"
        )
        return found

    def frame(self, periods: Iterable[str], columns: Sequence[str]) -> pd.DataFrame:
        """Some columns of some periods, in order of time."""
        names = ", ".join(map(quoted, columns))
        order = f"ORDER BY {', '.join(KEYS)}"
        wanted = sorted(periods)
        if not wanted:
            return pd.DataFrame(columns=list(columns))
        tables = self._fetch(
            *(
                f"SELECT {names} FROM {self._table} WHERE {self._of(period)} {order}"
                for period in wanted
            )
        )
        return pa.concat_tables(tables).to_pandas()

    def observed(self) -> pd.DataFrame:
        """One row per machine: `machine_id`, and the times of its `first` and `last` row (UTC)."""
        if not self.periods:
            return pd.DataFrame(columns=["machine_id", "first", "last"])
        (found,) = self._fetch(
            "SELECT machine_id, min(event_timestamp) AS first, max(event_timestamp) AS last "
            f'FROM {self._table} GROUP BY machine_id ORDER BY machine_id COLLATE "C"'
        )
        return found.to_pandas()

    def known_until(self) -> datetime | None:
        """When the newest of its rows became known (UTC); None where there are none."""
        if not self.periods:
            return None
        ((known,),) = self._do(f"SELECT max(created_timestamp) FROM {self._table}")
        return cast("datetime", known)

    def fill(self, period: str, rows: Rows) -> None:
        """Replace the rows of `period` by what a query selects."""
        columns = [_narrow(name, kind) for name, kind in self.view.features.items()]
        with _transaction(rows.execute) as execute:
            execute(f"DELETE FROM {self._table} WHERE {self._of(period)}")
            made = execute(
                f"INSERT INTO {self._table} ({self._columns()}) "
                f"SELECT {', '.join([*KEYS, *columns])} FROM ({rows.sql}) AS filled "
                f"ORDER BY {', '.join(KEYS)}"
            ).rowcount
            execute(self._line(period, made))
        self._replaced(period, made)

    def put(self, period: str, rows: pa.Table) -> None:
        """Have `period` hold these rows and no others."""
        with connect_arrow(self.url) as connection, connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {self._table} WHERE {self._of(period)}")
            cursor.adbc_ingest(
                self.view.name, rows, mode="append", db_schema_name=schema_of(self.fleet)
            )
            cursor.execute(self._line(period, len(rows)))
            connection.commit()
        self._replaced(period, len(rows))

    def begin(self) -> None:
        """Have the manifest vouch for no more than this object does, before rows are replaced."""
        with _transaction(self._do) as execute:
            execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema_of(self.fleet))}")
            execute(
                f"CREATE TABLE IF NOT EXISTS {self._manifest} "
                "(view text PRIMARY KEY, definition text, batches text[], detector text)"
            )
            execute(
                f"CREATE TABLE IF NOT EXISTS {self._lines} "
                "(view text, period text, rows bigint, PRIMARY KEY (view, period))"
            )
            if not self.periods:
                self._create(execute)
            self._head(execute)

    def begin_anew(self) -> None:
        """Hold nothing any more, before the first rows of another make are written."""
        self.batches, self.detector, self.periods = (), None, {}
        self.begin()

    def finish(self, batches: Iterable[str]) -> None:
        """Commit the manifest: `batches` are taken in."""
        self.batches = tuple(batches)
        with _transaction(self._do) as execute:
            self._head(execute)
        self._do(f"ANALYZE {self._table}")

    def _read_manifest(self, known: Collection[str]) -> None:
        (there,) = self._do(
            f"SELECT to_regclass({literal(self._manifest)}), to_regclass({literal(self._table)})"
        )
        if None in there or not self._has_its_columns():
            return
        held = self._do(
            f"SELECT definition, batches, detector FROM {self._manifest} WHERE view = {self._view}"
        )
        for definition, batches, detector in held:
            if definition == self.definition and set(batches) <= set(known):
                self.batches, self.detector = tuple(batches), detector
                lines = f"SELECT period, rows FROM {self._lines} WHERE view = {self._view}"
                self.periods = dict(self._do(lines))

    def _has_its_columns(self) -> bool:
        """Whether the table has the columns of the view, and no others."""
        columns = self._do(
            "SELECT attname::text FROM pg_attribute "
            f"WHERE attrelid = {literal(self._table)}::regclass AND attnum > 0 AND NOT attisdropped"
        )
        return {name for (name,) in columns} == {*KEYS, *self.view.features}

    def _create(self, execute: Any) -> None:
        """Make the table anew, empty, with the index that point-in-time joins go by."""
        columns = [f"{quoted(name)} {SQL_TYPES[k]}" for name, k in self.view.features.items()]
        execute(f"DROP TABLE IF EXISTS {self._table}")
        execute(f"DELETE FROM {self._lines} WHERE view = {self._view}")
        execute(
            f"CREATE TABLE {self._table} (machine_id text NOT NULL, "
            "event_timestamp timestamptz NOT NULL, created_timestamp timestamptz NOT NULL, "
            f"{', '.join(columns)})"
        )
        machine, event, created = KEYS
        execute(index(self._table, [machine], event, created))

    def _head(self, execute: Any) -> None:
        """Write what the rows were made from."""
        batches = ", ".join(map(literal, self.batches))
        detector = literal(self.detector) if self.detector else "NULL"
        execute(
            f"INSERT INTO {self._manifest} VALUES ({self._view}, {literal(self.definition)}, "
            f"ARRAY[{batches}]::text[], {detector}) ON CONFLICT (view) DO UPDATE SET "
            "definition = excluded.definition, batches = excluded.batches, "
            "detector = excluded.detector"
        )

    def _line(self, period: str, rows: int) -> str:
        """SQL that takes note of the rows of a period."""
        return (
            f"INSERT INTO {self._lines} VALUES ({self._view}, {literal(period)}, {rows}) "
            "ON CONFLICT (view, period) DO UPDATE SET rows = excluded.rows"
            if rows
            else f"DELETE FROM {self._lines} WHERE view = {self._view} "
            f"AND period = {literal(period)}"
        )

    def _replaced(self, period: str, rows: int) -> None:
        self.periods.pop(period, None)
        if rows:
            self.periods[period] = rows

    def _of(self, period: str) -> str:
        """SQL that tells the rows of a period."""
        if period == ALWAYS:
            return "true"
        start, end = (literal(time.isoformat()) for time in periods.limits(period, self.fleet))
        return f"event_timestamp >= {start}::timestamptz AND event_timestamp < {end}::timestamptz"

    def _columns(self) -> str:
        return ", ".join([*KEYS, *map(quoted, self.view.features)])

    def _fetch(self, *queries: str) -> list[pa.Table]:
        """What each query selects, through one connection."""
        with (
            errors_named(self.url, "read the feature tables"),
            connect_arrow(self.url) as connection,
            connection.cursor() as cursor,
        ):
            found = []
            for query in queries:
                cursor.execute(query)
                found.append(cursor.fetch_arrow_table())
            return found


def _narrow(name: str, kind: str) -> str:
    """SQL for a feature as it is kept."""
    column = quoted(name)
    if kind != "float32":
        return column
    # PostgreSQL refuses to make a number 0 that is too small for `real`.
    return f"CASE WHEN abs({column}) < {_TINY} THEN 0 ELSE {column} END::real"


@contextlib.contextmanager
def _transaction(execute: Any) -> Iterator[Any]:
    execute("BEGIN")
    try:
        yield execute
    except BaseException:
        # Where the connection is lost it is rolled back already, and the cause is what counts.
        with contextlib.suppress(MillwrightError, psycopg2.Error):
            execute("ROLLBACK")
        raise
    execute("COMMIT")
