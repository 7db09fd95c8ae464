"""Files of rows in one folder, whose names say what they hold, merged as they grow many.

    <first>-<last>-<level>-<segment>.parquet

`first` and `last` are the least and greatest time of the rows, in microseconds since 1970 UTC. The
rows of a segment are a file of level 0. Files of one level become one of the next, until they are
large; so there are few, and each row is written a few times and not more.

A merged file comes to be as `.merged`, with the names of its sources in it, the one step that
counts; then the sources are deleted and the ending goes. Killed in between, readers leave out the
sources, and the next one to tidy up goes on. Readers keep files from being switched meanwhile.
"""

import errno
import fcntl
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from millwright.errors import MillwrightError, first_line
from millwright.files import file_written_whole, synchronise

FAN_IN = 60  # files of one level that become one of the next
LARGE = 64 << 20  # bytes; a file of this size is not merged any more
MOST = 4 * LARGE  # bytes of files that become one
_NOW = fcntl.LOCK_EX | fcntl.LOCK_NB
_WHOLE, _MERGED = ".parquet", ".merged"
_NAME = re.compile(r"(\d+)-(\d+)-(\d+)-(.+)")
_SOURCES = b"millwright.sources"


@dataclass(frozen=True)
class File:
    """One file, as its name tells."""

    path: Path
    first: int
    last: int
    level: int
    segment: str

    @classmethod
    def named(cls, folder: Path, ending: str) -> "list[File]":
        """Those of an ending in a folder, in order; what is named otherwise is none of ours."""
        found = [(path, _NAME.fullmatch(path.stem)) for path in sorted(folder.glob(f"*{ending}"))]
        return [
            cls(path, int(name[1]), int(name[2]), int(name[3]), name[4])
            for path, name in found if name
        ]  # fmt: skip


