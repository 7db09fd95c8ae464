"""How far a store has come with work that may take long: rows done, of how many.

Whoever wants to know says so with `reporting`. Otherwise, where stderr is a terminal, a bar with
rows and rate appears by itself when the work takes more than two seconds, and is gone afterwards.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Told the name of the work, the rows that are done, and the rows in all.
Reporter = Callable[[str, int, int], None]

SECONDS = 2.0  # what takes no longer shows no bar

_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Have `reporter` told of all that the stores do meanwhile."""
    before = _reporter.get()
    _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.set(before)  # not by its token: a generator may be closed in another context


@contextmanager
def counting(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many more of `total` rows are done."""
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        report(name, done, total)

    with _heard() as report:
        report(name, 0, total)
        yield advance


@contextmanager
def _heard() -> Iterator[Reporter]:
    """Whom to tell: who asked for it, or a bar of our own."""
    reporter = _reporter.get()
    if reporter is not None:
        yield reporter
        return
    with _bar() as bar, reporting(bar):
        yield bar


@contextmanager
def _bar() -> Iterator[Reporter]:
    """A bar for each name, which waits before it appears; nothing where nobody would see it."""
    if not sys.stderr.isatty():
        yield lambda _name, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bars = Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        console=Console(stderr=True, highlight=False, emoji=False),
        transient=True,
    )
    tasks = {}

    def show(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total, rate="")
        speed = bars.tasks[tasks[name]].speed
        rate = f"{speed:,.0f} rows/s" if speed else ""
        bars.update(tasks[name], completed=done, total=total, rate=rate)

    patience = threading.Timer(SECONDS, bars.start)
    patience.daemon = True
    patience.start()
    try:
        yield show
    finally:
        patience.cancel()
        patience.join()
        bars.stop()
