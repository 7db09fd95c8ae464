"""Readings of a request that were checked, as the raw tables that features follow from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millwright.errors import InputError
from millwright.recipe import Recipe
from millwright.serving.clock import Clock
from millwright.serving.predictions import micros
from millwright.serving.readings_faults import faults
from millwright.serving.readings_request import MachineReadings, ReadingsRequest
from millwright.serving.rows import Moments

MOST_FAULTS = 5  # that an error lists
_ARROW_TYPES = {
    "VARCHAR": pa.string(),
    "DOUBLE": pa.float64(),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True, eq=False)
class Readings:
    """Raw rows of n machines that are fit for features, and the time that each is asked about.

    In `tables` a machine is called by its place among `machines`. `told` says for each table of
    which machines anything was told, and `first` is the time of a machine's first reading.
    """

    machines: tuple[str, ...]
    as_of: Moments
    first: Moments
    tables: Mapping[str, pa.Table]
    told: Mapping[str, NDArray[np.bool_]]

    def short(self, recipe: Recipe) -> NDArray[np.bool_]:
        """The machines whose readings do not reach back over the longest window before `as_of`."""
        return np.asarray(self.as_of - self.first < recipe.reach * recipe.step * 1_000_000)


def checked(asked: ReadingsRequest, recipe: Recipe, now: datetime) -> Readings:
    """The rows of a request, asked at `now` (UTC) of a release with this recipe.

    Raises:
        InputError: with the first faults, each with its place; nothing of the request counts.
    """
    found = list(faults(asked, recipe, now))
    if found:
        more = [f"and {len(found) - MOST_FAULTS} more"] if len(found) > MOST_FAULTS else []
        raise InputError("; ".join([*found[:MOST_FAULTS], *more]))
    clock = Clock(recipe.counts_cycles)
    as_of = [_as_of(asked, machine, clock, now) for machine in asked.machines]
    return _readings(asked.machines, as_of, recipe)


def nobody(recipe: Recipe) -> Readings:
    """The rows of no machine."""
    return _readings((), (), recipe)


def _readings(
    machines: Sequence[MachineReadings], as_of: Sequence[datetime], recipe: Recipe
) -> Readings:
    clock = Clock(recipe.counts_cycles)
    first = [min(clock.moment(row.timestamp) for row in each.telemetry) for each in machines]
    cell = _cells(clock, list(map(micros, as_of)))
    return Readings(
        machines=tuple(machine.machine for machine in machines),
        as_of=np.array(list(map(micros, as_of)), np.int64),
        first=np.array(list(map(micros, first)), np.int64),
        tables={name: _table(name, types, machines, cell) for name, types in recipe.tables.items()},
        told={
            name: np.array([each.rows(name) is not None for each in machines], np.bool_)
            for name in recipe.tables
        },
    )


def _as_of(
    asked: ReadingsRequest, machine: MachineReadings, clock: Clock, now: datetime
) -> datetime:
    """The time that a machine is asked about: of cycles it is the machine's newest."""
    if asked.as_of is not None:
        return clock.moment(asked.as_of)
    if not clock.counts_cycles:
        return now
    rows = [row for table in machine.TIMED for row in machine.rows(table) or ()]
    times = [time for row in rows for time in (row.timestamp, row.received)]
    return max(clock.moment(time) for time in times if time is not None)


Cell = Callable[[str, int, Any], Any]


def _cells(clock: Clock, as_of: Sequence[int]) -> Cell:
    """What gives a cell by the name of its column, the place of its machine, and its row."""

    def cell(name: str, place: int, row: Any) -> Any:
        if name == "machine_id":
            return str(place)
        if name == "received" and row.received is None:
            # What a machine is has no time of its own.
            return as_of[place] if not hasattr(row, "timestamp") else cell("timestamp", place, row)
        if name in ("timestamp", "received"):
            return micros(clock.moment(getattr(row, name)))
        if name in ("code", "component"):
            return getattr(row, name)
        value = row.model_extra.get(name)
        # Adding zero turns -0.0 into 0.0, as the ingest does.
        return value if value is None or isinstance(value, str) else value + 0.0

    return cell


def _table(
    table: str, types: Mapping[str, str], machines: Sequence[MachineReadings], cell: Cell
) -> pa.Table:
    """The rows of a raw table of all machines."""
    rows = [(place, row) for place, each in enumerate(machines) for row in each.rows(table) or ()]
    columns = {
        name: pa.array([cell(name, place, row) for place, row in rows], _ARROW_TYPES[kind])
        for name, kind in types.items()
    }
    return pa.table(columns)
