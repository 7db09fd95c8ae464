"""The staging tables of an ingest: what each raw row is about, and what becomes of it.

They live in a DuckDB file on disk, so a table may be larger than memory. A row of `<table>` has no
more than its key there, its place (`part`, and `place` within it), `refusals` (a bit for each
reason, 0 for a good row), and its `fate`: every decision is made on those. All columns are in
`wide_<table>`, under the same place. Of parquet files that is a view, so that their readings are
never copied; of all else it is a table. `fingerprint`, a hash of what a row says, is null but for
rows that share their key with others.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from millwright.errors import DataError, MillwrightError, first_line
from millwright.fleet import Fleet
from millwright.raw_store import RawStore
from millwright.settings import Engine
from millwright.sources import Part, Source
from millwright.sql import moment, quoted
from millwright.stores.progress import counting
from millwright.survey import survey
from millwright.validation import (
    BEGINNING,
    NUMBER,
    REASONS,
    UNSEEN,
    bit,
    canonical,
    columns,
    fingerprint,
    key,
    schema,
)

# A batch that falls into more periods than a day or a month does, somewhere on earth, is copied
# before it is written: each period is a query of its own, which must not read all files again.
_PERIODS_AT_ONCE = 2


@dataclass(frozen=True)
class TableCounts:
    """What became of the rows of one table; `reasons` counts a refused row by its first reason."""

    read: int
    new: int
    unchanged: int
    corrections: int
    refused: int
    reasons: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def workspace(scratch: Path, engine: Engine) -> Iterator[Any]:
    """A DuckDB database on disk, within the limits of `engine`."""
    options = {
        "memory_limit": engine.memory_limit,
        "threads": engine.threads,
        "temp_directory": str(scratch / "spilled"),
        "preserve_insertion_order": True,  # the place of a row in its file is its number
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    try:
        with duckdb.connect(str(scratch / "staging.duckdb"), config=options) as connection:
            for setting in (
                "SET TimeZone = 'UTC'",
                "SET enable_progress_bar = false",
                "SET enable_external_file_cache = false",
                # Nobody reads this database again: a checkpoint would write it a second time.
                "SET checkpoint_threshold = '1TB'",
                "PRAGMA disable_checkpoint_on_shutdown",
            ):
                connection.execute(setting)
            yield connection
    except (duckdb.Error, pa.ArrowException) as err:  # the latter of rows that are fetched
        raise MillwrightError(
            f"the ingest failed in {scratch}: {first_line(err)}; the store is as it was"
        ) from err


class Staging:
    """One ingest under way; its tables are named after the raw ones."""

    def __init__(
        self, fleet: Fleet, store: RawStore, connection: Any, now: datetime, received: datetime
    ) -> None:
        self.fleet = fleet
        self.store = store
        self.connection = connection
        self.now = now
        self.received = received
        self.parts: dict[str, list[Part]] = {}

    def read(self, source: Source, table: str) -> None:
        """Read `table`, each row with the reasons that refuse it alone."""
        self._create(table)
        parts = self.parts[table] = list(source.parts(self.connection, table))
        in_place = all(part.file for part in parts)
        read: list[str] = []
        with _counting(table, parts) as advance:
            for number, part in enumerate(parts):
                try:
                    read.append(self._canonical(table, number, part))
                    if not in_place:
                        self._copy(table, number, part, read.pop())
                        read.append(f"SELECT *, {NUMBER} FROM wide_{table} WHERE part = {number}")
                    self._note(table, read[-1])
                except duckdb.Error as err:
                    raise DataError(
                        f"table '{table}': cannot read {part.origin} in {source.name}: "
                        f"{first_line(err)}; restore it"
                    ) from err
                advance(part.count)
        if in_place:
            self._do(f"CREATE VIEW wide_{table} AS {' UNION ALL '.join(read)}")
        self._refuse_nothing(source, table)

    def verify(self) -> None:
        """Make sure that what was read in place is still what was checked.

        Raises:
            DataError: a file was changed meanwhile.
        """
        for parts in self.parts.values():
            for part in parts:
                part.verify()

    def judge(self, table: str) -> None:
        """Decide of each row that is good by itself: refused, unchanged, new or a correction.

        Tables come in the order of `Fleet.table_names`, so that the machines are known by then.
        """
        self._refuse_strangers(table)
        if self._contested(table):
            self._refuse_repeats(table)
            if getattr(self.fleet.tables, table).received is None:
                self._compare_with_last(table)
            else:
                self._compare_in_order(table)

    def landing(self, table: str) -> str:
        """SQL for the rows of `table` that the batch shall hold."""
        names = list(map(quoted, schema(self.fleet, table)))
        chosen = ", ".join(
            "coalesce(odd.received, wide.received) AS received"
            if name == quoted("received")
            else f"wide.{name}"
            for name in names
        )
        self._do(
            f"CREATE TABLE odd_{table} AS SELECT part, place, received, "
            "refusals = 0 AND fate <> 'unchanged' AS lands "
            f"FROM {table} WHERE refusals > 0 OR fate <> 'new'"
        )
        if not self._rows(f"FROM odd_{table} LIMIT 1"):
            rows = f"SELECT {', '.join(names)} FROM wide_{table}"
        else:
            rows = (
                f"SELECT {chosen} FROM wide_{table} AS wide LEFT JOIN odd_{table} AS odd "
                f"ON odd.part = wide.part AND odd.place = wide.{NUMBER} "
                "WHERE odd.place IS NULL OR odd.lands"
            )
        periods = self._periods(table, "refusals = 0 AND fate <> 'unchanged'")
        if periods and len(periods) > _PERIODS_AT_ONCE and self._in_place(table):
            self._do(f"CREATE TABLE landing_{table} AS {rows}")
            rows = f"SELECT {', '.join(names)} FROM landing_{table}"
        return rows

    def count(self, table: str) -> TableCounts:
        """How many rows were read, and what became of them."""
        fates = dict(
            self._rows(f"SELECT fate, count(*) FROM {table} WHERE refusals = 0 GROUP BY 1")
        )
        masks = self._rows(
            f"SELECT refusals, count(*) FROM {table} WHERE refusals > 0 GROUP BY 1 "
            f"UNION ALL SELECT {bit('malformed_row')}, count(*) FROM malformed_{table}"
        )
        reasons = dict.fromkeys(REASONS, 0)
        for mask, rows in masks:
            reasons[next(reason for reason in REASONS if mask & bit(reason))] += rows
        refused = sum(reasons.values())
        return TableCounts(
            read=sum(fates.values()) + refused,
            new=fates.get("new", 0),
            unchanged=fates.get("unchanged", 0),
            corrections=fates.get("correction", 0),
            refused=refused,
            reasons={reason: rows for reason, rows in reasons.items() if rows},
        )

    def _create(self, table: str) -> None:
        """Make the tables that `read` fills."""
        types = schema(self.fleet, table)
        about = [f"{name} {types[name]}" for name in self._about(table)]
        self._do(
            f"CREATE TABLE {table} (part INTEGER, place BIGINT, refusals BIGINT, "
            f"fingerprint UBIGINT, fate VARCHAR, {', '.join(about)})"
        )
        self._do(f"CREATE TABLE malformed_{table} (part INTEGER, position BIGINT, line VARCHAR)")

    def _about(self, table: str) -> list[str]:
        return [*key(self.fleet, table), "received"]

    def _canonical(self, table: str, number: int, part: Part) -> str:
        """SQL for the rows of a part in canonical form, with where they are and what is wrong."""
        seen = survey(self.connection, self.fleet, table, part) if part.file else UNSEEN
        given = {column.name for column in columns(self.fleet, table)}
        received = "received" if "received" in given else "timestamp"
        if received not in given:
            received = moment(BEGINNING)
        names = ", ".join(
            f"{received} AS received" if name == "received" else quoted(name)
            for name in schema(self.fleet, table)
        )
        rows = canonical(self.fleet, table, part.rows, part.types, self.now, seen)
        return f"SELECT {number} AS part, {NUMBER}, refusals, {names} FROM ({rows})"

    def _copy(self, table: str, number: int, part: Part, rows: str) -> None:
        """Keep the rows of a part that cannot be read again as they are; their order counts."""
        if number == 0:
            self._do(f"CREATE TABLE wide_{table} AS SELECT * EXCLUDE ({NUMBER}) FROM ({rows})")
        else:
            self._do(f"INSERT INTO wide_{table} SELECT * EXCLUDE ({NUMBER}) FROM ({rows})")
        if part.is_csv:
            self._do(
                f"INSERT INTO malformed_{table} SELECT {number}, line - 1, "
                "any_value(trim(csv_line, chr(10) || chr(13))) FROM reject_errors GROUP BY line"
            )
            forget_rejects(self.connection)

    def _note(self, table: str, rows: str) -> None:
        """Take note of each row of a part, in their order."""
        about = ", ".join(self._about(table))
        self._do(
            f"INSERT INTO {table} SELECT part, {NUMBER}, refusals, NULL, 'new', {about} "
            f"FROM ({rows})"
        )

    def _in_place(self, table: str) -> bool:
        return all(part.file for part in self.parts[table])

    def _refuse_strangers(self, table: str) -> None:
        """Refuse the rows of machines that the machines table, or the telemetry, does not know."""
        registry = "machines" if "machines" in self.fleet.table_names else "telemetry"
        if table == registry:
            return
        known = (
            f"SELECT machine_id FROM {registry} WHERE refusals = 0 "
            f"UNION SELECT machine_id FROM ({self.store.scan(registry)})"
        )
        self._refuse(table, "unknown_machine", f"machine_id NOT IN ({known})")

    def _contested(self, table: str) -> bool:
        """Find the good rows whose key is in the batch twice or in the store; are there any?"""
        names = ", ".join(key(self.fleet, table))
        held = self.store.scan(table, self._periods(table))
        self._do(
            f"CREATE TABLE held_{table} AS SELECT {names}, received, "
            f"{fingerprint(self.fleet, table)} AS fingerprint FROM ({held}) AS store "
            f"WHERE EXISTS (FROM {table} WHERE refusals = 0 "
            f"AND {_same(table, 'store', key(self.fleet, table))})"
        )
        self._do(
            f"CREATE TABLE contested_{table} AS SELECT part, place FROM {table} SEMI JOIN ("
            f"SELECT {names} FROM held_{table} UNION ALL SELECT {names} FROM {table} "
            f"WHERE refusals = 0 GROUP BY ALL HAVING count(*) > 1) USING ({names}) "
            "WHERE refusals = 0"
        )
        if not self._rows(f"FROM contested_{table} LIMIT 1"):
            return False
        self._do(
            f"UPDATE {table} SET fingerprint = said.fingerprint FROM (SELECT wide.part, "
            f"wide.{NUMBER} AS place, {fingerprint(self.fleet, table)} AS fingerprint "
            f"FROM wide_{table} AS wide SEMI JOIN contested_{table} AS other "
            f"ON wide.part = other.part AND wide.{NUMBER} = other.place) AS said "
            f"WHERE {table}.part = said.part AND {table}.place = said.place"
        )
        return True

    def _refuse_repeats(self, table: str) -> None:
        """Refuse copies of a row, and all rows that contradict each other, within the batch."""
        version = [*key(self.fleet, table), "received"]
        if getattr(self.fleet.tables, table).received is None:
            version.remove("received")
        self._do(
            f"CREATE TABLE repeated_{table} AS SELECT {', '.join(version)}, min(rowid) AS first, "
            f"min(fingerprint) <> max(fingerprint) AS conflict FROM {table} "
            "WHERE refusals = 0 AND fingerprint IS NOT NULL GROUP BY ALL HAVING count(*) > 1"
        )
        same = _same(table, "other", version)
        repeated = f"EXISTS (FROM repeated_{table} AS other WHERE {same} AND"
        conflicting = f"{repeated} other.conflict)"
        copied = f"{repeated} NOT other.conflict AND {table}.rowid <> other.first)"
        self._refuse(table, "conflicting_duplicate", f"refusals = 0 AND {conflicting}")
        self._refuse(table, "duplicate_row", f"refusals = 0 AND {copied}")

    def _refuse_nothing(self, source: Source, table: str) -> None:
        """A required table without rows is a fault, unless the store has some of it."""
        required = table in ("telemetry", "failures", "machines")
        rows = self._rows(f"FROM {table} LIMIT 1") or self._rows(f"FROM malformed_{table} LIMIT 1")
        if required and not rows and not self.store.files(table):
            origins = ", ".join(part.origin for part in self.parts[table])
            raise DataError(f"table '{table}': {origins} in {source.name} has no rows; fill it")

    def _compare_with_last(self, table: str) -> None:
        """Without a `received` column: a row is known, or it corrects the last version."""
        names = key(self.fleet, table)
        self._do(
            f"CREATE TABLE last_{table} AS SELECT {', '.join(names)}, max(received) AS received, "
            f"arg_max(fingerprint, received) AS fingerprint FROM held_{table} GROUP BY ALL"
        )
        self._do(
            f"UPDATE {table} SET fate = CASE WHEN {table}.fingerprint = other.fingerprint "
            "THEN 'unchanged' ELSE 'correction' END, "
            f"received = greatest({self._received()}, other.received + INTERVAL 1 microsecond) "
            f"FROM last_{table} AS other WHERE refusals = 0 AND {_same(table, 'other', names)}"
        )

    def _compare_in_order(self, table: str) -> None:
        """With a `received` column: a row is known if it repeats the version before it."""
        names = key(self.fleet, table)
        keys = ", ".join(names)
        same = _same(table, "other", [*names, "received"])
        conflict = f"other.fingerprint <> {table}.fingerprint"
        contradicts = f"EXISTS (FROM held_{table} AS other WHERE {same} AND {conflict})"
        self._refuse(table, "conflicting_duplicate", f"refusals = 0 AND {contradicts}")
        self._do(
            f"CREATE TABLE versions_{table} AS "
            f"SELECT rowid AS number, {keys}, received, fingerprint FROM {table} "
            "WHERE refusals = 0 AND fingerprint IS NOT NULL "
            f"UNION ALL SELECT NULL, {keys}, received, fingerprint FROM held_{table}"
        )
        self._do(
            f"CREATE TABLE ordered_{table} AS SELECT number, fingerprint, "
            "lag(fingerprint) OVER in_order AS before, "
            f"bool_or(number IS NULL) OVER (PARTITION BY {keys}) AS held "
            f"FROM versions_{table} SEMI JOIN (SELECT {keys} FROM versions_{table} "
            f"GROUP BY ALL HAVING count(*) > 1) USING ({keys}) "
            f"WINDOW in_order AS (PARTITION BY {keys} ORDER BY received, number NULLS FIRST)"
        )
        self._do(
            f"UPDATE {table} SET fate = CASE "
            "WHEN other.before = other.fingerprint THEN 'unchanged' "
            "WHEN other.before IS NULL AND NOT other.held THEN 'new' ELSE 'correction' END "
            f"FROM ordered_{table} AS other WHERE {table}.rowid = other.number"
        )

    def _received(self) -> str:
        """SQL for the time at which the corrections of this ingest became known."""
        if not self.fleet.counts_cycles:
            return moment(self.received)
        return (
            "(SELECT max(timestamp) FROM (SELECT timestamp FROM telemetry WHERE refusals = 0 "
            f"UNION ALL SELECT timestamp FROM ({self.store.scan('telemetry')})))"
        )

    def _periods(self, table: str, which: str = "refusals = 0") -> list[str] | None:
        """The periods that some rows of `table` fall into; None where there are no periods."""
        if table == "machines":
            return None
        period = self.store.period_of("timestamp")
        found = self._rows(f"SELECT DISTINCT {period} FROM {table} WHERE {which}")
        return [name for (name,) in found]

    def _refuse(self, table: str, reason: str, predicate: str) -> None:
        self._do(f"UPDATE {table} SET refusals = refusals | {bit(reason)} WHERE {predicate}")

    def _do(self, sql: str) -> None:
        self.connection.execute(sql)

    def _rows(self, sql: str) -> list[Any]:
        found: list[Any] = self.connection.execute(sql).fetchall()
        return found


def forget_rejects(connection: Any) -> None:
    """Drop what reading CSV left behind, before more of it is read."""
    connection.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")


def _counting(table: str, parts: list[Part]) -> AbstractContextManager[Callable[[int], None]]:
    """Report the rows that are read, where files tell beforehand how many they have."""
    total = sum(part.count for part in parts)
    return counting(f"reading {table}", total) if total else nullcontext(lambda _rows: None)


def _same(left: str, right: str, names: list[str]) -> str:
    """SQL that joins two tables on the columns `names`, which are never null."""
    return " AND ".join(f"{left}.{name} = {right}.{name}" for name in names)
