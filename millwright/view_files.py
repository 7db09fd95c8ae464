"""The files of one feature view: one for each period, and a manifest that vouches for them.

    offline/sensor_window_24h/2025-01.parquet
    offline/sensor_window_24h/_manifest.json

The manifest says what the files were made from: the definition of the view, the batches of the raw
store and, of scores, the detector. It is written last, when all files are in place; and before the
first file is replaced under another definition or by another detector, one that holds nothing takes
its place. So it never vouches for files of two makes, wherever a run was killed.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from millwright.configuration import Strict
from millwright.errors import MillwrightError, first_line
from millwright.files import file_written_whole
from millwright.sql import literal, parquet, quoted
from millwright.views import View
from millwright.warehouse import KEYS, Rows

MANIFEST = "_manifest.json"
_SQL_TYPES = {"float32": "FLOAT", "string": "VARCHAR"}


class PeriodFile(Strict):
    """What the manifest knows of one file: its rows, and its size in bytes."""

    rows: int
    size: int


class Manifest(Strict):
    """What the files of a view were made from, and which there are."""

    definition: str
    batches: tuple[str, ...]
    detector: str | None
    periods: dict[str, PeriodFile]


class ViewFiles:
    """The files of one view in `folder`, as far as its manifest vouches for them.

    There are none where they follow from another definition, or from batches that are not, or no
    longer, among `known`: all of them can be made again.
    """

    def __init__(self, folder: Path, view: View, definition: str, known: Collection[str]) -> None:
        self.folder = folder
        self.view = view
        self.definition = definition
        self.batches: tuple[str, ...] = ()
        self.detector: str | None = None
        self.periods: dict[str, PeriodFile] = {}
        held = _read(folder / MANIFEST)
        if held and held.definition == definition and set(held.batches) <= set(known):
            self.batches, self.detector, self.periods = held.batches, held.detector, held.periods

    @property
    def rows(self) -> int:
        """How many rows there are in all periods."""
        return sum(file.rows for file in self.periods.values())

    def path(self, period: str) -> Path:
        """The file of `period`, whether or not it is there."""
        return self.folder / f"{period}.parquet"

    def damaged(self) -> set[str]:
        """The periods whose file is gone, or has another size than it was left with."""
        return {
            period
            for period, file in self.periods.items()
            if not self.path(period).is_file() or self.path(period).stat().st_size != file.size
        }

    def read(self, period: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one period, all columns or some.

        Raises:
            MillwrightError: the file is gone or damaged.
        """
        try:
            return pq.read_table(self.path(period), columns=list(columns) if columns else None)
        except (OSError, pa.ArrowException) as err:
            raise self.unreadable(err) from err

    def frame(self, periods: Iterable[str], columns: Sequence[str]) -> pd.DataFrame:
        """Some columns of some periods, in order of time."""
        tables = [self.read(period, columns) for period in sorted(periods)]
        if not tables:
            return pd.DataFrame(columns=list(columns))
        return pa.concat_tables(tables).to_pandas()

    def observed(self) -> pd.DataFrame:
        """One row per machine: `machine_id`, and the times of its `first` and `last` row (UTC).

        Raises:
            MillwrightError: a file is gone or damaged.
        """
        if not self.periods:
            return pd.DataFrame(columns=["machine_id", "first", "last"])
        return self._query(
            "SELECT machine_id, min(event_timestamp) AS first, max(event_timestamp) AS last "
            "FROM {rows} GROUP BY machine_id ORDER BY machine_id"
        ).to_pandas()

    def known_until(self) -> datetime | None:
        """When the newest of its rows became known (UTC); None where there are none."""
        if not self.periods:
            return None
        found = self._query("SELECT max(created_timestamp) AS known FROM {rows}")
        known: datetime = found["known"][0].as_py()
        return known

    def _query(self, sql: str) -> pa.Table:
        """What DuckDB's SQL over `{rows}` gives, times in UTC."""
        try:
            with duckdb.connect() as connection:
                connection.execute("SET TimeZone = 'UTC'")
                rows = parquet(map(self.path, self.periods))
                found: pa.Table = connection.sql(sql.format(rows=rows)).to_arrow_table()
        except duckdb.Error as err:
            raise self.unreadable(err) from err
        return found

    def fill(self, period: str, rows: Rows) -> None:
        """Replace the file of `period` by what a query selects, by machine and time."""
        columns = [
            f"{quoted(name)}::{_SQL_TYPES[kind]} AS {quoted(name)}"
            for name, kind in self.view.features.items()
        ]
        with file_written_whole(self.path(period)) as draft:
            copied = rows.execute(
                f"COPY (SELECT {', '.join([*KEYS, *columns])} FROM ({rows.sql}) "
                f"ORDER BY {', '.join(KEYS)}) "
                f"TO {literal(str(draft))} (FORMAT parquet, COMPRESSION zstd)"
            )
            written = int(copied.fetchone()[0])
        self._replaced(period, written)

    def put(self, period: str, rows: pa.Table) -> None:
        """Have the file of `period` hold these rows and no others."""
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
            connection.register("put", rows)
            self.fill(period, Rows("FROM put", connection.execute))

    def unreadable(self, err: Exception) -> MillwrightError:
        """What to raise when `err` came of reading the files."""
        return MillwrightError(
            f"the feature tables in {self.folder} cannot be read: {first_line(err)}; remove that "
            "folder and run --pipeline features, which makes it again"
        )

    def begin(self) -> None:
        """Have the manifest vouch for no more than this object does, before a file is replaced."""
        self._save()

    def begin_anew(self) -> None:
        """Hold nothing any more, before the first file of another make is written."""
        self.batches, self.detector, self.periods = (), None, {}
        self._save()

    def _replaced(self, period: str, rows: int) -> None:
        """Take note of the file of `period`, which now has so many rows."""
        # A file without rows is unknown to the manifest, and removed when that is written.
        self.periods.pop(period, None)
        if rows:
            self.periods[period] = PeriodFile(rows=rows, size=self.path(period).stat().st_size)

    def finish(self, batches: Iterable[str]) -> None:
        """Remove files that are not held, and commit the manifest: `batches` are taken in."""
        for path in self.folder.glob("*.parquet"):
            if path.stem not in self.periods:
                path.unlink()
        self.batches = tuple(batches)
        self._save()

    def _save(self) -> None:
        manifest = Manifest(
            definition=self.definition,
            batches=self.batches,
            detector=self.detector,
            periods=dict(sorted(self.periods.items())),
        )
        text = manifest.model_dump_json(indent=1) + "\n"
        path = self.folder / MANIFEST
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with file_written_whole(path) as draft:
                draft.write_text(text, encoding="utf-8")


def _read(path: Path) -> Manifest | None:
    """The manifest at `path`; None if there is none, or it is not one of today's form."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
