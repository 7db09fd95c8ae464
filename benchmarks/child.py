"""`python -m benchmarks.child`: one contender, or the making of the data, in a process of its own.

It tells the harness what it does by lines of JSON in a pipe, and everything else goes to its log.
It ends with the harness, however that ends: then the other end of its standard input is closed.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from benchmarks.benchmark import Benchmark, Case, Measured
from millwright import startup


@dataclass(frozen=True)
class Order:
    """What a process is to do. Without a contender it makes the data."""

    module: str
    benchmark: str
    contender: str | None
    as_shipped: bool
    options: Mapping[str, Any]
    data: str
    scratch: str
    servers: Mapping[str, str]
    pids: Sequence[int]
    results: str | None

    @property
    def case(self) -> Case:
        """The same for the contender."""
        return Case(self.options, Path(self.data), Path(self.scratch), self.servers, self.pids)


def main() -> None:
    """Do the order that stands in the arguments."""
    order, pipe = Order(**json.loads(sys.argv[1])), int(sys.argv[2])
    os.set_inheritable(pipe, False)  # noqa: FBT003
    _end_with_harness()
    if not order.as_shipped:
        startup.import_quickly()
        startup.leave_feast_unchecked()
    benchmark = find(order.module, order.benchmark)
    with os.fdopen(pipe, "w", buffering=1) as events:
        if order.contender is None:
            benchmark.make(order.case)
        else:
            _contend(order, benchmark, events)


def find(module: str, name: str) -> Benchmark:
    """The benchmark of that name in a module."""
    benchmarks: list[Benchmark] = importlib.import_module(module).BENCHMARKS
    return next(each for each in benchmarks if each.name == name)


def _contend(order: Order, benchmark: Benchmark, events: TextIO) -> None:
    contender = next(each for each in benchmark.contenders if each.name == order.contender)
    work = contender.begin(order.case)
    _forget_peak()
    _tell(events, "begun", at=time.monotonic())
    before = time.perf_counter()
    result = work()
    seconds, details = time.perf_counter() - before, {}
    if isinstance(result, Measured):
        seconds, details, result = result.seconds, dict(result.details), result.result
    _tell(events, "done", at=time.monotonic(), seconds=seconds, peak_mb=_peak_mb(), details=details)
    if order.results:
        if callable(result):
            result = result()
        from benchmarks import comparison

        if result is not None:
            comparison.keep(result, Path(order.results))


def _tell(events: TextIO, event: str, **more: Any) -> None:
    events.write(json.dumps({"event": event, **more}) + "\n")


def _forget_peak() -> None:
    """Begin the peak of this process's memory anew, with the clock."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def _end_with_harness() -> None:
    """Kill this process and its own when the harness is gone. They are a group of their own."""
    own = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def wait() -> None:
        os.read(own, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, name="harness", daemon=True).start()


if __name__ == "__main__":
    main()
