"""Where raw tables come from: a folder of CSV or parquet files, or a database.

A source is checked as a whole before a row of it is read: each table that the fleet file names must
be there with its columns. Cells are checked later, one by one: see `validation`. CSV files and
databases are read as text, so that a bad cell can be told apart and shown as it was.
"""

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import sqlalchemy
from sqlalchemy.engine import URL
from sqlalchemy.exc import NoSuchModuleError, NoSuchTableError, SQLAlchemyError

from millwright.configuration import nearest
from millwright.errors import DataError
from millwright.fleet import Fleet
from millwright.sql import file, literal, parquet, quoted
from millwright.validation import NUMBER, Column, columns

_ROWS_AT_A_TIME = 20_000
_LONGEST_HEADER = 1 << 20
_ENDINGS = (".csv", ".parquet")


# Where a step finds the place that it reads, with the password that its parameter leaves out.
SOURCE_VARIABLE = "MILLWRIGHT_SOURCE"


@dataclass(frozen=True)
class Part:
    """A piece of a raw table: one file, or a table of a database.

    `rows` is SQL that yields the needed columns, as `columns` lists them, in the order of the data,
    and `NUMBER`, which is null where the source cannot tell; `types` are their SQL types by name.
    Scanning CSV fills DuckDB's `reject_errors` with malformed lines. A part with a `file` is as
    quick to read again as a copy of it would be, and has `count` rows.
    """

    origin: str
    rows: str
    types: Mapping[str, str]
    is_csv: bool = False
    file: Path | None = None
    count: int = 0
    stamp: tuple[int, ...] = ()

    def verify(self) -> None:
        """Make sure that the file is still the one that was opened.

        Raises:
            DataError: it was changed meanwhile.
        """
        if self.file and _stamp(self.file) != self.stamp:
            raise DataError(
                f"{self.file} was changed while it was read; the store is as it was: ingest "
                "again when it is complete"
            )


class Source(ABC):
    """A place that holds the raw tables of a fleet. `name` carries no secret."""

    name: str

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def check(self) -> None:
        """Make sure that every table and every column is there.

        Raises:
            DataError: with every fault, one a line.
        """
        faults: list[str] = []
        for table in self.fleet.table_names:
            try:
                self._check_table(table)
            except DataError as err:
                faults.append(str(err))
        if faults:
            raise DataError("\n".join(faults))

    @abstractmethod
    def parts(self, connection: Any, table: str) -> Iterator[Part]:
        """The pieces of `table`, as the DuckDB `connection` can read them.

        Raises:
            DataError: a piece cannot be read.
        """

    @abstractmethod
    def _check_table(self, table: str) -> None: ...

    def _check_columns(self, table: str, place: str, header: Sequence[str]) -> None:
        """Raise a DataError with every column that `header` lacks, or has twice."""
        faults = [
            f"table '{table}', {place}: {fault}"
            for column in columns(self.fleet, table)
            if (fault := self._column_fault(column, header))
        ]
        if faults:
            raise DataError("\n".join(faults))

    def _column_fault(self, column: Column, header: Sequence[str]) -> str:
        where = f"which '{column.key}' names in {self.fleet.name}.yaml"
        match header.count(column.source):
            case 0:
                close = nearest(column.source, list(header))
                return f"there is no column '{column.source}', {where}; {close}"
            case 1:
                return ""
            case count:
                return f"column '{column.source}', {where}, is there {count} times; keep one"

    def _missing(self, table: str, what: str, names: Sequence[str]) -> DataError:
        wanted = getattr(self.fleet.tables, table).source
        return DataError(
            f"table '{table}': there is no {what}, which 'tables.{table}.source' names in "
            f"{self.fleet.name}.yaml; {nearest(wanted, sorted(names))}"
        )


