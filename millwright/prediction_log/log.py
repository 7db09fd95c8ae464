"""The prediction log as a service has it: hand over, go on, and ask how it stands.

What `append` was given is in the journal when it returns, so an answer that goes out afterwards is
logged even if the process is killed in the next moment.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from millwright.errors import first_line
from millwright.prediction_log.drain import Drain
from millwright.prediction_log.intake import Intake
from millwright.prediction_log.journal import Journal
from millwright.prediction_log.packing import pack_batch, pack_outcomes
from millwright.prediction_log.records import Outcome, ScoredBatch
from millwright.prediction_log.sink import Sink

LOG = logging.getLogger(__name__)
JOURNAL_BYTES = 1 << 30
SEGMENT_BYTES = 16 << 20
MEMORY_BYTES = 16 << 20
INTERVAL = 1.0  # seconds that a record waits for the sink
LONGEST_PAUSE = 30.0  # seconds between two attempts at a sink that is away
QUIET = 60.0  # seconds between two warnings


@dataclass(frozen=True)
class LogStatus:
    """Answers and outcomes: given to this process, in the sink by it, not yet there, and lost.

    `waiting` and `written` include what it took over from processes that ended; `waiting_bytes` is
    what the journal's folder has, and memory. `fault` is what somebody should look into.
    """

    appended: int
    written: int
    waiting: int
    waiting_bytes: int
    lost: int
    fault: str | None


class PredictionLog:
    """Keeps what it is given in the journal in `folder`, and brings it to `sink` in a thread.

    Beyond `journal_bytes` on disk, or where the disk takes nothing, records stay in memory up to
    `memory_bytes`; beyond that they are lost, which is counted, warned of and logged.
    """

    def __init__(
        self,
        folder: Path,
        sink: Sink,
        *,
        journal_bytes: int = JOURNAL_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        memory_bytes: int = MEMORY_BYTES,
        interval: float = INTERVAL,
    ) -> None:
        self.sink = sink
        self.interval = interval
        self._intake = Intake(Journal(folder, journal_bytes, segment_bytes), memory_bytes)
        self._drain = Drain(self._intake, sink)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction log", daemon=True)
        self._warned = float("-inf")
        self._lost_then = 0

    def start(self) -> None:
        """Begin to bring records to the sink."""
        self._thread.start()

    def append(self, batch: ScoredBatch) -> None:
        """Log the answers of a batch, before they go out. Never raises, never waits for the sink.

        One `write` to a file, without `fsync`: it outlives the process, not a power cut.
        """
        try:
            record = pack_batch(batch)
        except Exception as err:
            self._intake.lose(len(batch.ids), f"a batch cannot be packed: {first_line(err)}")
            return
        self._intake.put(record)

    def report(self, outcomes: Sequence[Outcome]) -> None:
        """Log what became of machines."""
        if outcomes:
            self._intake.put(pack_outcomes(outcomes, time.time_ns() // 1000))

    def status(self) -> LogStatus:
        """How it stands."""
        intake = self._intake
        waiting, size = intake.waiting()
        faults = [fault for fault in (intake.fault, self._drain.fault) if fault]
        return LogStatus(
            intake.appended, intake.written, waiting, size, intake.lost, "; ".join(faults) or None
        )

    def close(self, seconds: float) -> None:
        """Bring to the sink what can be within so many seconds; the rest stays in the journal."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        if not self._thread.is_alive():
            self._intake.close()
            self.sink.close()

    def _run(self) -> None:
        pause = self.interval
        while not self._ending.wait(pause):
            taken = self._drain.work()
            pause = self.interval if taken else min(2 * pause, LONGEST_PAUSE)
            self._warn()
        self._drain.work()
        self._warn()

    def _warn(self) -> None:
        """Say what is wrong, now and then."""
        now, status = time.monotonic(), self.status()
        if now - self._warned < QUIET or not (status.fault or status.lost > self._lost_then):
            return
        LOG.warning(
            "prediction log: %s; %d records wait, %d are lost",
            status.fault or "records were lost", status.waiting, status.lost,
        )  # fmt: skip
        self._warned, self._lost_then = now, status.lost
