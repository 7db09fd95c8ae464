"""The raw store: validated rows in append-only parquet files, one set of files for each batch.

    raw/telemetry/2025-01/<batch>.parquet
    raw/machines/<batch>.parquet
    raw/batches/<batch>.json

A batch exists from the moment its manifest is renamed into place, which is the last thing that a
commit does. Readers read only files that a manifest names, so what a killed run left behind is
never seen; the next commit removes it. A batch is named by its content: the same rows have the same
name whichever format, order, writer or machine they came by.

A changed row does not replace the earlier one: it is a second version with the same key and a
`received` of its own. Two writers at once are kept apart by the lock of the environment, not here.
"""

import glob
import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from millwright.configuration import Strict
from millwright.errors import InputError, MillwrightError, first_line
from millwright.files import put_into_place
from millwright.fleet import Fleet
from millwright.periods import FORMATS, label
from millwright.raw_files import write_parquet
from millwright.sql import files, moment, parquet, quoted
from millwright.stores.progress import counting
from millwright.validation import key, schema

_ID_LENGTH = 16


class Piece(Strict):
    """One parquet file of a batch. The machines table has no period and no event times."""

    table: str
    period: str | None
    file: str
    rows: int
    first: datetime | None
    last: datetime | None
    first_received: datetime
    last_received: datetime


class Batch(Strict):
    """The manifest of a batch: what one ingest brought."""

    batch: str
    sequence: int
    source: str
    refused: int
    files: tuple[Piece, ...]


@dataclass(frozen=True)
class Draft:
    """A file that a batch shall hold, in a scratch folder, and the hash of its content."""

    piece: Piece
    content: str