class FolderSource(Source):
    """A folder with a file `<source>.csv` or `<source>.parquet`, or a folder of them, per table.

    What is in a table's folder under a name that begins with `.` or `_` is not looked at.
    """

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        super().__init__(fleet)
        self.folder = folder
        self.name = str(folder)

    def parts(self, connection: Any, table: str) -> Iterator[Part]:
        """One part for each file, in the order of their names."""
        for path in self._files(table):
            wanted = [column.source for column in columns(self.fleet, table)]
            with _readable(path):
                if path.suffix == ".csv":
                    part = _csv_part(path, self._origin(path), wanted)
                else:
                    part = _parquet_part(connection, path, self._origin(path), wanted)
            yield part

    def _check_table(self, table: str) -> None:
        for path in self._files(table):
            with _readable(path):
                header = _csv_header(path)[0] if path.suffix == ".csv" else _parquet_names(path)
            self._check_columns(table, str(path), header)

    def _origin(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _files(self, table: str) -> list[Path]:
        source = getattr(self.fleet.tables, table).source
        try:
            entries = list(self.folder.iterdir())
        except OSError as err:
            raise DataError(f"cannot read the folder {self.folder}: {err.strerror}") from err
        single = [entry for entry in entries if entry.name in {source + end for end in _ENDINGS}]
        folders = [entry for entry in entries if entry.name == source and entry.is_dir()]
        found = sorted(single) + folders
        if not found:
            names = {entry.stem for entry in entries if entry.suffix in _ENDINGS or entry.is_dir()}
            file = f"{source}.csv, {source}.parquet or folder {source} in {self.folder}"
            raise self._missing(table, file, sorted(names))
        if len(found) > 1:
            both = " and ".join(entry.name for entry in found)
            raise DataError(f"table '{table}': {self.folder} has both {both}; keep one of them")
        if not folders:
            return single
        try:
            inside = sorted(_files_below(folders[0], {folders[0].resolve()}))
        except OSError as err:
            raise DataError(f"cannot read the folder {err.filename}: {err.strerror}") from err
        if not inside:
            raise DataError(f"table '{table}': folder {folders[0]} has no CSV or parquet file")
        return inside


class DatabaseSource(Source):
    """A database with a table or view `<source>` per table, named by a SQLAlchemy URL."""

    def __init__(self, url: URL, fleet: Fleet) -> None:
        super().__init__(fleet)
        self.url = url
        self.name = url.set(query={}).render_as_string(hide_password=True)

    def parts(self, connection: Any, table: str) -> Iterator[Part]:
        """One part: a copy of the database's table in `connection`, made a batch at a time."""
        wanted = [column.source for column in columns(self.fleet, table)]
        copy = quoted(f"incoming_{table}")
        cells = ", ".join(f"c{place} VARCHAR" for place in range(len(wanted)))
        connection.execute(f"CREATE OR REPLACE TABLE {copy} ({cells})")
        source = getattr(self.fleet.tables, table).source
        for batch in self._batches(source, wanted):
            connection.register("incoming_batch", batch)
            connection.execute(f"INSERT INTO {copy} SELECT * FROM incoming_batch")
            connection.unregister("incoming_batch")
        yield Part(
            origin=f"{self.name}, table {source}",
            rows=f"SELECT *, NULL::BIGINT AS {NUMBER} FROM {copy}",
            types=dict.fromkeys(wanted, "VARCHAR"),
        )

    def _check_table(self, table: str) -> None:
        source = getattr(self.fleet.tables, table).source
        with self._connected() as connection:
            inspector = sqlalchemy.inspect(connection)
            schema, _, name = source.rpartition(".")
            try:
                header = [entry["name"] for entry in inspector.get_columns(name, schema or None)]
            except NoSuchTableError as err:
                names = [*inspector.get_table_names(), *inspector.get_view_names()]
                raise self._missing(table, f"table {source} in {self.name}", names) from err
        self._check_columns(table, f"table {source} in {self.name}", header)

    def _batches(self, source: str, wanted: Sequence[str]) -> Iterator[Any]:
        schema, _, name = source.rpartition(".")
        # Columns without a type come as the driver gives them: a bad cell must not raise here.
        chosen: list[Any] = [sqlalchemy.column(cell) for cell in wanted]
        with self._connected() as connection:
            if connection.dialect.name == "postgresql":
                # Its own text is exact, and holds the infinite and far times that Python cannot.
                connection.execute(sqlalchemy.text("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'"))
                chosen = [sqlalchemy.cast(column, sqlalchemy.Text) for column in chosen]
            query = sqlalchemy.select(*chosen).select_from(
                sqlalchemy.table(name, schema=schema or None)
            )
            streamed = connection.execution_options(yield_per=_ROWS_AT_A_TIME)
            for rows in streamed.execute(query).partitions():
                yield pa.table(
                    [pa.array(map(_text, cells), pa.string()) for cells in zip(*rows, strict=True)],
                    names=[f"c{place}" for place in range(len(wanted))],
                )

    @contextmanager
    def _connected(self) -> Iterator[sqlalchemy.Connection]:
        """A connection to the database; its errors become ours, without the password."""
        engine: sqlalchemy.Engine | None = None
        try:
            if (
                self.url.get_backend_name() == "sqlite"
                and not Path(str(self.url.database)).exists()
            ):
                raise DataError(f"cannot read {self.name}: there is no such file")
            engine = sqlalchemy.create_engine(self.url)
            with engine.connect() as connection:
                yield connection
        except (SQLAlchemyError, ImportError) as err:
            raise DataError(f"cannot read {self.name}: {self._reason(err)}") from err
        finally:
            if engine is not None:
                engine.dispose()

    def _reason(self, err: BaseException) -> str:
        cause = getattr(err, "orig", None) or err
        reason = " ".join(str(cause).split())
        secrets = [self.url.password, self.url.query.get("password")]
        for secret in secrets:
            reason = reason.replace(str(secret), "***") if secret else reason
        return reason


def without_password(place: str) -> str:
    """`place` as it may be shown and kept."""
    if "://" not in place:
        return place
    return _url(place).set(query={}).render_as_string(hide_password=True)


def open_source(place: str | Path, fleet: Fleet) -> Source:
    """The source at `place`, a folder or a database URL, with every table and column there.

    Raises:
        DataError: with every structural fault, one a line.
    """
    source: Source
    if "://" in str(place):
        source = DatabaseSource(_url(str(place)), fleet)
    else:
        source = FolderSource(_folder(Path(place)), fleet)
    source.check()
    return source


def _url(text: str) -> URL:
    try:
        url = sqlalchemy.make_url(text)
        url.get_dialect()
    except (SQLAlchemyError, NoSuchModuleError, ValueError) as err:
        scheme = text.partition("://")[0]
        raise DataError(
            f"cannot read the database URL that begins with {scheme}://; write "
            "postgresql://user@host/database or sqlite:///file.db"
        ) from err
    return url


def _folder(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"there is no folder {path}; name the folder that holds the raw tables")
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; name the folder that holds the raw tables")
    return path


def _files_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """The CSV and parquet files in `folder`, at any depth, but those that are hidden.

    Links to folders are followed, each folder is read once: `seen` are those that were.
    """
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_dir():
            if (real := entry.resolve()) not in seen:
                seen.add(real)
                yield from _files_below(entry, seen)
        elif entry.suffix in _ENDINGS:
            yield entry


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error, duckdb.Error) as err:
        reason = str(err).strip().partition("\n")[0]
        raise DataError(f"cannot read {path}: {reason}; restore the file") from err


