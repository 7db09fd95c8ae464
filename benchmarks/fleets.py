"""Fleets made from a seed: feature views over time and the cut-offs that are asked about.

Event times are unique in each machine, so that whatever a store does with ties is the same, and
each cut-off finds a row, because Feast's dask store drops those that do not. Exactness where stores
differ is what the tests are for (docs/point-in-time.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.benchmark import Case

END = datetime(2026, 1, 1, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")
LATEST = 600  # seconds that a row may take to become known
CUTOFFS = "cutoffs.parquet"
TINY = {"machines": 2, "days": 3, "cutoffs": 10, "history": 1}  # what contenders warm up with


@dataclass(frozen=True)
class View:
    """A feature view: rows of each machine every `minutes`, and features of four bytes."""

    name: str
    features: int
    minutes: int
    hours_to_live: int

    @property
    def columns(self) -> list[str]:
        """The names of its features."""
        return [f"{self.name}_{number}" for number in range(self.features)]


def views(options: Mapping[str, Any]) -> list[View]:
    """The views that the options of a benchmark name."""
    return [View(name, **view) for name, view in options["views"].items()]


def files(case: Case) -> None:
    """Write a folder of parquet for each view, and the cut-offs; the same in `tiny`.

    A file holds `days` of all machines, in order of time; the last `history` of them are there.
    """
    write(case.options, case.data)
    tiny = {**case.options, **TINY}
    if case.options["cutoffs"] == "grid":
        tiny["cutoffs"] = "grid"
    write(tiny, case.data / "tiny")


def write(options: Mapping[str, Any], folder: Path) -> None:
    """Write the fleet that `options` describe."""
    span = timedelta(days=options["days"])
    for view in views(options):
        (folder / view.name).mkdir(parents=True)
        for part in range(options.get("history", 1)):
            # One seed for each, so that a longer history has the same last parts.
            dice = np.random.default_rng([options["seed"], part])
            rows = _rows(view, options["machines"], END - (part + 1) * span, span, dice)
            file = folder / view.name / f"{1000 - part:04}.parquet"
            pq.write_table(rows, file, row_group_size=122_880)
    pq.write_table(_cutoffs(options, END - span, span), folder / CUTOFFS)


def _rows(
    view: View, machines: int, start: datetime, span: timedelta, dice: np.random.Generator
) -> pa.Table:
    times = _grid(start, span, view.minutes)
    events = np.repeat(times, machines)
    known = events + dice.integers(1, LATEST * 1_000_000, len(events))
    table: dict[str, Any] = {
        "machine": _names(np.tile(np.arange(machines), len(times))),
        "event_timestamp": pa.array(events, pa.int64()).cast(INSTANT),
        "created_timestamp": pa.array(known, pa.int64()).cast(INSTANT),
    }
    for name in view.columns:
        table[name] = dice.standard_normal(len(events), np.float32)
    return pa.table(table)


def _cutoffs(options: Mapping[str, Any], start: datetime, span: timedelta) -> pa.Table:
    """Random ones, or every machine at every time of the first view."""
    if options["cutoffs"] == "grid":
        grid = _grid(start, span, views(options)[0].minutes)
        times, machines = np.repeat(grid, options["machines"]), np.arange(options["machines"])
        which = np.tile(machines, len(grid))
    else:
        dice = np.random.default_rng([options["seed"], 2**32])
        count, first = options["cutoffs"], start + span / 3  # by then each view has rows
        times = dice.integers(_microseconds(first), _microseconds(start + span), count)
        which = dice.integers(0, options["machines"], count)
    return pa.table(
        {
            "cutoff": pa.array(np.arange(len(times))),
            "machine": _names(which),
            "event_timestamp": pa.array(times, pa.int64()).cast(INSTANT),
        }
    )


def _grid(start: datetime, span: timedelta, minutes: int) -> "np.ndarray[Any, Any]":
    """Times in microseconds, from `start` on."""
    step = minutes * 60_000_000
    return np.arange(_microseconds(start), _microseconds(start + span), step)


def _microseconds(time: datetime) -> int:
    return int(time.timestamp()) * 1_000_000


def _names(numbers: "np.ndarray[Any, Any]") -> "pa.Array[Any]":
    names = pa.array([f"machine-{number:05}" for number in range(int(numbers.max()) + 1)])
    return names.take(pa.array(numbers))
