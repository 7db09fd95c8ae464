"""The rows of made-up machines: what `wear` does inside them, as sensors and records show it.

Each machine draws from generators of its own, so machine 7 is the same in a fleet of 10 and of
1000. Rows are spoilt as real data is: gaps, late rows, a calibration that drifts.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millwright import wear
from millwright.durations import CYCLE_ORIGIN
from millwright.fleet import Attribute, Errors, Fleet, Parts, Sensor, Simulation, Source
from millwright.wear import YEAR, Floats

Times = NDArray[np.datetime64]
Rows = dict[str, NDArray[Any]]

HOUR = np.timedelta64(3_600_000_000, "us")
SECOND = np.timedelta64(1_000_000, "us")

NOISE = 1 / 25  # of a reading, as a share of its sensor's range
MARGIN = 1 / 50  # of the range, at both its ends, that no reading enters
WANDER_HOURS = 6.0  # readings nearer than this are alike
LOST_STRETCHES_PER_YEAR = 3.0
BACKGROUND_ERRORS_PER_YEAR = 25.0
ERRORS_PER_HOUR = 0.1  # of a part with a full symptom


class Assembly:
    """Makes the rows of one machine after another.

    Times are datetime64[us] in UTC, a gap is NaN, and machines are numbered from 1.
    """

    def __init__(self, fleet: Fleet, simulation: Simulation) -> None:
        self.fleet = fleet
        self.simulation = simulation
        begin = CYCLE_ORIGIN if fleet.counts_cycles else simulation.start
        self.start = np.datetime64(begin.replace(tzinfo=None), "us")
        self.end = self.start + np.timedelta64(timedelta(days=simulation.days), "us")
        self.hours = simulation.days * 24.0
        self.tick = HOUR if fleet.counts_cycles else SECOND  # what events are rounded to
        self.interval = simulation.reading_interval or fleet.step
        self.readings = np.arange(self.start, self.end, np.timedelta64(self.interval, "us"))
        self.reading_hours: Floats = (self.readings - self.start) / HOUR
        self.scales = _scales(list(fleet.sensors.values()))
        self.places = max(1, len(fleet.components))
        # Machines count from 1, so 0 is free for what all of them have in common.
        common = np.random.SeedSequence(simulation.seed, spawn_key=(0,))
        self.anatomy = wear.draw_anatomy(
            self.places, len(fleet.sensors), np.random.default_rng(common)
        )

    def make(self, number: int) -> dict[str, Rows]:
        """The rows of machine `number` in every table of the fleet."""
        seeds = np.random.SeedSequence(self.simulation.seed, spawn_key=(number,)).spawn(6)
        # One generator for each concern: asking for gaps does not change what the sensors read.
        kind, inside, readings, errors, gaps, lateness = map(np.random.default_rng, seeds)
        attributes, pace = _attributes(self.fleet, kind)
        tick = self.tick / HOUR
        machine = wear.draw_machine(self.places, self.hours, tick, pace, inside)
        tables = {"machines": attributes, "telemetry": self._telemetry(machine, readings, gaps)}
        if self.fleet.tables.errors:
            tables["errors"] = self._errors(self.fleet.tables.errors, machine, errors)
        if self.fleet.tables.maintenance:
            tables["maintenance"] = self._maintenance(self.fleet.tables.maintenance, machine)
        tables["failures"] = self._failures(self.fleet.tables.failures, machine)
        return {
            name: self._finish(name, tables[name], number, lateness)
            for name in self.fleet.table_names
        }

    def _telemetry(
        self, machine: wear.Machine, rng: np.random.Generator, gaps: np.random.Generator
    ) -> Rows:
        anatomy, scales, hours = self.anatomy, self.scales, self.reading_hours
        symptoms = machine.symptoms(hours)
        # (sensors, readings), in deviations of a sensor's noise; single precision is faster.
        values = rng.standard_normal((len(self.fleet.sensors), len(hours)), dtype=np.float32)
        for place, sensor in np.argwhere(anatomy.spread):
            values[sensor] *= 1 + anatomy.spread[place, sensor] * symptoms[place]
        for place, sensor in np.argwhere(anatomy.shift):
            values[sensor] += anatomy.shift[place, sensor] * symptoms[place]
        values += self._wander(rng)
        values += np.outer(anatomy.load, machine.clock.load_at(hours) - 1)
        values += rng.normal(0.0, 0.3, size=(len(values), 1))
        if self.simulation.drift_from_day is not None:
            values += np.outer(anatomy.drifts, hours >= 24 * self.simulation.drift_from_day)
        readings = np.clip(scales.level + scales.noise * values, scales.low, scales.high)
        for row, decimals in zip(readings, scales.decimals, strict=True):
            np.round(row, decimals, out=row)
        kept = self._spoil(readings, gaps)
        columns = [sensor.column or name for name, sensor in self.fleet.sensors.items()]
        timed = {self.fleet.tables.telemetry.timestamp: self.readings[kept]}
        return timed | dict(zip(columns, readings[:, kept], strict=True))

    def _wander(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """(sensors, readings): slow noise, which makes the readings of near hours alike."""
        knot, share = np.divmod(self.reading_hours / WANDER_HOURS, 1)
        before = knot.astype(np.int64)
        knots = rng.standard_normal((len(self.fleet.sensors), before[-1] + 2), dtype=np.float32)
        knots *= 0.5
        rise = np.diff(knots, axis=1)
        wander: NDArray[np.float32] = knots[:, before]
        wander += rise[:, before] * share.astype(np.float32)
        return wander

    def _spoil(self, readings: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Make gaps in `readings`, and say which of its columns were not lost altogether."""
        kept = np.ones(readings.shape[1], dtype=bool)
        share = self.simulation.gap_share
        if share:
            readings[rng.random(readings.shape, dtype=np.float32) < share] = np.nan
            stretches = rng.poisson(LOST_STRETCHES_PER_YEAR * self.hours / YEAR)
            for begin in rng.uniform(0.0, self.hours, size=stretches):
                end = begin + rng.uniform(2.0, 12.0)
                kept &= (self.reading_hours < begin) | (self.reading_hours >= end)
        return kept

    def _errors(self, table: Errors, machine: wear.Machine, rng: np.random.Generator) -> Rows:
        """Errors by chance, and those by which worn parts announce themselves."""
        hours = np.arange(self.hours)
        symptoms = machine.symptoms(hours)
        codes = np.array(self.fleet.error_codes)
        rates = np.full((len(codes), len(hours)), BACKGROUND_ERRORS_PER_YEAR / len(codes) / YEAR)
        for place, symptom in enumerate(symptoms):
            # Codes are dealt out to the parts in turn; more parts than codes share them.
            own = range(place % len(codes), len(codes), self.places)
            rates[own] += ERRORS_PER_HOUR / len(own) * symptom
        counts = rng.poisson(rates)
        code, hour = np.nonzero(counts)
        code, hour = np.repeat(np.stack([code, hour]), counts[code, hour], axis=1)
        moments = self._moments(hour + rng.random(len(hour)))
        # One code once at a time, in the order of the times.
        _, once = np.unique(np.stack([moments.view(np.int64), code]), axis=1, return_index=True)
        return {table.timestamp: moments[once], table.code: codes[code[once]]}

    def _maintenance(self, table: Parts, machine: wear.Machine) -> Rows:
        """Every replacement, also of what failed, back into the history before the start."""
        return self._replacements(table, [parts.installed for parts in machine.places])

    def _failures(self, table: Parts, machine: wear.Machine) -> Rows:
        """What failed since the start."""
        failed = [parts.installed[parts.after_failure] for parts in machine.places]
        return self._replacements(table, [times[times >= 0] for times in failed])

    def _replacements(self, table: Parts, hours: list[Floats]) -> Rows:
        """The moments at which each place got a new part, in the order of time."""
        moments = self._moments(np.concatenate(hours))
        names = np.array(self.fleet.components or [None])
        place = np.repeat(np.arange(self.places), [len(times) for times in hours])
        order = np.argsort(moments, kind="stable")
        order = order[moments[order] < self.end]
        if not table.component:
            return {table.timestamp: np.unique(moments[order])}
        return {table.timestamp: moments[order], table.component: names[place[order]]}

    def _moments(self, hours: Floats) -> Times:
        """Hours since the start as times, on a whole second or cycle."""
        # The bit more keeps a whole tick whole that lost its last digit.
        ticks = np.floor(hours * (HOUR / self.tick) + 1e-3).astype(np.int64)
        moments: Times = self.start + ticks * self.tick
        return moments

    def _finish(self, name: str, rows: Rows, number: int, rng: np.random.Generator) -> Rows:
        """Add which machine the rows are of, and when they became known."""
        table: Source = getattr(self.fleet.tables, name)
        timestamp = getattr(table, "timestamp", None)
        times = rows[timestamp] if timestamp else np.array([self.start])
        columns = {table.machine: np.full(len(times), number), **rows}
        if table.received:
            late = name in ("telemetry", "errors")
            columns[table.received] = self._received(times, rng) if late else times
        return columns

    def _received(self, times: Times, rng: np.random.Generator) -> Times:
        """When rows became known: some 1 to 12 hours late, none after the end."""
        room = np.clip((self.end - times) / HOUR, 0.0, 12.0)
        late = (rng.random(len(times)) < self.simulation.late_share) & (room >= 1.0)
        delay = late * rng.uniform(1.0, np.maximum(room, 1.0))
        return times + np.floor(delay * (HOUR / self.tick) + 1e-3).astype(np.int64) * self.tick


