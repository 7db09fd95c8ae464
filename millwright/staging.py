"""The staging tables of an ingest: raw rows in canonical form, and what becomes of each.

They live in a DuckDB file on disk, so a table may be larger than memory. The wide columns are read
once, checked in passing and written once, sorted; every decision in between is made on the narrow
ones: `part` (which file), `refusals` (a bit for each reason, 0 for a good row), `fingerprint` (a
hash of what the row says) and `fate`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from millwright.content import content_hash
from millwright.errors import DataError, InputError, MillwrightError, first_line
from millwright.files import put_into_place
from millwright.fleet import Fleet
from millwright.raw_store import RawStore, write_parquet
from millwright.settings import Engine
from millwright.sources import Part, Source
from millwright.sql import literal, moment, quoted
from millwright.validation import (
    BEGINNING,
    REASONS,
    bit,
    canonical,
    columns,
    fingerprint,
    key,
    schema,
)

# Beside the data's own columns in a quarantine file.
_NOTES = ("reason", "reasons", "origin", "row", "line")


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
    except duckdb.Error as err:
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
        """Read `table` into its staging table, each row with the reasons that refuse it alone."""
        names = schema(self.fleet, table)
        cells = ", ".join(f"{quoted(name)} {kind}" for name, kind in names.items())
        self._do(
            f"CREATE TABLE {table} (part INTEGER, refusals BIGINT, fingerprint UBIGINT, "
            f"fate VARCHAR, {cells})"
        )
        self._do(f"CREATE TABLE malformed_{table} (part INTEGER, position BIGINT, line VARCHAR)")
        self.parts[table] = []
        for part in source.parts(self.connection, table):
            number = len(self.parts[table])
            self.parts[table].append(part)
            try:
                self._stage_part(table, number, part)
            except duckdb.Error as err:
                raise DataError(
                    f"table '{table}': cannot read {part.origin} in {source.name}: "
                    f"{first_line(err)}; restore it"
                ) from err
        self._refuse_nothing(source, table)

    def judge(self, table: str) -> None:
        """Decide of each row that is good by itself: refused, unchanged, new or a correction.

        Tables come in the order of `Fleet.table_names`, so that the machines are known by then.
        """
        self._refuse_strangers(table)
        self._refuse_repeats(table)
        self._compare(table)

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

    def _refuse_repeats(self, table: str) -> None:
        """Refuse copies of a row, and all rows that contradict each other, within the batch."""
        version = [*key(self.fleet, table), "received"]
        if getattr(self.fleet.tables, table).received is None:
            version.remove("received")
        self._do(
            f"CREATE TABLE repeated_{table} AS SELECT {', '.join(version)}, min(rowid) AS first, "
            f"min(fingerprint) <> max(fingerprint) AS conflict FROM {table} WHERE refusals = 0 "
            "GROUP BY ALL HAVING count(*) > 1"
        )
        same = _same(table, "other", version)
        repeated = f"EXISTS (FROM repeated_{table} AS other WHERE {same} AND"
        conflicting = f"{repeated} other.conflict)"
        copied = f"{repeated} NOT other.conflict AND {table}.rowid <> other.first)"
        self._refuse(table, "conflicting_duplicate", f"refusals = 0 AND {conflicting}")
        self._refuse(table, "duplicate_row", f"refusals = 0 AND {copied}")

    def _compare(self, table: str) -> None:
        """Decide of each good row whether the store has it, or another version of it."""
        names = ", ".join([*key(self.fleet, table), "received"])
        held = self.store.scan(table, self._periods(table))
        self._do(
            f"CREATE TABLE held_{table} AS SELECT {names}, {fingerprint(self.fleet, table)} AS "
            f"fingerprint FROM ({held}) AS store WHERE EXISTS (FROM {table} WHERE refusals = 0 "
            f"AND {_same(table, 'store', key(self.fleet, table))})"
        )
        if getattr(self.fleet.tables, table).received is None:
            self._compare_with_last(table)
        else:
            self._compare_in_order(table)

    def landing(self, table: str) -> str:
        """SQL for the rows of `table` that the batch shall hold."""
        names = ", ".join(map(quoted, schema(self.fleet, table)))
        return f"SELECT {names} FROM {table} WHERE refusals = 0 AND fate <> 'unchanged'"

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

    def set_aside(self, table: str, quarantine: Path, scratch: Path) -> Path:
        """Write the refused rows of `table` as the source gave them; same rows, same file."""
        draft = scratch / f"refused-{table}.parquet"
        parts = range(len(self.parts[table]))
        rows = " UNION ALL ".join(f"({self._originals(table, number)})" for number in parts)
        write_parquet(self.connection, f"SELECT * FROM ({rows}) ORDER BY origin, row", draft)
        path = quarantine / f"{table}-{content_hash(draft)[:16]}.parquet"
        try:
            if not path.exists():
                put_into_place(draft, path)
        except OSError as err:
            raise InputError(
                f"cannot write to the quarantine {quarantine}: {err.strerror}; "
                "give it a folder that may be written, with MILLWRIGHT_HOME"
            ) from err
        return path

    def _stage_part(self, table: str, number: int, part: Part) -> None:
        given = {column.name for column in columns(self.fleet, table)}
        received = "received" if "received" in given else "timestamp"
        if received not in given:
            received = moment(BEGINNING)
        names = ", ".join(
            f"{received} AS received" if name == "received" else quoted(name)
            for name in schema(self.fleet, table)
        )
        rows = canonical(self.fleet, table, part.rows, part.types, self.now)
        self._do(
            f"INSERT INTO {table} SELECT {number}, refusals, fingerprint, 'new', {names} "
            f"FROM ({rows})"
        )
        if part.is_csv:
            self._do(
                f"INSERT INTO malformed_{table} SELECT {number}, line - 1, "
                "any_value(trim(csv_line, chr(10) || chr(13))) FROM reject_errors GROUP BY line"
            )
            self._forget_rejects()

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
            f"WHERE refusals = 0 UNION ALL SELECT NULL, {keys}, received, fingerprint "
            f"FROM held_{table}"
        )
        self._do(
            f"CREATE TABLE contested_{table} AS SELECT number, fingerprint, "
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
            f"FROM contested_{table} AS other WHERE {table}.rowid = other.number"
        )

    def _received(self) -> str:
        """SQL for the time at which the corrections of this ingest became known."""
        if not self.fleet.counts_cycles:
            return moment(self.received)
        return (
            "(SELECT max(timestamp) FROM (SELECT timestamp FROM telemetry WHERE refusals = 0 "
            f"UNION ALL SELECT timestamp FROM ({self.store.scan('telemetry')})))"
        )

    def _periods(self, table: str) -> list[str] | None:
        """The periods that the good rows of `table` fall into; None where there are no periods."""
        if table == "machines":
            return None
        period = self.store.period_of("timestamp")
        found = self._rows(f"SELECT DISTINCT {period} FROM {table} WHERE refusals = 0")
        return [name for (name,) in found]

    def _originals(self, table: str, number: int) -> str:
        """SQL for the refused rows of a part, cell by cell as text, with where and why."""
        part = self.parts[table][number]
        if part.is_csv:
            self._forget_rejects()
        sources = [column.source for column in columns(self.fleet, table)]
        reasons = ", ".join(
            f"CASE WHEN refusals & {bit(reason)} > 0 THEN '{reason}' END" for reason in REASONS
        )
        # The data may call its columns anything, so they go by their places.
        cells = ", ".join(f"c{place}" for place in range(len(sources)))
        headings = _headings(sources)
        texts = ", ".join(
            f"c{sources.index(source)}::VARCHAR AS {quoted(heading)}"
            for source, heading in headings.items()
        )
        nulls = ", ".join("NULL" for _ in headings)
        malformed = f"FROM malformed_{table} WHERE part = {number}"
        # The reader of CSV leaves malformed lines out, so rows behind them count on.
        before = f"SELECT position - row_number() OVER (ORDER BY position) AS good {malformed}"
        return (
            f"WITH refused AS MATERIALIZED (SELECT rowid - (SELECT min(rowid) FROM {table} "
            f"WHERE part = {number}) + 1 AS place, list_filter([{reasons}], lambda reason: "
            f"reason IS NOT NULL) AS reasons FROM {table} WHERE part = {number} AND refusals > 0), "
            f"shifts AS MATERIALIZED ({before}) "
            f"SELECT reasons[1] AS reason, reasons, {literal(part.origin)} AS origin, place + "
            "(SELECT count(*) FROM shifts WHERE good < place) AS row, NULL::VARCHAR AS line, "
            f"{texts} FROM (SELECT *, row_number() OVER () FROM ({part.rows})) AS data({cells}, "
            "place) JOIN refused USING (place) UNION ALL "
            f"SELECT 'malformed_row', ['malformed_row'], {literal(part.origin)}, position, line, "
            f"{nulls} {malformed}"
        )

    def _forget_rejects(self) -> None:
        self._do("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")

    def _refuse(self, table: str, reason: str, predicate: str) -> None:
        self._do(f"UPDATE {table} SET refusals = refusals | {bit(reason)} WHERE {predicate}")

    def _do(self, sql: str) -> None:
        self.connection.execute(sql)

    def _rows(self, sql: str) -> list[Any]:
        found: list[Any] = self.connection.execute(sql).fetchall()
        return found


def _headings(sources: Iterable[str]) -> dict[str, str]:
    """What columns of the data are called beside the notes: no two are the same to DuckDB."""
    taken, headings = set(_NOTES), {}
    for source in dict.fromkeys(sources):
        heading = source
        while heading.lower() in taken:
            heading += "_"
        taken.add(heading.lower())
        headings[source] = heading
    return headings


def _same(left: str, right: str, names: list[str]) -> str:
    """SQL that joins two tables on the columns `names`, which are never null."""
    return " AND ".join(f"{left}.{name} = {right}.{name}" for name in names)
