"""Predictions of whole fleets as parquet files, one for each time: `20251231T000000Z.parquet`."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from millwright import terminal
from millwright.errors import MillwrightError, first_line
from millwright.files import file_written_whole
from millwright.inference import table
from millwright.lock import held


class ParquetTable:
    """The files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def replace(self, as_of: datetime, rows: pa.Table) -> str:
        """See `table.Table`."""
        path = self._path(as_of)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (
                held(self.folder / "writing.lock", terminal.say),
                file_written_whole(path) as draft,
            ):
                pq.write_table(rows.cast(table.PREDICTIONS), draft, compression="zstd")
        except OSError as err:
            raise MillwrightError(
                f"cannot write {path}: {err.strerror or first_line(err)}; make room or give a "
                "folder that may be written, with MILLWRIGHT_HOME, and run again"
            ) from err
        return str(path)

    def read(self, as_of: datetime | None) -> pa.Table:
        """See `table.Table`."""
        paths = list(self.folder.glob("*.parquet")) if as_of is None else [self._path(as_of)]
        path = max(paths, key=lambda each: datetime.fromisoformat(each.stem), default=None)
        if path is None or not path.is_file():
            return table.PREDICTIONS.empty_table()
        try:
            return pq.ParquetFile(path).read().cast(table.PREDICTIONS)
        except (OSError, ValueError) as err:
            raise MillwrightError(
                f"{path} cannot be read: {first_line(err)}; make it again, with --fleet and "
                f"--stack: python run.py --pipeline inference --as-of {path.stem}"
            ) from err

    def _path(self, as_of: datetime) -> Path:
        return self.folder / f"{table.stamp(as_of.astimezone(UTC))}.parquet"
