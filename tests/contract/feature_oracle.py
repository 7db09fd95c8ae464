"""What each feature view must hold, row by row in plain Python: slow, and plainly right.

It follows the words of `millwright.features` and nothing of its code.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import sqrt

from millwright.fleet import Fleet
from millwright.views import View

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)

Values = dict[str, float | str | None]
Table = dict[tuple[str, datetime, datetime], Values]


@dataclass(frozen=True)
class Row:
    """One raw row. `about` is the code or the component, which is part of its key."""

    machine: str
    timestamp: datetime
    received: datetime
    about: str = ""
    values: Values = field(default_factory=dict, compare=False)


class Oracle:
    """Everything that is ever known of a fleet, and what follows from it."""

    def __init__(
        self,
        fleet: Fleet,
        telemetry: Sequence[Row],
        errors: Sequence[Row] = (),
        maintenance: Sequence[Row] = (),
        machines: Sequence[Row] = (),
    ) -> None:
        self.fleet = fleet
        self.telemetry = telemetry
        self.errors = errors
        self.maintenance = maintenance
        self.machines = machines

    def table(self, view: View) -> Table:
        """The rows of `view` by machine, event and creation."""
        if view.kind == "attributes":
            return {(r.machine, r.received, r.received): r.values for r in self.machines}
        found: Table = {}
        for machine, step in sorted({(r.machine, self.step(r.timestamp)) for r in self.telemetry}):
            for known in self.versions(view, machine, step):
                key = (machine, self.moment(step), self.moment(known))
                found[key] = self.values(view, machine, step, known)
        return found

    def versions(self, view: View, machine: str, step: int) -> list[int]:
        """First when the step's own readings were known, then whenever something else was."""
        first = min(self.known(row) for row in self.within(self.telemetry, machine, step, 1))
        rows = {
            "step": lambda: self.within(self.telemetry, machine, step, 1),
            "window": lambda: self.within(self.telemetry, machine, step, self.steps(view)),
            "errors": lambda: self.within(self.errors, machine, step, self.steps(view)),
            "maintenance": lambda: self.within(self.maintenance, machine, step, None),
        }[view.kind]()
        return sorted({first, *(max(first, self.known(row)) for row in rows)})

    def values(self, view: View, machine: str, step: int, known: int) -> Values:
        """The features of one version, from exactly what was known by then."""
        if view.kind == "step":
            rows = list(self.held(self.within(self.telemetry, machine, step, 1), known))
            label = self.fleet.label(self.fleet.step)
            return {
                f"{sensor}_{kind}_{label}": statistic(
                    [(hours((r.timestamp - EPOCH) // SECOND), r.values[sensor]) for r in rows],
                    kind,
                )
                for sensor in self.fleet.sensors
                for kind in self.fleet.features.step_statistics
            }
        if view.kind == "window":
            label = self.fleet.label(view.window)
            return {
                f"{sensor}_{kind}_{label}": statistic(points, kind)
                for sensor in self.fleet.sensors
                for points in [self.means(sensor, machine, step, self.steps(view), known)]
                for kind in self.fleet.features.statistics
            }
        if view.kind == "errors":
            rows = list(self.held(self.within(self.errors, machine, step, self.steps(view)), known))
            label = self.fleet.label(view.window)
            return {
                f"{code}_count_{label}": float(sum(row.about == code for row in rows))
                for code in self.fleet.error_codes
            }
        ages: Values = {}
        rows = list(self.held(self.within(self.maintenance, machine, step, None), known))
        for part in self.fleet.components:
            replaced = [self.step(row.timestamp) for row in rows if row.about == part]
            age = (step - max(replaced)) * (self.fleet.step / HOUR) if replaced else None
            ages[f"{part}_age"] = age
        return ages

    def means(
        self, sensor: str, machine: str, step: int, steps: int, known: int
    ) -> list[tuple[Fraction, float | None]]:
        """The mean of each step in a window that had readings by then, with its time in hours."""
        rows = list(self.held(self.within(self.telemetry, machine, step, steps), known))
        found = []
        for own in sorted({self.step(row.timestamp) for row in rows}):
            values = [
                (Fraction(0), r.values[sensor]) for r in rows if self.step(r.timestamp) == own
            ]
            found.append((hours(own * (self.fleet.step // SECOND)), statistic(values, "mean")))
        return found

    def within(
        self, rows: Sequence[Row], machine: str, step: int, steps: int | None
    ) -> Iterator[Row]:
        """The rows of a machine in the window of `steps` (None: all) that ends with `step`."""
        for row in rows:
            ago = step - self.step(row.timestamp)
            if row.machine == machine and ago >= 0 and (steps is None or ago < steps):
                yield row

    def held(self, rows: Iterable[Row], known: int) -> Iterable[Row]:
        """Of each key the version received last among those known by then."""
        last: dict[tuple[str, datetime, str], Row] = {}
        for row in sorted(rows, key=lambda row: row.received):
            if self.known(row) <= known:
                last[row.machine, row.timestamp, row.about] = row
        return last.values()

    def known(self, row: Row) -> int:
        """The step at whose end the row was known."""
        return max(self.step(row.timestamp), self.step(row.received))

    def step(self, time: datetime) -> int:
        """The number of the step that holds `time`: its end is in it and its beginning is not."""
        return -((EPOCH - time) // self.fleet.step)

    def steps(self, view: View) -> int:
        return view.window // self.fleet.step

    def moment(self, step: int) -> datetime:
        return EPOCH + step * self.fleet.step


def hours(seconds: int) -> Fraction:
    return Fraction(seconds, 3600)


def statistic(points: Iterable[tuple[Fraction, float | None]], kind: str) -> float | None:
    """A statistic of (hour, value) pairs, rounded once. What was not measured is no value."""
    present = [(hour, Fraction(value)) for hour, value in points if value is not None]
    values = [value for _, value in present]
    if not values:
        return None
    if kind in ("min", "max"):
        return float({"min": min, "max": max}[kind](values))
    mean = sum(values) / len(values)
    if kind == "mean":
        return float(mean)
    if kind == "std":
        rest = len(values) - 1
        return sqrt(sum((value - mean) ** 2 for value in values) / rest) if rest else None
    middle = sum(hour for hour, _ in present) / len(present)
    spread = sum((hour - middle) ** 2 for hour, _ in present)
    together = sum((hour - middle) * (value - mean) for hour, value in present)
    return float(together / spread) if spread else None