def _csv_header(path: Path) -> tuple[list[str], str]:
    """The names in the first line of a CSV file, and the delimiter between them."""
    with path.open("rb") as file:  # a bad letter further down is the fault of its line alone
        line = file.readline(_LONGEST_HEADER).decode("utf-8-sig")
    if not line.strip():
        raise DataError(f"{path} is empty; it must begin with a line of column names")
    delimiter = max(",;\t", key=line.count)
    return next(csv.reader([line], delimiter=delimiter)), delimiter


def _csv_part(path: Path, origin: str, wanted: Sequence[str]) -> Part:
    header, delimiter = _csv_header(path)
    # Numbered, because DuckDB would rename columns that differ in nothing but their case.
    cells = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(header)))
    chosen = ", ".join(f"c{header.index(name)} AS {quoted(name)}" for name in wanted)
    rows = (
        f"SELECT {chosen}, NULL::BIGINT AS {NUMBER} FROM read_csv({file(path)}, "
        f"auto_detect=false, header=true, delim={literal(delimiter)}, quote='\"', escape='\"', "
        f"columns={{{cells}}}, store_rejects=true, rejects_limit=0)"
    )
    return Part(origin, rows, dict.fromkeys(wanted, "VARCHAR"), is_csv=True)


def _parquet_names(path: Path) -> list[str]:
    with duckdb.connect() as connection:
        return list(_parquet_types(connection, path))


def _parquet_types(connection: Any, path: Path) -> dict[str, str]:
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; restore the file")
    described = connection.execute(f"DESCRIBE SELECT * FROM {parquet([path])}").fetchall()
    return {name: sql_type for name, sql_type, *_ in described}


def _parquet_part(connection: Any, path: Path, origin: str, wanted: Sequence[str]) -> Part:
    stamp = _stamp(path)
    types = _parquet_types(connection, path)
    chosen = ", ".join(map(quoted, wanted))
    rows = f"SELECT {chosen}, file_row_number AS {NUMBER} FROM {parquet([path])}"
    wanted_types = {name: types[name] for name in wanted}
    if "file_row_number" in map(str.lower, types):  # a column of the data hides DuckDB's own
        rows = f"SELECT {chosen}, NULL::BIGINT AS {NUMBER} FROM {parquet([path])}"
        return Part(origin, rows, wanted_types)
    (count,) = connection.execute(
        f"SELECT num_rows FROM parquet_file_metadata({file(path)})"
    ).fetchone()
    return Part(origin, rows, wanted_types, file=path, count=count, stamp=stamp)


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells a file from another, or from itself after a change."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _text(cell: object) -> str | None:
    """A cell of a database as text that loses nothing."""
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, float):
        return repr(cell)
    if isinstance(cell, datetime | date):
        return cell.isoformat()
    if isinstance(cell, bytes):
        return cell.decode("utf-8", errors="replace")
    return str(cell)