class ParquetFiles:
    """The files of one kind of rows, in order of the time in a column of theirs."""

    def __init__(self, folder: Path, time: str, schema: pa.Schema) -> None:
        self.folder = folder
        self.time = time
        self.schema = schema

    def put(self, segment: str, rows: pa.Table) -> None:
        """Keep the rows of a segment. Those that are there already are the same."""
        if len(rows):
            with file_written_whole(self._path(rows, 0, segment)) as draft:
                _write(draft, [rows], self.schema)

    @contextmanager
    def reading(self) -> Iterator[list[File]]:
        """The files that hold every row once, and stay there for the block; by time, newest last.

        A folder that is not there has none.

        Raises:
            MillwrightError: they cannot be kept there, or it cannot be told which ones count.
        """
        if not self.folder.is_dir():
            yield []
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(_lock(self.folder / ".reading.lock", fcntl.LOCK_SH))
            except OSError as err:
                if err.errno != errno.EROFS:  # where nobody can write nothing is switched
                    raise MillwrightError(
                        f"{self.folder} cannot be read: to lock it failed, {err.strerror}; ask as "
                        "a user who may write there"
                    ) from err
            merged = File.named(self.folder, _MERGED)
            sources = {name for file in merged for name in _sources(file.path)}
            whole = File.named(self.folder, _WHOLE)
            files = [*merged, *(file for file in whole if file.path.name not in sources)]
            yield sorted(files, key=lambda file: (file.last, file.segment))

    def tidy(self, waiting: Callable[[], Collection[str]]) -> None:
        """Merge files where there are many; nothing where another process does, or somebody reads.

        `waiting` tells the segments that may come a second time. Those stay apart, for what was
        merged would not be recognised; it is asked after the files were listed, so that a segment
        that it does not know has gone for good.
        """
        if not self.folder.is_dir():
            return
        with suppress(BlockingIOError), _lock(self.folder / ".merging.lock", _NOW):
            self._mend()
            listed = File.named(self.folder, _WHOLE)
            if len(listed) >= FAN_IN:
                unsettled = waiting()
                files = _together([each for each in listed if each.segment not in unsettled])
                if files:
                    self._merge(files)

    def delete(self, until: int) -> None:
        """Delete the files all of whose rows are of before; none where somebody reads or merges.

        `until` is in microseconds since 1970 UTC.
        """
        if not self.folder.is_dir():
            return
        with suppress(BlockingIOError), _lock(self.folder / ".merging.lock", _NOW):
            self._mend()
            old = [file for file in File.named(self.folder, _WHOLE) if file.last < until]
            if old:
                with _lock(self.folder / ".reading.lock", _NOW):
                    for file in old:
                        file.path.unlink(missing_ok=True)

    def _merge(self, files: Sequence[File]) -> None:
        """Make one file of some."""
        level, segment = files[0].level + 1, max(file.segment for file in files)
        first, last = min(file.first for file in files), max(file.last for file in files)
        target = self.folder / f"{_stem(first, last, level, segment)}{_MERGED}"
        sources = [file.path.name for file in files]
        schema = self.schema.with_metadata({_SOURCES: json.dumps(sources).encode()})
        draft = self.folder / f".{target.name}.draft"
        _write(draft, (self._rows(file.path) for file in files), schema)
        synchronise(draft)
        with _lock(self.folder / ".reading.lock", _NOW):
            draft.replace(target)
            synchronise(self.folder)
            _switch(target)

    def _mend(self) -> None:
        """Finish what a killed process began to merge."""
        for draft in self.folder.glob(f".*{_MERGED}.draft"):
            draft.unlink(missing_ok=True)
        merged = list(self.folder.glob(f"*{_MERGED}"))
        if merged:
            with _lock(self.folder / ".reading.lock", _NOW):
                for path in merged:
                    _switch(path)

    def _rows(self, path: Path) -> pa.Table:
        with readable(path):
            return pq.read_table(path, schema=self.schema)

    def _path(self, rows: pa.Table, level: int, segment: str) -> Path:
        times = rows[self.time].to_numpy().astype("datetime64[us]").astype(int)
        return self.folder / f"{_stem(times.min(), times.max(), level, segment)}{_WHOLE}"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Name the file that cannot be read in the block, and the way out.

    Raises:
        MillwrightError: it is damaged, or may not be read.
    """
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as err:
        raise MillwrightError(
            f"{path} cannot be read: {first_line(err)}; put a copy of it in its place, or move it "
            "away: what it holds of the prediction log is missing then"
        ) from err


@contextmanager
def _lock(path: Path, kind: int) -> Iterator[None]:
    """Hold a lock of the operating system, which goes when its holder ends.

    Raises:
        BlockingIOError: somebody else has it, and `kind` says not to wait.
    """
    access = os.O_RDONLY if kind == fcntl.LOCK_SH else os.O_RDWR
    descriptor = os.open(path, os.O_CREAT | access | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def _together(files: Sequence[File]) -> list[File]:
    """Some files that should become one, if there are enough."""
    levels: dict[int, list[File]] = {}
    for file in files:
        if file.path.stat().st_size < LARGE:
            levels.setdefault(file.level, []).append(file)
    for same in levels.values():
        if len(same) >= FAN_IN:
            sizes = accumulate(file.path.stat().st_size for file in same[:FAN_IN])
            return [file for file, size in zip(same, sizes, strict=False) if size <= MOST]
    return []


def _switch(merged: Path) -> None:
    """Delete the sources of a merged file and give it the name of one that has none."""
    for name in _sources(merged):
        (merged.parent / name).unlink(missing_ok=True)
    synchronise(merged.parent)
    merged.rename(merged.with_suffix(_WHOLE))


def _sources(merged: Path) -> list[str]:
    with readable(merged):
        found: list[str] = json.loads(pq.read_schema(merged).metadata[_SOURCES])
        return found


def _stem(first: int, last: int, level: int, segment: str) -> str:
    return f"{first:016d}-{last:016d}-{level}-{segment}"


def _write(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