@dataclass(frozen=True)
class _Scales:
    """How sensors read: level, deviation of the noise and limits, all (sensors, 1)."""

    level: Floats
    noise: Floats
    low: Floats
    high: Floats
    decimals: tuple[int, ...]


def _scales(sensors: list[Sensor]) -> _Scales:
    """Scales from the ranges of sensors; a sensor without one reads from 0 to 1."""
    ranges = np.array([sensor.range or (0.0, 1.0) for sensor in sensors])
    low, high = ranges[:, :1], ranges[:, 1:]
    width = high - low
    return _Scales(
        level=(low + high) / 2,
        noise=width * NOISE,
        low=low + width * MARGIN,
        high=high - width * MARGIN,
        decimals=tuple(max(0, 4 - int(np.log10(each))) for each in width[:, 0]),
    )


def _attributes(fleet: Fleet, rng: np.random.Generator) -> tuple[Rows, float]:
    """The attributes of a machine, and how fast its kind wears, 1 being usual.

    The later a category stands among its values the faster it wears, and the higher a number: age.
    """
    rows: Rows = {}
    burdens = [0.0]
    for name, attribute in fleet.attributes.items():
        share = rng.random()
        if attribute.type == "category":
            index = int(share * len(attribute.values))
            rows[attribute.column or name] = np.array([attribute.values[index]])
            share = index / max(1, len(attribute.values) - 1)
        else:
            rows[attribute.column or name] = np.array([_number(attribute, share)])
        burdens.append(0.5 * (share - 0.5))
    pace = np.exp(np.sum(burdens) / np.sqrt(max(1, len(fleet.attributes))))
    return rows, float(pace)


def _number(attribute: Attribute, share: float) -> float:
    """A value in the range of an attribute, at most one band above the last of its bands."""
    low, high = attribute.range or (0.0, 2 * max((0.5, *attribute.bands)))
    if attribute.bands:
        before, last = (low, *attribute.bands)[-2:]
        high = min(high, 2 * last - before)
    value = low + share * (high - low)
    return round(value) if high - low >= 10 else round(value, 3)
