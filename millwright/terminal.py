"""What a person sees: what goes on and what failed on stderr, the result on stdout."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from millwright.errors import ConfigurationError
from millwright.files import file_written_whole
from millwright.stores.progress import reporting

# Without emoji, which would stand for the line in `gate.yaml:100: unknown key`.
ERRORS = Console(stderr=True, highlight=False, emoji=False)

QUIET = 30.0  # seconds after which a log, which shows no bar, is told how far the work is


def say(text: str) -> None:
    """One line about what goes on."""
    ERRORS.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """One line about something that the reader should look into."""
    ERRORS.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)


def fail(text: str) -> None:
    """Why the command ends here."""
    ERRORS.show_cursor()  # a progress bar hides it
    ERRORS.print(f"error: {text}", style="bold red", markup=False, soft_wrap=True)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows how much of a named piece of work is done.

    On a terminal it is a bar that is gone afterwards; elsewhere each piece is one line at its end,
    and what is under way is one when nothing was told for `QUIET` seconds. What the stores report
    meanwhile is shown among it, with a rate: they count rows.
    """
    bars = Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=ERRORS,
        transient=True,
        disable=not ERRORS.is_terminal,
    )
    tasks: dict[str, Any] = {}
    told = monotonic()

    def show(name: str, done: int, total: int) -> None:
        nonlocal told
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total, rate="")
        bars.update(tasks[name], completed=done, total=total)
        if bars.disable and (done == total or monotonic() - told > QUIET):
            say(f"  {name}: {done} of {total}")
            told = monotonic()

    def show_rows(name: str, done: int, total: int) -> None:
        show(name, done, total)
        speed = next((task.speed for task in bars.tasks if task.id == tasks[name]), None)
        bars.update(tasks[name], rate=f"{speed:,.0f} rows/s" if speed else "")

    with bars, reporting(show_rows):
        yield show


def show_table(title: str, rows: Mapping[str, str]) -> None:
    """Two columns on stdout: what, and what became of it. Whoever pipes it gets whole lines."""
    if not sys.stdout.isatty():
        width = max(map(len, rows)) + 2
        sys.stdout.write(f"{title}\n")
        for name, value in rows.items():
            indented = value.replace("\n", "\n" + " " * width)
            sys.stdout.write(f"{name:{width}}{indented}\n")
        return
    table = Table(
        title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    console.print(table)


def write_json(path: Path, summary: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write a run's summary for machines, whole or not at all.

    Raises:
        ConfigurationError: there is no writing to `path`.
    """
    text = json.dumps(summary, indent=1, default=str) + "\n"
    try:
        if path.exists() and not path.is_file():  # a pipe or a device is written to, not replaced
            path.write_text(text, encoding="utf-8")
            return
        with file_written_whole(path.resolve()) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as err:
        raise ConfigurationError(
            f"cannot write the summary to {path}: {err.strerror}; name another file with --json"
        ) from err
