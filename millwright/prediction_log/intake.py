"""Records on their way to the sink: in the journal, or in memory while that cannot be written."""

import secrets
import threading
import time
from collections import deque
from pathlib import Path

from millwright.prediction_log.journal import Journal, Segment
from millwright.prediction_log.packing import Record, pack_loss
from millwright.prediction_log.records import Loss


class Parcel:
    """Records that the journal has not taken, bound for the sink as if they were a segment."""

    def __init__(self, records: list[Record]) -> None:
        self.name = f"{time.time_ns() // 1000:016d}-memory-{secrets.token_hex(4)}"
        self.counted = sum(record.counted for record in records)
        self._data = b"".join(record.preface + record.frame for record in records)
        self.size = len(self._data)

    def read(self) -> bytes:
        """All bytes of it."""
        return self._data

    def remove(self) -> None:
        """Nothing is on disk."""

    def set_aside(self, _: str) -> Path | None:
        """Nothing is on disk that could be kept."""
        return None


class Intake:
    """What was handed over and is not in the sink yet, counted. Safe for several threads."""

    def __init__(self, journal: Journal, memory_bytes: int) -> None:
        self.journal = journal
        self.memory_bytes = memory_bytes
        self.appended = self.written = self.lost = 0
        self.fault: str | None = None
        self._lock = threading.Lock()
        self._held: deque[Record] = deque()
        self._held_bytes = 0
        self._parcel: Parcel | None = None
        self._told = 0  # of what was lost
        self._reason = ""

    def put(self, record: Record) -> None:
        """Write a record to the journal; hold it in memory where that is refused."""
        with self._lock:
            self.appended += record.counted
            try:
                self.journal.write(record)
            except OSError as err:
                self.fault = f"{self.journal.folder} cannot be written: {err.strerror}"
                self._hold(record)
            else:
                if not self._held:
                    self.fault = None

    def lose(self, records: int, reason: str) -> None:
        """Count what was handed over and cannot be logged."""
        with self._lock:
            self.appended += records
            self._lose(records, reason)

    def write_held(self) -> None:
        """Write what is in memory to the journal now; if it still cannot be, it is for the sink."""
        while self._held and not self._parcel:
            with self._lock:
                record = self._held[0]
                try:
                    self.journal.write(record)
                except OSError:
                    self._parcel = Parcel(list(self._held))
                    self._held.clear()
                    self._held_bytes = 0
                    return
                self._held.popleft()
                self._held_bytes -= _size(record)
        if not self._held and not self._parcel:
            self.fault = None

    def tell_losses(self) -> None:
        """Have the log itself say what is missing in it."""
        with self._lock:
            if self.lost == self._told:
                return
            at = time.time_ns() // 1000
            try:
                self.journal.write(pack_loss(Loss(at, self.lost - self._told, self._reason)))
            except OSError:
                return  # told as soon as there is a place for it
            self._told = self.lost

    def finish(self) -> None:
        """End the segment that is written."""
        with self._lock:
            self.journal.finish()

    def adopt(self) -> None:
        """Take over what processes left that have ended."""
        found = self.journal.look_around()
        with self._lock:
            self.journal.finished[:0] = found

    def ready(self) -> list[Segment | Parcel]:
        """What can be taken to the sink, the oldest first."""
        with self._lock:
            return [*([self._parcel] if self._parcel else []), *self.journal.finished]

    def taken(self, segment: Segment | Parcel) -> None:
        """Count what is in the sink now."""
        with self._lock:
            self.written += segment.counted
            self._forget(segment)

    def refused(self, segment: Segment | Parcel, reason: str) -> None:
        """Count what the sink will never take."""
        with self._lock:
            self._lose(segment.counted, reason)
            self._forget(segment)

    def waiting(self) -> tuple[int, int]:
        """How many answers and outcomes are not in the sink yet, and the bytes of them."""
        with self._lock:
            count, size = self.journal.counted, self.journal.size
            count += sum(record.counted for record in self._held)
            size += self._held_bytes
            if self._parcel:
                count, size = count + self._parcel.counted, size + self._parcel.size
            return count, size

    def close(self) -> None:
        """Let go of the journal."""
        with self._lock:
            self.journal.close()

    def _hold(self, record: Record) -> None:
        held = self._held_bytes + (self._parcel.size if self._parcel else 0)
        if held + _size(record) > self.memory_bytes:
            self._lose(record.counted, f"{self.fault}, and memory for {held:,} bytes is used")
            return
        self._held.append(record)
        self._held_bytes += _size(record)

    def _lose(self, records: int, reason: str) -> None:
        self.lost += records
        self._reason = reason

    def _forget(self, segment: Segment | Parcel) -> None:
        if isinstance(segment, Segment):
            self.journal.finished.remove(segment)
        else:
            self._parcel = None


def _size(record: Record) -> int:
    return len(record.preface) + len(record.frame)
