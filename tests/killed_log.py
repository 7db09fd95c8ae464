"""A process that logs answers and is killed at a given place: `killed_log.py FOLDER PLACE [URL]`.

It prints the number of each batch when it is told that it is logged, as a service would answer.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scored import scored

from millwright import files
from millwright.prediction_log import parquet_files
from millwright.prediction_log.journal import Segment
from millwright.prediction_log.log import PredictionLog
from millwright.prediction_log.parquet_sink import ParquetSink

FLEET = "plant"
LAST = 2  # the batch that is logged, or not, when the process ends


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def replaced(owner: Any, name: str, *steps: Callable[..., Any]) -> Callable[[], None]:
    """Have a function of `owner` be so many others, one after the other."""

    def replace() -> None:
        original = getattr(owner, name)
        setattr(owner, name, lambda *values: [step(original, *values) for step in steps])

    return replace


def done(original: Callable[..., Any], *values: Any) -> Any:
    return original(*values)


def half_written(write: Callable[[int, bytes], int], descriptor: int, data: bytes) -> None:
    write(descriptor, data[: len(data) // 2])


def scribbled(_: Any, path: Path, *__: Any) -> None:
    path.write_bytes(b"PAR1")


def one_deleted(_: Any, merged: Path) -> None:
    (merged.parent / parquet_files._sources(merged)[0]).unlink()


HALF = "an answer half written"
COMMITTED = "rows committed, the segment not deleted"
# Where the process ends: in the journal, while a segment becomes a file, while files become one.
PLACES: dict[str, Callable[[], None]] = {
    HALF: replaced(os, "write", half_written, die),
    "rows half written": replaced(parquet_files, "_write", scribbled, die),
    "rows written, not in place": replaced(files, "synchronise", die),
    COMMITTED: replaced(Segment, "remove", die),
    "the segment deleted": replaced(ParquetSink, "forget", die),
    "files merged, not in place": replaced(parquet_files, "synchronise", die),
    "merged, beside all sources": replaced(parquet_files, "_switch", die),
    "merged, beside some sources": replaced(parquet_files, "_switch", one_deleted, die),
    "merged, without sources": replaced(Path, "rename", die),
}


def log_in(folder: Path, url: str | None = None) -> PredictionLog:
    """A log over parquet files, three of which become one, or over PostgreSQL."""
    parquet_files.FAN_IN = 3
    if url is None:
        return PredictionLog(folder, ParquetSink(folder.parent / "predictions", folder))
    from millwright.prediction_log.postgres_sink import PostgresSink

    return PredictionLog(folder, PostgresSink(lambda: url, FLEET))


def main(folder: Path, place: str, url: str | None) -> None:
    log = log_in(folder, url)
    for number in range(LAST + 1):
        if (number, place) == (LAST, HALF):
            PLACES[place]()
        log.append(scored(number))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        if number == LAST:
            PLACES[place]()
        assert log._drain.work(), log.status().fault


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [*sys.argv, None][3])
