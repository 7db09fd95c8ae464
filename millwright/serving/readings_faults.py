"""What is wrong with the rows of a request, by the rules of the ingest (`millwright.validation`).

A fault names its place: `machines.0.telemetry.3.volt: 512 is outside [0, 400]`.
"""

import math
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

from millwright.configuration import nearest
from millwright.recipe import Recipe
from millwright.serving.clock import Clock, Time
from millwright.serving.readings_request import TABLES, MachineReadings, ReadingsRequest
from millwright.validation import LONGEST_PAST

_LONGEST_TEXT = 60  # of what was sent that a fault repeats


def faults(asked: ReadingsRequest, recipe: Recipe, now: datetime) -> Iterator[str]:
    """Every fault of a request, in its order; nothing is said of rows where `as_of` is wrong."""
    clock = Clock(recipe.counts_cycles)
    wrong = "" if asked.as_of is None else clock.fault(asked.as_of)
    if not wrong and not recipe.counts_cycles and clock.moment(asked.as_of or now) > now:
        wrong = "is in the future; leave it out to ask about now"
    if wrong:
        yield f"as_of: {wrong}"
        return
    as_of = asked.as_of if recipe.counts_cycles else asked.as_of or now
    seen: dict[str, int] = {}
    for number, machine in enumerate(asked.machines):
        place = f"machines.{number}"
        first = seen.setdefault(machine.machine, number)
        if first != number:
            yield f"{place}.machine: is also that of machines.{first}; send each machine once"
        for table in TABLES:
            yield from _Rows(recipe, clock, table, as_of).faults(place, machine)


class _Rows:
    """The rows of one raw table of a machine, none of which may be later than `as_of`."""

    def __init__(self, recipe: Recipe, clock: Clock, table: str, as_of: Time | None) -> None:
        self.recipe = recipe
        self.clock = clock
        self.table = table
        self.as_of = None if as_of is None else clock.moment(as_of)

    def faults(self, place: str, machine: MachineReadings) -> Iterator[str]:
        rows = machine.rows(self.table)
        if rows is None:
            return
        place = f"{place}.{'attributes' if self.table == 'machines' else self.table}"
        if self.table not in self.recipe.tables:
            yield f"{place}: fleet '{self.recipe.fleet}' has none; leave it out"
            return
        keys: dict[tuple[object, ...], int] = {}
        for number, row in enumerate(rows):
            here = place if self.table == "machines" else f"{place}.{number}"
            for fault in (*self._of_times(row), *self._of_cells(row)):
                yield f"{here}{fault}"
            if self.table != "machines":
                about = getattr(row, "code", getattr(row, "component", None))
                known = row.timestamp if row.received is None else row.received
                earlier = keys.setdefault((row.timestamp, known, about), number)
                if earlier != number:
                    yield f"{here}: is of the same time as {place}.{earlier}; send one of them"

    def _of_times(self, row: Any) -> Iterator[str]:
        first = -LONGEST_PAST if self.table == "maintenance" else 0
        times = {name: getattr(row, name, None) for name in ("timestamp", "received")}
        moments: dict[str, datetime] = {}
        for name, time in times.items():
            if time is None:
                continue
            if wrong := self.clock.fault(time, first):
                yield f".{name}: {wrong}"
                continue
            moments[name] = self.clock.moment(time)
            if self.as_of is not None and moments[name] > self.as_of:
                yield f".{name}: is later than what is asked about, {self.clock.shown(self.as_of)}"
        if len(moments) == 2 and moments["received"] < moments["timestamp"]:
            yield ".received: is before the row's own time"

    def _of_cells(self, row: Any) -> Iterator[str]:
        if self.table == "errors":
            yield from _unknown("code", row.code, self.recipe.error_codes)
        elif self.table == "maintenance":
            yield from _unknown("component", row.component, self.recipe.components)
        elif self.table == "machines":
            yield from self._of_attributes(row.model_extra)
        else:
            yield from self._of_readings(row.model_extra)

    def _of_readings(self, cells: dict[str, float | None]) -> Iterator[str]:
        for name, value in cells.items():
            if name not in self.recipe.sensors:
                yield _stranger("sensor", name, self.recipe.sensors)
            elif value is not None:
                yield from _outside(name, value, self.recipe.sensors[name])
        if all(value is None for value in cells.values()):
            yield ": has no reading; leave it out"

    def _of_attributes(self, cells: dict[str, Any]) -> Iterator[str]:
        for name, value in cells.items():
            attribute = self.recipe.attributes.get(name)
            if attribute is None:
                yield _stranger("attribute", name, self.recipe.attributes)
            elif value is None:
                continue
            elif attribute.type == "category":
                yield from _unknown(name, value, attribute.values)
            elif isinstance(value, str) or not math.isfinite(value):
                yield f".{name}: must be a finite number or null"
            else:
                yield from _outside(name, value, attribute.range)


def _outside(name: str, value: float, limits: tuple[float, float] | None) -> Iterator[str]:
    if limits and not limits[0] <= value <= limits[1]:
        yield f".{name}: {value:g} is outside [{limits[0]:g}, {limits[1]:g}]"


def _unknown(name: str, value: object, values: Collection[str]) -> Iterator[str]:
    if value not in values:
        text = _cut(str(value))
        yield f".{name}: '{text}' is unknown; {nearest(text, list(values))}"


def _stranger(kind: str, name: str, names: Collection[str]) -> str:
    text = _cut(name)
    return f".{text}: the fleet has no such {kind}; {nearest(text, list(names))}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
