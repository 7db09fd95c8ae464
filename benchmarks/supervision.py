"""A contender's process, watched: its memory, that of its servers, and its limits.

Memory is resident memory of the process, of what it has started and of the servers, samples of
their sum, memory that they share counted once. What a lone process had at its highest between two
samples is known from the kernel.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.benchmark import Size
from benchmarks.child import Order
from millwright.settings import REPOSITORY

PAUSE = 0.05  # seconds between two samples
MAKING = 1800.0  # seconds that making data may take, and so may what is outside of the clock
TOTAL_MB = psutil.virtual_memory().total / 1e6


@dataclass(frozen=True)
class Ending:
    """How a process ended, what its work took, and the most memory that it had meanwhile."""

    ended: str
    seconds: float | None = None
    peak_memory_mb: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)


def run(order: Order, size: Size, servers: Sequence[int], log: Path) -> Ending:
    """Have a process do `order` and watch it; `servers` are the ids of the servers' processes."""
    reading, writing = os.pipe()
    with log.open("wb") as said, os.fdopen(reading, "rb", buffering=0) as events:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", json.dumps(asdict(order)), str(writing)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            cwd=order.scratch,
            env=_environment(order),
            pass_fds=[writing],
            start_new_session=True,
        )
        os.close(writing)
        try:
            return _Watch(process, size, servers, order).until_end(events.fileno(), log)
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End `process` and everything that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


class _Watch:
    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        size: Size,
        servers: Sequence[int],
        order: Order,
    ) -> None:
        self.process = process
        self.size = size
        self.servers = servers
        self.scratch = Path(order.scratch)
        self.most_mb = min(size.memory_gb * 1000, 0.85 * TOTAL_MB)
        self.born = time.monotonic()
        self.begun: float | None = None
        self.done: dict[str, Any] | None = None
        self.peak_mb = 0.0
        self.disk_looked = 0.0

    def until_end(self, events: int, log: Path) -> Ending:
        """Watch until the process has ended, or has to be ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(events, selectors.EVENT_READ)
            rest = b""
            while True:
                # The pipe is closed when the process ends.
                if selector.select(PAUSE):
                    read = os.read(events, 65536)
                    if not read:
                        break
                    *lines, rest = (rest + read).split(b"\n")
                    for line in lines:
                        self._hear(json.loads(line))
                beyond = self._beyond()
                if beyond:
                    return Ending(beyond)
        code = self.process.wait()
        if code or (self.done is None and self.begun is not None):
            return Ending(_last_words(code, log))
        if self.done is None:
            return Ending("ok")
        peak = max(self.peak_mb, self.done["peak_mb"])
        return Ending("ok", self.done["seconds"], peak, self.done["details"])

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "begun":
            self.begun = event["at"]
        else:
            self.done = event

    def _beyond(self) -> str | None:
        """Which limit the process is beyond, if it is. With its work done, it has time alone."""
        now = time.monotonic()
        since = now - (self.begun or self.born)
        if self.done is not None:
            late = since > self.size.seconds + MAKING
            return "ended: its result was not to be had" if late else None
        used = memory_mb([self.process.pid, *self.servers])
        if self.begun is not None and self.begun <= now:
            self.peak_mb = max(self.peak_mb, used)
        if used > self.most_mb:
            return f"ended: memory, over {self.most_mb / 1000:.3g} GB after {since:.0f} s"
        limit = MAKING if self.begun is None else self.size.seconds
        if since > limit:
            return f"ended: stopped after {limit:g} s"
        if now - self.disk_looked > 1:
            self.disk_looked = now
            if _disk_gb(self.scratch) > self.size.disk_gb:
                return f"ended: disk, over {self.size.disk_gb:g} GB after {since:.0f} s"
        return None


def memory_mb(roots: Sequence[int]) -> float:
    """The resident memory of processes and all that they have started."""
    own, shared = 0, 0
    for pid in _family(roots):
        with contextlib.suppress(OSError):
            fields = dict(
                line.split(":", 1)
                for line in Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines()
            )
            if "RssAnon" in fields:
                own += _kb(fields["RssAnon"]) + _kb(fields["RssFile"])
                shared = max(shared, _kb(fields["RssShmem"]))
    return (own + shared) * 1024 / 1e6


def _family(roots: Sequence[int]) -> Iterator[int]:
    """The processes `roots` and their descendants, without looking at any other process."""
    for root in roots:
        yield root
        for task in _listed(Path(f"/proc/{root}/task")):
            with contextlib.suppress(OSError):
                children = (task / "children").read_text("ascii").split()
                yield from _family([int(pid) for pid in children])


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _kb(text: str) -> int:
    return int(text.split()[0])


def _disk_gb(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512
    return total / 1e9


def _last_words(code: int, log: Path) -> str:
    """What a process that died has said last, in one line."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    said = next((line for line in reversed(lines) if line), "without a word")
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"died {how}: {said[:200]}"


def _environment(order: Order) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)]),
        "TMPDIR": order.scratch,
        "FEAST_USAGE": "False",
    }
