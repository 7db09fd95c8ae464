"""What a maintenance planner works from: the machines with an alarm, those that save most first.

An alarm is the decision that the release was judged by, so it alone brings a machine on the list.
The order is by what is expected to be saved if somebody goes there now: the failure, times its
probability, less the planned repair and the inspections in vain. All figures are those of the
table of predictions, which holds the machines that are not on the list too.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from millwright import pages
from millwright.files import file_written_whole
from millwright.fleet import Fleet
from millwright.inference.settings import Inference
from millwright.inference.table import stamp
from millwright.inference.wording import in_words, words_of
from millwright.release import Manifest
from millwright.serving.predictions import OUTCOMES
from millwright.settings import State

# What a spreadsheet takes for the beginning of a formula, in narrow and in wide letters.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_UNPREDICTED = ("stale", "missing", "unknown")


@dataclass(frozen=True)
class WorkList:
    """A work list, from a table of predictions of one time, as long as is decided."""

    fleet: Fleet
    manifest: Manifest
    predictions: pa.Table
    decided: Inference
    left_out: int = 0  # machines that could not be read, and are not among the predictions

    @property
    def as_of(self) -> datetime:
        """What time it is of."""
        found: datetime = self.predictions["as_of"][0].as_py()
        return found

    @cached_property
    def statuses(self) -> dict[str, int]:
        """How many machines have each status; those that occur."""
        counts = Counter(self.predictions["status"].to_pylist())
        return {status: counts[status] for status in OUTCOMES if counts[status]}

    @property
    def unpredicted(self) -> dict[str, int]:
        """The same of machines that nothing is predicted of."""
        return {status: n for status, n in self.statuses.items() if status in _UNPREDICTED}

    @property
    def predicted(self) -> int:
        """How many machines something is predicted of."""
        return len(self.predictions) - sum(self.unpredicted.values())

    @cached_property
    def alarms(self) -> pa.Table:
        """The predictions of the machines with an alarm, by rank."""
        return self.predictions.filter(pc.field("alarm")).sort_by("rank")

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Those that are on the list; `why` says so in words, `age` of readings in hours."""
        words = words_of(self.fleet)
        found: list[dict[str, Any]] = self.alarms.slice(0, self.decided.work_list).to_pylist()
        for row in found:
            row["why"] = [in_words(each, words) for each in json.loads(row["reasons"] or "[]")]
            row["age"] = None if row["feature_age"] is None else row["feature_age"] / 3600
        return found

    @property
    def horizon(self) -> str:
        """Within what time a machine fails, in words where the fleet file still says the same."""
        same = self.fleet.label(self.fleet.horizon) == self.manifest.horizon
        return pages.length(self.fleet.horizon, self.fleet) if same else self.manifest.horizon

    @property
    def saving(self) -> float:
        """What is expected to be saved if somebody acts on each machine of the list."""
        return float(sum(row["expected_saving"] for row in self.rows))

    @cached_property
    def newest(self) -> datetime | None:
        """When the newest readings of any machine were true, where that is told."""
        found: datetime | None = pc.max(self.predictions["readings_at"]).as_py()
        return found


def write(work: WorkList, state: State) -> dict[str, Path]:
    """Write a work list as CSV and as HTML, each whole or not at all, and say where they are."""
    paths = {
        form: state.work_list(work.fleet.name, stamp(work.as_of), form) for form in ("csv", "html")
    }
    with file_written_whole(paths["csv"]) as draft:
        write_csv(work, draft)
    with file_written_whole(paths["html"]) as draft:
        draft.write_text(page(work), encoding="utf-8")
    return paths


def page(work: WorkList) -> str:
    """The list as an HTML page, complete in itself and made for a telephone."""
    fleet = work.fleet.model_copy(update={"costs": work.manifest.costs})
    template = pages.environment(fleet).get_template("work_list.html.j2")
    return template.render(work=work, fleet=fleet, manifest=work.manifest)


def write_csv(work: WorkList, path: Path) -> None:
    """Write the list for a spreadsheet: UTF-8, with a header, the first machine first."""
    names = [f"reason_{number + 1}" for number in range(work.decided.reasons)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*_columns({}, work), *names], restval="")
        writer.writeheader()
        for row in work.rows:
            cells = {**_columns(row, work), **dict(zip(names, row["why"], strict=False))}
            writer.writerow({name: _cell(value) for name, value in cells.items()})


def _columns(row: Mapping[str, Any], work: WorkList) -> dict[str, Any]:
    """What the CSV says of a machine, reasons apart."""
    return {
        **{name: row.get(name) for name in ("rank", "machine_id", "status", "probability")},
        **{name: row.get(name) for name in ("expected_saving", "expected_cost")},
        "currency": work.manifest.costs.currency,
        **{name: row.get(name) for name in ("readings_at", "feature_age", "as_of", "release")},
    }


def _cell(value: object) -> object:
    """A value as a spreadsheet may read it: text that it would take for a formula stays text.

    It gets an apostrophe, the spreadsheets' own mark for text; who reads the file by a program and
    has such names reads the table of predictions instead.
    """
    if isinstance(value, datetime):
        return value.isoformat()
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
