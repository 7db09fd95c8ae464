"""A table kept as parquet files, read with DuckDB in UTC: its files, its columns, its row numbers.

A table is one file, or a folder of files at any depth. Folders such as `period=2025-01` are
housekeeping: what their names say is no column.
"""

import errno
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa
import pyarrow.dataset

from millwright.configuration import nearest
from millwright.errors import BusyError, ConfigurationError, DataError, MillwrightError, first_line
from millwright.sql import parquet, quoted

# Names a row of `s` among all files of a table, and rises in their order. DuckDB counts files in
# the order in which it was given them.
ROW_NUMBER = "((s.file_index::BIGINT << 40) | s.file_row_number)"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Table(Protocol):
    """What can be read here: `Files` of this machine, or `object_storage.Objects`."""

    @property
    def place(self) -> object:
        """Where it is, for people."""

    @property
    def paths(self) -> Sequence[object]:
        """Its files, in order of their names. There may be none yet."""

    @property
    def sql(self) -> str:
        """The table in the FROM clause of a query, under the name `s`."""

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Have `connection` know the files."""

    def schema(self) -> pa.Schema:
        """The columns in the files, and not those that the names of folders would make."""

    def versions(self) -> object:
        """What is another value when a file was changed, unless changes are refused anyway."""

    def explain(self, err: duckdb.Error) -> MillwrightError:
        """Why the files, which were not changed, cannot be read."""


@dataclass(frozen=True)
class Files:
    """The parquet files at `place`, in order of their names. There may be none yet."""

    place: Path
    paths: tuple[Path, ...]

    @property
    def sql(self) -> str:
        """The table in the FROM clause of a query, under the name `s`."""
        return f"{parquet(self.paths)} AS s"

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """DuckDB knows the files of this machine."""

    def schema(self) -> pa.Schema:
        """The columns in the files, and not those that the names of folders would make."""
        return pyarrow.dataset.dataset([str(path) for path in self.paths], format="parquet").schema

    def versions(self) -> list[tuple[int, int, int] | None]:
        """What is another value when a file was changed."""
        return [_stamp(path) for path in self.paths]

    def explain(self, err: duckdb.Error) -> MillwrightError:
        """Why the files, which were not changed, cannot be read."""
        return DataError(f"cannot read {self.place}: {first_line(err)}")


def find(place: Path) -> Files:
    """List the files of the table at `place`; a missing folder is a table without rows.

    Names that begin with a dot or an underscore are files that are still being written.

    Raises:
        DataError: `place` names a file, and there is none.
    """
    if place.is_file():
        return Files(place, (place,))
    if not place.exists() and place.suffix == ".parquet":
        raise DataError(f"there is no file {place}; write it, or name a folder of parquet files")
    found = sorted(path for path in place.rglob("*.parquet") if path.is_file())
    return Files(place, tuple(path for path in found if not hidden(path.relative_to(place).parts)))


@contextmanager
def connect(
    memory_limit: str | None = None,
    threads: int | None = None,
    spill_folder: Path | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB in memory. What does not fit `memory_limit` spills into `spill_folder`.

    Raises:
        ConfigurationError: nothing can be written into `spill_folder`.
        MillwrightError: even so, the limit is too small; or the disk is full.
    """
    with _made(spill_folder) as spill:
        config: dict[str, str | int] = {"temp_directory": spill}
        if memory_limit is not None:
            config["memory_limit"] = memory_limit
        if threads is not None:
            config["threads"] = threads
        with duckdb.connect(config=config) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            try:
                yield connection
            except duckdb.OutOfMemoryException as err:
                reason = str(err).splitlines()[0]
                raise MillwrightError(f"raise 'memory_limit' or lower 'threads': {reason}") from err
            except OSError as err:
                if err.errno != errno.ENOSPC:
                    raise
                raise MillwrightError(
                    f"the disk of {spill} is full; name a folder with more room as 'spill_folder'"
                ) from err