class RawStore:
    """The raw tables of one fleet under `folder`. Nothing is created before the first ingest."""

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        self.folder = folder
        self.fleet = fleet
        self._manifests: dict[tuple[Path, int, int], Batch] = {}

    def batches(self) -> list[Batch]:
        """All batches in the order in which they were committed.

        Raises:
            MillwrightError: a manifest cannot be read.
        """
        found = map(self._manifest, (self.folder / "batches").glob("*.json"))
        return sorted(found, key=lambda batch: batch.sequence)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Tell a file of the store that cannot be read from all else that may fail in the block.

        Raises:
            MillwrightError: the error names a committed file.
        """
        try:
            yield
        except (OSError, duckdb.Error) as err:
            self._blame(err)
            raise

    @property
    def dataset_version(self) -> str:
        """A hash that changes with every batch and with nothing else."""
        names = "\n".join(batch.batch for batch in self.batches())
        return hashlib.sha256(names.encode()).hexdigest()[:_ID_LENGTH]

    def files(self, table: str, periods: Collection[str] | None = None) -> list[Path]:
        """The committed files of `table`, all or those with rows in `periods`, oldest batch first.

        A file is chosen by the times in it: it may have been cut by another `partition`.
        """
        return [
            self.folder / piece.file
            for batch in self.batches()
            for piece in batch.files
            if piece.table == table and (periods is None or self._spans(piece, periods))
        ]

    def scan(self, table: str, periods: Collection[str] | None = None) -> str:
        """SQL that selects the canonical columns of `table` from exactly the committed files.

        A column that the fleet file has gained since an earlier batch is null there.
        """
        types = schema(self.fleet, table)
        typed = ", ".join(f"NULL::{kind} AS {quoted(name)}" for name, kind in types.items())
        rows = f"SELECT {typed} LIMIT 0"
        paths = self.files(table, periods)
        if paths:
            rows = f"({rows}) UNION ALL BY NAME SELECT * FROM {parquet(paths)}"
        return f"SELECT {', '.join(map(quoted, types))} FROM ({rows})"

    def query(self, sql: str) -> pd.DataFrame:
        """The rows that SQL over `scan` selects; times are in UTC."""
        with self.reading(), duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            found: pd.DataFrame = connection.sql(sql).df()
        return found

    def silent_sensors(self) -> list[str]:
        """The sensors of the fleet file of which no reading was ever taken in."""
        paths = files(self.files("telemetry"))
        with self.reading(), duckdb.connect() as connection:
            heard = connection.sql(
                f"SELECT DISTINCT path_in_schema FROM parquet_metadata({paths}) "
                "WHERE num_values > coalesce(stats_null_count, 0)"
            ).fetchall()
        return [sensor for sensor in self.fleet.sensors if (sensor,) not in heard]

    def period_of(self, time: str) -> str:
        """SQL for the name of the period, in UTC, that the SQL `time` falls into."""
        # The zone of the session must not matter: a plain timestamp has none.
        form = FORMATS[self.fleet.partition]
        return f"strftime(make_timestamp(epoch_us({time})), '{form}')"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A scratch folder on the disk of the store, gone afterwards.

        Raises:
            InputError: the store cannot be written.
        """
        created = not self.folder.exists()
        scratch = self.folder / ".scratch"
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        except OSError as err:
            raise InputError(
                f"cannot write to the raw store {self.folder}: {err.strerror}; "
                "give it a folder that may be written, with MILLWRIGHT_HOME"
            ) from err
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if created and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def draft(self, connection: Any, rows: Mapping[str, str], scratch: Path) -> list[Draft]:
        """Write what `commit` shall append: for each table the rows that its SQL selects.

        Raises:
            MillwrightError: the rows cannot be written. The store is as it was.
        """
        with self._writing():
            return [
                draft
                for table, sql in rows.items()
                for draft in self._write_drafts(connection, table, sql, scratch)
            ]

    def commit(self, drafts: Sequence[Draft], scratch: Path, source: str, refused: int) -> Batch:
        """Append what `draft` wrote to `scratch` as one batch.

        Raises:
            MillwrightError: the batch cannot be written. The store is as it was.
        """
        with self._writing():
            committed = self.batches()
            self._remove_leftovers(committed)
            name = _batch_name(drafts)
            pieces = [draft.piece for draft in drafts]
            files = tuple(
                self._move_into_place(piece, scratch, name)
                for piece in sorted(pieces, key=lambda piece: (piece.table, piece.period or ""))
            )
            batch = Batch(
                batch=name,
                sequence=1 + max((batch.sequence for batch in committed), default=0),
                source=source,
                refused=refused,
                files=files,
            )
            self._write_manifest(batch, scratch)
        return batch

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, duckdb.Error, pa.ArrowException) as err:
            raise MillwrightError(
                f"cannot write a batch to the raw store {self.folder}: {first_line(err)}; "
                "the store is as it was"
            ) from err

    def _blame(self, err: OSError | duckdb.Error) -> None:
        """Raise what to do about the committed file that `err` came of, if it came of one."""
        said = first_line(err)  # further lines quote the query, and so files that are sound
        paths = [self.folder / piece.file for batch in self.batches() for piece in batch.files]
        # DuckDB takes a path for a pattern, and says so when it finds nothing.
        named = (p for p in paths if str(p) in said or glob.escape(str(p)) in said)
        if path := next(named, None) or (_first_damaged(paths) if _blames_content(err) else None):
            raise MillwrightError(
                f"cannot read {path} of the raw store: {said}; restore it from a backup, or move "
                f"{self.folder} away and ingest all exports again"
            ) from err

    def _manifest(self, path: Path) -> Batch:
        """The manifest at `path`, read again only if it is another file: there may be thousands."""
        try:
            found = path.stat()
        except OSError:  # reading it says why
            return _read_manifest(path)
        mark = (path, found.st_size, found.st_mtime_ns)
        if mark not in self._manifests:
            self._manifests[mark] = _read_manifest(path)
        return self._manifests[mark]

    def _spans(self, piece: Piece, periods: Collection[str]) -> bool:
        if piece.first is None or piece.last is None:
            return True
        first, last = label(piece.first, self.fleet), label(piece.last, self.fleet)
        return any(first <= period <= last for period in periods)

    def _write_drafts(self, connection: Any, table: str, rows: str, scratch: Path) -> list[Draft]:
        """Write one sorted file for each period to `scratch`; each is named after its place."""
        names = list(schema(self.fleet, table))
        timed = "timestamp" in names
        period = self.period_of("timestamp") if timed else "NULL"
        limits = "min(timestamp), max(timestamp)" if timed else "NULL, NULL"
        found = connection.execute(
            f"SELECT {period} AS period, count(*), {limits}, min(received), max(received) "
            f"FROM ({rows}) GROUP BY period ORDER BY period"
        ).fetchall()
        chosen = ", ".join(map(quoted, names))
        order = ", ".join(map(quoted, [*key(self.fleet, table), "received"]))
        drafts = []
        with counting(f"writing {table}", sum(count for _, count, *_ in found)) as advance:
            for period, count, first, last, first_received, last_received in found:
                piece = Piece(
                    table=table,
                    period=period,
                    file=f"{table}-{period}.parquet",
                    rows=count,
                    first=first,
                    last=last,
                    first_received=first_received,
                    last_received=last_received,
                )
                part = (
                    f"WHERE timestamp BETWEEN {moment(first)} AND {moment(last)}" if timed else ""
                )
                sql = f"SELECT {chosen} FROM ({rows}) {part} ORDER BY {order}"
                content = write_parquet(connection, sql, scratch / piece.file, advance)
                drafts.append(Draft(piece, content))
        return drafts

    def _move_into_place(self, piece: Piece, scratch: Path, batch: str) -> Piece:
        file = Path(piece.table, piece.period or "", f"{batch}.parquet")
        put_into_place(scratch / piece.file, self.folder / file)
        return piece.model_copy(update={"file": file.as_posix()})

    def _write_manifest(self, batch: Batch, scratch: Path) -> None:
        draft = scratch / "manifest.json"
        draft.write_text(batch.model_dump_json(indent=1) + "\n", encoding="utf-8")
        put_into_place(draft, self.folder / "batches" / f"{batch.batch}.json")

    def _remove_leftovers(self, committed: list[Batch]) -> None:
        named = {self.folder / piece.file for batch in committed for piece in batch.files}
        for table in self.fleet.table_names:
            for path in (self.folder / table).rglob("*.parquet"):
                if path not in named:
                    path.unlink()


def _blames_content(err: OSError | duckdb.Error) -> bool:
    """Whether what was read may be at fault, and not the disk or the memory."""
    return not isinstance(err, OSError | duckdb.IOException | duckdb.OutOfMemoryException)


def _first_damaged(paths: list[Path]) -> Path | None:
    """The first file that cannot be read from end to end; some errors do not name theirs."""
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                for _ in file.iter_batches():
                    pass
        except (OSError, pa.ArrowException):
            return path
    return None


def _read_manifest(path: Path) -> Batch:
    try:
        return Batch.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as err:
        raise MillwrightError(
            f"{path} is not the manifest of a batch; restore it from a backup, or move "
            f"{path.parent.parent} away and ingest all exports again: without its manifest the "
            "rows of a batch count as left behind, and are removed"
        ) from err


def _batch_name(drafts: Sequence[Draft]) -> str:
    content = sorted(
        (draft.piece.table, draft.piece.period or "", draft.content) for draft in drafts
    )
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_ID_LENGTH]
