"""Alerts in a file, one JSON object a line, that several processes write and empty at once."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from millwright.files import file_written_whole

PATIENCE = 2.0  # seconds; nobody holds the file longer than it takes to write it
Record = dict[str, Any]


class AlertFile:
    """The file at `path`, which need not be there yet.

    Raises:
        OSError: the file cannot be read or written, or somebody holds it without end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Record) -> None:
        """Add a line, whole or not at all as far as any reader can tell."""
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with self._held(), self.path.open("ab+", buffering=0) as file:
            if file.tell() and not self._ends_whole():
                line = "\n" + line  # somebody was killed in the middle of a line
            file.write(line.encode())
            os.fsync(file.fileno())

    def records(self) -> list[Record]:
        """What is there, the oldest first. A line that is no record is passed over."""
        with self._held():
            return [record for record, _ in self._lines() if record]

    def remove(self, identity: str) -> None:
        """Take out the record with this `id`; any other line stays as it is."""
        with self._held():
            kept = [line for record, line in self._lines() if record.get("id") != identity]
            with file_written_whole(self.path) as draft:
                draft.write_bytes(b"".join(kept))

    @contextmanager
    def sending(self, patience: float) -> Iterator[None]:
        """Be the only one that sends what is in the file. Others may add to it meanwhile.

        Raises:
            TimeoutError: another process is sending for longer than `patience` seconds.
        """
        with FileLock(f"{self.path}.sending", timeout=patience):
            yield

    @contextmanager
    def _held(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock", timeout=PATIENCE):
            yield

    def _ends_whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _lines(self) -> list[tuple[Record, bytes]]:
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [(_record(line), line) for line in lines]


def _record(line: bytes) -> Record:
    """The object in `line`, empty if there is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