def _made(folder: Path | None) -> "tempfile.TemporaryDirectory[str]":
    """A folder in `folder` that is gone afterwards."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix="millwright-", dir=folder)
    except OSError as err:
        raise ConfigurationError(
            f"cannot write into {folder or tempfile.gettempdir()}: {err.strerror}; name another "
            "folder as 'spill_folder'"
        ) from err


@contextmanager
def reading(files: Table) -> Iterator[None]:
    """Name the place in whatever goes wrong, and refuse files that change meanwhile.

    Row numbers found in one version of a file mean other rows in the next.
    """
    before = files.versions()
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise  # `connect` has the word for it
    except duckdb.Error as err:
        if files.versions() == before:
            raise files.explain(err) from err
    if files.versions() != before:
        raise BusyError(f"{files.place} changed while it was being read; run this again")


def columns(connection: duckdb.DuckDBPyConnection, files: Table) -> dict[str, str]:
    """The columns of all `files` together, each with its DuckDB type; ask this first."""
    files.attach(connection)
    rows = connection.execute(f"DESCRIBE SELECT * FROM {files.sql}").fetchall()
    return {row[0]: row[1] for row in rows}


def check(
    files: Table, found: Mapping[str, str], names: Iterable[str], times: Iterable[str]
) -> None:
    """Refuse `files` that lack a column of `names`, or whose `times` are no timestamps."""
    for name in ("file_index", "file_row_number"):  # DuckDB's own, which say where a row is
        if name in found:
            raise DataError(f"{files.place} has a column '{name}'; call it something else")
    for name in [*names, *times]:
        if name not in found:
            raise DataError(f"{files.place} has no column '{name}'; {nearest(name, [*found])}")
    for name in times:
        if not found[name].startswith(("TIMESTAMP", "DATE")):
            raise DataError(
                f"{files.place}: column '{name}' is {found[name]}; write it as a timestamp"
            )


def within(column: str, kind: str, first: int | None, last: int | None) -> str:
    """A condition that keeps the rows of `first` to `last` (microseconds) and maybe some more.

    Comparing the bare column lets DuckDB skip row groups by their statistics. A type that this
    could go wrong with is not compared at all.
    """
    makers = {"TIMESTAMP WITH TIME ZONE": "make_timestamptz", "TIMESTAMP": "make_timestamp"}
    if kind not in makers:
        return "true"
    bounds = {">=": first, "<=": last}
    return " AND ".join(
        ["true"]
        + [
            f"s.{quoted(column)} {sign} {makers[kind]}({bound})"
            for sign, bound in bounds.items()
            if bound is not None
        ]
    )


def read(
    connection: duckdb.DuckDBPyConnection,
    files: Table,
    names: Sequence[str],
    timestamp: str,
    span: tuple[datetime | None, datetime | None] = (None, None),
) -> pa.Table:
    """The rows whose `timestamp` is in `span`, ends included, in the order of the files."""
    if not files.paths:
        return nothing(names, {timestamp})
    with reading(files):
        check(files, columns(connection, files), names, [timestamp])
        selected = ", ".join(f"s.{quoted(name)}" for name in names)
        query = f"SELECT {selected} FROM {files.sql} WHERE {_in_span(timestamp, span)}"
        rows: pa.Table = connection.execute(query).to_arrow_table()
    return rows


def read_latest(
    connection: duckdb.DuckDBPyConnection,
    files: Table,
    keys: Sequence[str],
    names: Sequence[str],
    timestamp: str,
    created: str | None,
    span: tuple[datetime, datetime],
) -> pa.Table:
    """For each key the newest row of those whose `timestamp` is in `span`, in order of the keys.

    The ends of the span are included. Of rows of one timestamp the last created one counts, then
    the last in the files. A row with a null key is nobody's.
    """
    times = [timestamp, created] if created else [timestamp]
    if not files.paths:
        return nothing(names, set(times))
    identity = [f"s.{quoted(key)}" for key in keys]
    known = [_in_span(timestamp, span), *(f"{key} IS NOT NULL" for key in identity)]
    time = f"s.{quoted(timestamp)}"
    order = [time, ROW_NUMBER]
    if created:  # null is before every time
        order[1:1] = [f"s.{quoted(created)} IS NOT NULL", f"s.{quoted(created)}"]
    with reading(files):
        check(files, columns(connection, files), [*keys, *names], times)
        # By the number alone the row would be found, and by its time without reading all others.
        rows: pa.Table = connection.execute(
            f"""
            SELECT {", ".join(f"s.{quoted(name)}" for name in names)}
            FROM {files.sql}
            JOIN (
                SELECT max(ROW({", ".join(order)})) AS found
                FROM {files.sql}
                WHERE {" AND ".join(known)}
                {f"GROUP BY {', '.join(identity)}" if keys else ""}
            ) AS newest ON {time} = newest.found[1] AND {ROW_NUMBER} = newest.found[{len(order)}]
            {f"ORDER BY {', '.join(identity)}" if keys else ""}
            """
        ).to_arrow_table()
    return rows


def microseconds(time: datetime) -> int:
    """`time` in microseconds since 1970; without a zone it is in UTC."""
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return (aware - EPOCH) // timedelta(microseconds=1)


def _in_span(timestamp: str, span: tuple[datetime | None, datetime | None]) -> str:
    first, last = span
    time = f"epoch_us(s.{quoted(timestamp)})"
    conditions = [f"{time} IS NOT NULL"]
    if first is not None:
        conditions.append(f"{time} >= {microseconds(first)}")
    if last is not None:
        conditions.append(f"{time} <= {microseconds(last)}")
    return " AND ".join(conditions)


def nothing(names: Sequence[str], times: set[str]) -> pa.Table:
    """A table without rows, of which nobody says what types its columns but times would have."""
    instant = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [(name, instant if name in times else pa.null()) for name in names]
    ).empty_table()


def hidden(names: Iterable[str]) -> bool:
    """Whether a path of such names is left alone, by the custom of Spark: `_date=1` is not."""
    return any(name[0] == "." or (name[0] == "_" and "=" not in name) for name in names if name)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
