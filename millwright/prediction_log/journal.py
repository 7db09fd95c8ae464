"""A write-ahead journal: bytes that a process handed over are there though it be killed.

    <time>-<process>-<random>      a segment; locked for as long as a living process minds it
    <segment>.refused              one that the sink would not take for what is in it
    <segment>.damaged              one that could not be read to its end

Writing is one `write` and no `fsync`: what the operating system was given survives a SIGKILL of the
process, not a power cut. A segment that nobody has locked is of a process that has ended, and
whoever finds it takes it over. Names are never used twice.
"""

import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from millwright.errors import InputError
from millwright.files import synchronise
from millwright.prediction_log import packing
from millwright.prediction_log.packing import Record

REFUSED, DAMAGED = ".refused", ".damaged"
_DRAFT = ".draft"
_NAME = re.compile(r"\d+-\d+-[0-9a-f]+")


class Segment:
    """One file of the journal, minded by this process until it is closed or removed."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.size = os.fstat(descriptor).st_size
        self.counted = 0
        self.torn = False
        self._descriptor = descriptor
        self._layouts: set[int] = set()

    @classmethod
    def create(cls, folder: Path) -> "Segment":
        """A new segment, which nobody sees before it is locked."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns() // 1000:016d}-{os.getpid()}-{secrets.token_hex(4)}"
        draft = folder / f".{name}{_DRAFT}"
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(folder / name)
            return cls(folder / name, descriptor)
        except OSError:
            os.close(descriptor)
            draft.unlink(missing_ok=True)
            raise

    @classmethod
    def adopt(cls, path: Path) -> "Segment | None":
        """The segment at `path`, if nobody minds it."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever minded it may have removed it between the two lines above.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                found = cls(path, descriptor)
                found.counted = packing.count(found.read())
                return found
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    @property
    def name(self) -> str:
        """What the segment is known by, here and in the sink."""
        return self.path.name

    def write(self, record: Record) -> None:
        """Append a record by one `write`.

        Raises:
            OSError: it could not be written. The segment is as it was, or `torn` and at its end.
        """
        new = record.layout is not None and record.layout not in self._layouts
        data = record.preface + record.frame if new else record.frame
        try:
            self._write(data)
        except OSError:
            self.torn = True
            os.ftruncate(self._descriptor, self.size)
            self.torn = False
            raise
        self.size += len(data)
        self.counted += record.counted
        if record.layout is not None:
            self._layouts.add(record.layout)

    def _write(self, data: bytes) -> None:
        if os.write(self._descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, "the disk took a part of it")

    def read(self) -> bytes:
        """All bytes of it."""
        parts, position = [], 0
        while part := os.pread(self._descriptor, 1 << 24, position):
            parts.append(part)
            position += len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Let go of it; the file stays, for whoever finds it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Delete it, for good even after a power cut, if nobody has done so."""
        with suppress(FileNotFoundError):
            self.path.unlink()
            synchronise(self.path.parent)
        self.close()

    def set_aside(self, ending: str) -> Path | None:
        """Keep the file under a name by which nobody takes it over; None if somebody deleted it."""
        kept: Path | None = self.path.with_name(self.name + ending)
        try:
            self.path.rename(self.path.with_name(self.name + ending))
        except FileNotFoundError:
            kept = None
        self.close()
        return kept


class Journal:
    """The segments that a process writes and minds, in a folder that it shares with others.

    One thread at a time may change it; `look_around` alone may go on beside another.
    """

    def __init__(self, folder: Path, most_bytes: int, segment_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self.segment_bytes = segment_bytes
        self.current: Segment | None = None
        self.finished: list[Segment] = []
        self.fault: str | None = None  # of what others have left
        self._others = 0

    @property
    def size(self) -> int:
        """Bytes on disk: those of this process, and those that others had when it looked last."""
        return self._others + sum(segment.size for segment in self.minded())

    @property
    def counted(self) -> int:
        """How many answers and outcomes are in segments that this process minds."""
        return sum(segment.counted for segment in self.minded())

    def minded(self) -> list[Segment]:
        """The segments of this process, the oldest first."""
        return [*self.finished, *([self.current] if self.current else [])]

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
            OSError: the disk is full or cannot be written, or the journal has all that it may.
        """
        if self.size + len(record.preface) + len(record.frame) > self.most_bytes:
            raise OSError(errno.ENOSPC, f"the journal has its {self.most_bytes:,} bytes")
        if self.current is None:
            self.current = Segment.create(self.folder)
        try:
            self.current.write(record)
        finally:
            if self.current.torn or self.current.size >= self.segment_bytes:
                self.finish()

    def finish(self) -> None:
        """End the segment that is written, so that it can be taken to the sink."""
        if self.current:
            self.finished.append(self.current)
            self.current = None

    def look_around(self) -> list[Segment]:
        """Take hold of what processes left that have ended, and measure what others mind."""
        mine = {segment.name for segment in self.minded()}
        adopted, others, fault = [], 0, None
        for path in sorted(waiting(self.folder)):
            if path.name in mine:
                continue
            try:
                segment = Segment.adopt(path)
            except OSError as err:
                segment, fault = None, f"{path} cannot be taken over: {err.strerror}"
            if segment:
                adopted.append(segment)
                continue
            with suppress(FileNotFoundError):
                others += path.stat().st_size
        self._others, self.fault = others, fault
        self._remove_drafts()
        return adopted

    def _remove_drafts(self) -> None:
        """Remove segments whose maker was killed before they had a name: nothing is in them."""
        for path in self.folder.glob(f".*{_DRAFT}"):
            if draft := Segment.adopt(path):
                path.unlink(missing_ok=True)
                draft.close()

    def close(self) -> None:
        """Let go of all segments, for another process to take them over."""
        self.finish()
        for segment in self.finished:
            segment.close()


def waiting(folder: Path) -> Iterator[Path]:
    """The segments in a folder that no sink has taken yet, in no order."""
    try:
        found = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with found:
        for entry in found:
            if _NAME.fullmatch(entry.name) and entry.is_file():
                yield folder / entry.name


def held(folder: Path) -> tuple[int, int]:
    """How many answers and outcomes wait in a folder, of whichever process, and their bytes.

    Raises:
        InputError: a file may not be read.
    """
    counted = size = 0
    for path in waiting(folder):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # it has just been taken
            continue
        except OSError as err:
            raise InputError(
                f"{path} cannot be read: {err.strerror}; ask as the user whose service wrote it"
            ) from err
        counted += packing.count(data)
        size += len(data)
    return counted, size


def aside(folder: Path) -> list[Path]:
    """The files that were put aside for somebody to look at."""
    return sorted(path for end in (REFUSED, DAMAGED) for path in folder.glob(f"*{end}"))
