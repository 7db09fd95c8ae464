"""How the parts of a made-up machine wear, warn and fail.

Time is in hours since the simulation starts; the history before it is negative. Wear is in hours of
work at nominal load, so a machine that works hard is worn sooner. A part lasts for a random
lifetime (Weibull, https://en.wikipedia.org/wiki/Weibull_distribution) unless it is replaced before.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

YEAR = 365 * 24.0
# Planned work replaces one part of a machine every 15 days, each part in turn. Lifetimes follow
# from it, so a machine of many parts fails as often as one of few: about seven times a year.
SERVICE_INTERVAL = 15 * 24.0
LIFETIME = 1.48  # the scale of the lifetimes, in rounds of planned work over all the parts
LIFETIME_SHAPE = 3.0

NOTICE = 28.0  # the median wear, before the end of its lifetime, at which a part is half ill
STEEPNESS = 6.0  # how fast it falls ill around then: it is a tenth ill at 1.4 times that notice
SUDDEN = 0.08  # the share of parts that fail with hardly a warning
EARLY = 0.12  # what wear shows before that, as a share of the full symptom
SCARES_PER_YEAR = 1.0  # warnings of a machine that recede by themselves


@dataclass(frozen=True)
class Anatomy:
    """How parts act on sensors, alike in all machines, in deviations of a sensor's noise.

    Attributes:
        shift: (parts, sensors), how far a full symptom moves the mean.
        spread: (parts, sensors), by which share a full symptom widens the noise.
        load: (sensors,), how far twice the nominal load moves the mean.
        drifts: (sensors,), how far the calibration of a sensor drifts, where a drift is asked for.
    """

    shift: Floats
    spread: Floats
    load: Floats
    drifts: Floats


def draw_anatomy(parts: int, sensors: int, rng: np.random.Generator) -> Anatomy:
    """Give every part one sensor that shows it well and a few that show it less."""
    shift = np.zeros((parts, sensors))
    spread = np.zeros((parts, sensors))
    first = rng.permutation(sensors)
    for part in range(parts):
        shown = first[part % sensors]
        others = rng.permutation(np.delete(np.arange(sensors), shown))[: min(4, sensors // 2)]
        signs = rng.choice([-1.0, 1.0], size=sensors)
        shift[part, shown] = 4.0 * signs[shown]
        shift[part, others] = rng.uniform(0.4, 1.2, size=len(others)) * signs[others]
        if part % 2 == 0:
            spread[part, shown] = 0.8
    drifts = np.zeros(sensors)
    drifts[rng.permutation(sensors)[: max(1, sensors // 4)]] = 1.5
    return Anatomy(shift, spread, rng.uniform(-1.5, 1.5, size=sensors), drifts)


@dataclass(frozen=True)
class Clock:
    """The load of a machine hour by hour, and the wear that it has done since the history began."""

    hours: Floats
    load: Floats
    worn: Floats

    def load_at(self, times: Floats) -> Floats:
        """The load, 1 being nominal."""
        return np.interp(times, self.hours, self.load)

    def worn_at(self, times: Floats) -> Floats:
        """The hours of work done until then."""
        return np.interp(times, self.hours, self.worn)

    def time_of(self, worn: float) -> float:
        """When so many hours of work are done; infinite if not before the simulation ends."""
        return float(np.interp(worn, self.worn, self.hours, right=np.inf))


def draw_clock(begin: float, end: float, rng: np.random.Generator) -> Clock:
    """A load that follows the hours of the day and wanders from day to day.

    Args:
        begin: the first hour.
        end: the last hour.
        rng: where chance comes from.
    """
    hours = np.arange(begin, end + 1.0)
    days = np.arange(begin, end + 48.0, 24.0)
    wander = np.interp(hours, days, rng.normal(0.0, 0.15, size=len(days)))
    peak = rng.normal(14.0, 2.0)
    daily = rng.uniform(0.1, 0.3) * np.cos((hours - peak) * (2 * np.pi / 24))
    load = np.clip(1.0 + daily + wander, 0.1, None)
    return Clock(hours, load, np.concatenate([[0.0], np.cumsum(load[:-1])]))


@dataclass(frozen=True)
class Parts:
    """The parts that sat one after another in one place of a machine; an entry for each of them.

    Attributes:
        installed: when the part came in, and the one before it went out.
        after_failure: whether the part before it had failed.
        lifetime: the wear at which the part fails.
        notice: the wear before that at which its symptoms are half of what they will be.
        strength: how strongly it warns.
    """

    installed: Floats
    after_failure: NDArray[np.bool_]
    lifetime: Floats
    notice: Floats
    strength: Floats

    def symptom(self, times: Floats, clock: Clock) -> Floats:
        """How ill the part that is in place looks, from 0 to about 1 as it fails."""
        part = np.searchsorted(self.installed, times, side="left") - 1
        worn = clock.worn_at(times) - clock.worn_at(self.installed)[part]
        left = self.lifetime[part] - worn
        late = 1.0 / (1.0 + np.exp(np.clip(STEEPNESS * (left / self.notice[part] - 1.0), -50, 50)))
        early = np.clip(worn / self.lifetime[part], 0.0, 1.0) ** 6
        symptom: Floats = self.strength[part] * ((1 - EARLY) * late + EARLY * early)
        return symptom


def _draw_parts(
    clock: Clock, tick: float, round_length: float, pace: float, rng: np.random.Generator
) -> Parts:
    """Install parts, each as the one before it fails or planned work takes it out.

    Args:
        clock: the load of the machine.
        tick: events happen at whole numbers of it.
        round_length: how many hours planned work leaves a part in place.
        pace: how fast the parts of this machine wear, 1 being usual.
        rng: where chance comes from.
    """
    installed = [np.floor(rng.uniform(-2.0, -1.0) * round_length / 24) * 24 + 6]
    after_failure = [False]
    lifetime: list[float] = []
    while True:
        lifetime.append(LIFETIME * round_length / pace * rng.weibull(LIFETIME_SHAPE))
        begin = installed[-1]
        worn = clock.worn_at(np.array([begin]))[0]
        fails = np.ceil(clock.time_of(worn + lifetime[-1]) / tick) * tick
        planned = np.floor((begin + round_length * rng.uniform(0.8, 1.2)) / 24) * 24 + 6
        if min(fails, planned) > clock.hours[-1]:
            break
        # A part that fails within the tick in which it came in would be there twice at one time.
        installed.append(max(min(fails, planned), begin + tick))
        after_failure.append(bool(fails < planned))
    count = len(installed)
    sudden = rng.random(count) < SUDDEN
    return Parts(
        installed=np.array(installed),
        after_failure=np.array(after_failure),
        lifetime=np.array(lifetime),
        notice=NOTICE * rng.lognormal(0.0, 0.15, size=count),
        strength=np.where(sudden, 0.1, rng.uniform(0.6, 1.3, size=count)),
    )


@dataclass(frozen=True)
class Scare:
    """A warning that recedes: it looks like a failing part, and is none."""

    place: int
    peak: float
    time: float
    width: float


@dataclass(frozen=True)
class Machine:
    """What happens inside one machine: its load, the parts in each of its places, its scares."""

    clock: Clock
    places: tuple[Parts, ...]
    scares: tuple[Scare, ...]

    def symptoms(self, times: Floats) -> Floats:
        """(places, times): how ill each part looks."""
        symptoms = np.stack([parts.symptom(times, self.clock) for parts in self.places])
        for scare in self.scares:
            distance = (times - scare.time) / scare.width
            symptoms[scare.place] += scare.peak * np.exp(-(distance**2) / 2)
        return symptoms


def draw_machine(
    places: int, end: float, tick: float, pace: float, rng: np.random.Generator
) -> Machine:
    """Live through the life of a machine, far enough back that each part has been replaced.

    Args:
        places: how many parts it has at a time.
        end: the hour at which the simulation ends.
        tick: events happen at whole numbers of these hours.
        pace: how fast it wears under nominal load, 1 being usual.
        rng: where chance comes from.
    """
    round_length = places * SERVICE_INTERVAL
    begin = -np.ceil(2 * round_length / 24 + 1) * 24
    clock = draw_clock(begin, end, rng)
    pace *= rng.lognormal(0.0, 0.05)
    parts = tuple(_draw_parts(clock, tick, round_length, pace, rng) for _ in range(places))
    scares = tuple(
        Scare(
            place=int(rng.integers(places)),
            peak=rng.uniform(0.3, 0.9),
            time=rng.uniform(0.0, end),
            width=rng.uniform(4.0, 16.0),
        )
        for _ in range(rng.poisson(SCARES_PER_YEAR * end / YEAR))
    )
    return Machine(clock, parts, scares)
