"""A trial: our service alone, what is done to it, and figures of each thing that was.

A benchmark compares contenders; a trial has none, and so figures, claims and a plot of its own. It
runs in the process of the command; what it has started ends with it, and where that was killed what
is left ends with the next run in the same folder.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.presentation import HOLDS, machine
from millwright.lock import held
from millwright.terminal import say, show_table

Figures = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Said:
    """A claim: what is said of the figures, and whether it holds."""

    text: str
    holds: Callable[[Figures], bool]


@dataclass(frozen=True)
class Extent:
    """How much of it: options for the trial, and the claims that are held against that much."""

    options: Mapping[str, Any]
    claims: Sequence[Said]


@dataclass(frozen=True)
class Trial:
    """What is tried.

    `run` is given the options and an own folder, and yields figures by the name of what was done.
    `columns` are those of the table: a heading, and how a figure is written there. `draw` makes the
    plots of all figures in a folder and gives their paths.
    """

    name: str
    title: str
    run: Callable[[Mapping[str, Any], Path], Iterator[tuple[str, Mapping[str, Any]]]]
    sizes: Mapping[str, Extent]
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]]
    draw: Callable[[Figures, str, Path], list[Path]]


@dataclass(frozen=True)
class Tried:
    """The figures of a trial, and whether its claims hold."""

    trial: Trial
    size: str
    figures: Figures
    claims: Mapping[str, bool] = field(default_factory=dict)

    def show(self) -> None:
        """The figures as a table on stdout."""
        headings = list(self.trial.columns)
        cells = {
            name: [write(figure) for write in self.trial.columns.values()]
            for name, figure in self.figures.items()
        }
        widths = [max(map(len, column)) for column in zip(headings, *cells.values(), strict=True)]
        rows = {
            name: "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
            for name, line in {"": headings, **cells}.items()
        }
        for number, (text, holds) in enumerate(self.claims.items(), 1):
            rows[f"claim {number}"] = f"{text}: {HOLDS[holds]}"
        show_table(f"{self.trial.name}, {self.size}: {self.trial.title}", rows)

    def plot(self, folder: Path) -> list[Path]:
        """The figures as plots in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        return self.trial.draw(self.figures, f"{self.trial.name}-{self.size}", folder)

    def records(self) -> list[dict[str, Any]]:
        """One record for each thing that was done, with the machine that its figures are of."""
        here = machine()
        return [
            {
                "benchmark": self.trial.name, "size": self.size, "contender": name,
                "seconds": figure["seconds"], "peak_memory_mb": None, "equal": None, "ended": "ok",
                "ratio": None, "details": dict(figure), "machine": here,
            }
            for name, figure in self.figures.items()
        ]  # fmt: skip


def run(trial: Trial, size: str, work: Path) -> Tried:
    """Run a trial in the folder `work`, which one run at a time may have.

    Raises:
        MillwrightError: a server does not start.
        RuntimeError: something that was waited for did not come.
    """
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    extent, figures = trial.sizes[size], {}
    with held(work / "harness.lock", say), _ended_in_order():
        since = time.monotonic()
        for name, figure in trial.run(extent.options, work / trial.name):
            figures[name] = {"seconds": time.monotonic() - since, **figure}
            say(f"{trial.name} {size}: {name} after {time.monotonic() - since:.1f} s")
            since = time.monotonic()
    claims = {claim.text: claim.holds(figures) for claim in extent.claims}
    return Tried(trial, size, figures, claims)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Have SIGTERM end what was started, too, as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
