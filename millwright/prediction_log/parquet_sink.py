"""The prediction log as parquet files, for an environment without servers.

    predictions/answers/    the files of predictions, see `parquet_files`
    predictions/outcomes/   those of outcomes
    predictions/losses/     those of losses
    predictions/layouts/    <number>.json: the names of columns and views

A segment's file has the segment's name, so one that comes again is written again and not twice.
"""

import json
import time
from collections.abc import Collection
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from millwright.files import file_written_whole
from millwright.prediction_log import journal
from millwright.prediction_log.content import LOSSES, OUTCOMES, PREDICTIONS, Content
from millwright.prediction_log.parquet_files import ParquetFiles, readable
from millwright.prediction_log.records import Layout


class ParquetSink:
    """Takes segments to the files in `folder`; `journals` is where segments come from.

    A file goes when all of its predictions were asked longer than `keep` ago; without it none does.
    """

    def __init__(self, folder: Path, journals: Path, keep: timedelta | None = None) -> None:
        self.journals = journals
        self.keep = keep
        self.answers, self.outcomes, self.losses = kinds(folder)
        self.layouts = folder / "layouts"

    def take(self, segment: str, content: Content) -> None:
        """Keep the rows of a segment."""
        for number, layout in content.layouts.items():
            path = self.layouts / f"{number}.json"
            if not path.is_file():
                with file_written_whole(path) as draft:
                    draft.write_text(json.dumps(asdict(layout)) + "\n", encoding="utf-8")
        self.losses.put(segment, content.losses)
        self.outcomes.put(segment, content.outcomes)
        self.answers.put(segment, content.predictions)

    def forget(self, segment: str) -> None:
        """Nothing is kept of it."""

    def tidy(self) -> None:
        """Make few files of many, and delete what is too old."""
        for files in (self.answers, self.outcomes, self.losses):
            files.tidy(self._waiting)
        if self.keep:
            now = time.time_ns() // 1000
            self.answers.delete(until=now - self.keep // timedelta(microseconds=1))

    def close(self) -> None:
        """Nothing is open."""

    def _waiting(self) -> Collection[str]:
        return {path.name for path in journal.waiting(self.journals)}


def kinds(folder: Path) -> tuple[ParquetFiles, ParquetFiles, ParquetFiles]:
    """The files of predictions, of outcomes and of losses."""
    return (
        ParquetFiles(folder / "answers", "asked_at", PREDICTIONS),
        ParquetFiles(folder / "outcomes", "reported_at", OUTCOMES),
        ParquetFiles(folder / "losses", "at", LOSSES),
    )


def layouts(folder: Path) -> dict[int, Layout]:
    """Every layout that predictions were logged in.

    Raises:
        MillwrightError: a file of one is damaged.
    """
    found = {}
    for path in (folder / "layouts").glob("*.json"):
        with readable(path):
            names = json.loads(path.read_text(encoding="utf-8"))
            found[int(path.stem)] = Layout(tuple(names["columns"]), tuple(names["views"]))
    return found
