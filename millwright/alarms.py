"""From scores to what a maintenance planner gets: alarms, failures caught or missed, and the bill.

The rules, with the horizon h and the lead time l of the fleet file:

* A cut-off at T is *flagged* if its score reaches the threshold.
* A flagged cut-off raises an *alarm*, unless its machine had one in (T - h, T]: that one is open
  still. At T + h the first alarm's question is answered, and a new one may come.
* An alarm is *true* if its machine fails in (T, T + h], and false otherwise.
* A failure is *caught* if a cut-off in [failure - h, failure - l] is flagged, whether or not it
  raised an alarm of its own. At every flagged cut-off an alarm of that machine is open, so the
  planner knows, and in time to act. To count only the cut-offs that raised alarms would let an
  earlier false alarm hide a good warning, and a lower threshold could then catch less.
* Failures of a machine at one moment are one. A failure without cut-offs in its window counts
  nowhere: nobody asked the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from millwright.configuration import Strict
from millwright.errors import DataError
from millwright.fleet import Costs, Fleet

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

MONTH = timedelta(days=30)
MICROSECOND = timedelta(microseconds=1)


class CostPoint(Strict):
    """What one threshold would have led to."""

    threshold: float
    failures_caught: int
    false_alarms: int
    cost: float


class Threshold(Strict):
    """The score at which an alarm is least costly, and the curve that it was chosen from.

    `curve` rises by threshold; `failures` is how many failures it was weighed against.
    """

    value: float
    cost: float
    failures: int
    curve: tuple[CostPoint, ...]


def raise_alarms(
    rows: pd.DataFrame, scores: Floats, threshold: float, fleet: Fleet
) -> pd.DataFrame:
    """The alarms that a planner gets: `machine_id`, `event_timestamp`, `score`, in that order."""
    line = _Line.of(rows, fleet)
    ordered = line.arrange(scores)
    raised = line.order[line.alarms(ordered >= threshold)]
    alarms = rows[["machine_id", "event_timestamp"]].iloc[raised]
    return alarms.assign(score=np.asarray(scores)[raised]).reset_index(drop=True)


def judge_alarms(alarms: pd.DataFrame, failures: pd.DataFrame, fleet: Fleet) -> pd.DataFrame:
    """Add to each alarm `failure`, the time of the failure that it announced, and `is_true`.

    `failure` is NaT for a false alarm.
    """
    line = _Line.of(alarms, fleet)
    happened = line.place(failures)
    following = line.following(happened)
    announced = np.full(len(alarms), np.datetime64("NaT"), dtype="datetime64[us]")
    found = following >= 0
    announced[line.order[found]] = line.times(happened[following[found]])
    times = pd.DatetimeIndex(announced).tz_localize("UTC")
    return alarms.assign(failure=times, is_true=times.notna())


def judge_failures(
    rows: pd.DataFrame, scores: Floats, threshold: float, failures: pd.DataFrame, fleet: Fleet
) -> pd.DataFrame:
    """Say of each failure that counts whether it was caught, and since when it was flagged.

    Returns:
        `machine_id`, `timestamp`, `caught`, `flagged_from` (the first flagged cut-off in the
        window, NaT if there is none) and `flagged_late` (not caught, and flagged only when less
        than the lead time was left).
    """
    line = _Line.of(rows, fleet)
    flagged = line.arrange(scores) >= threshold
    windows = line.windows(line.place(failures))
    positions = np.flatnonzero(flagged)
    # One place beyond the end stands for "never".
    reached = np.append(positions, len(flagged))[np.searchsorted(positions, windows.first)]
    caught = reached < windows.last
    since = np.full(len(caught), np.datetime64("NaT"), dtype="datetime64[us]")
    since[caught] = line.times(line.places[reached[caught]])
    return pd.DataFrame(
        {
            "machine_id": line.machines.take(windows.failures // line.stride),
            "timestamp": pd.DatetimeIndex(line.times(windows.failures)).tz_localize("UTC"),
            "caught": caught,
            "flagged_from": pd.DatetimeIndex(since).tz_localize("UTC"),
            "flagged_late": ~caught & (reached < windows.end),
        }
    )


def expected_cost(failures: int, caught: int, false_alarms: int, costs: Costs) -> float:
    """What the failures and the alarms cost, in the fleet's currency."""
    return (
        (failures - caught) * costs.failure
        + caught * costs.planned_repair
        + false_alarms * costs.inspection
    )


def machine_months(rows: pd.DataFrame, fleet: Fleet) -> float:
    """For how long the machines were watched, added up, in months of 30 days."""
    spans = rows.groupby("machine_id", observed=True)["event_timestamp"].agg(["min", "max"])
    apart = (spans["max"] - spans["min"]).dt.total_seconds().sum()
    return float((apart + len(spans) * fleet.step.total_seconds()) / MONTH.total_seconds())


def choose_threshold(
    rows: pd.DataFrame, scores: Floats, failures: pd.DataFrame, fleet: Fleet
) -> Threshold:
    """Choose the threshold of least cost, and of equal ones the highest.

    Candidates are scores that occur, so never to raise an alarm is not among them: a model that
    is cheapest when silent is for the gate to refuse.

    Raises:
        DataError: `rows` hold no failure to weigh the false alarms against.
    """
    line = _Line.of(rows, fleet)
    ordered = line.arrange(scores)
    happened = line.place(failures)
    windows = line.windows(happened)
    if not len(windows.failures):
        raise DataError(
            f"fleet '{fleet.name}': no failure falls into the {len(rows):,} rows that the threshold"
            " is chosen on; give them a longer time or a larger fleet"
        )
    true = line.following(happened) >= 0
    peaks = windows.highest(ordered)
    curve = []
    for candidate in _candidates(ordered, true, peaks):
        caught = int((peaks >= candidate).sum())
        false = int((~true[line.alarms(ordered >= candidate)]).sum())
        cost = expected_cost(len(peaks), caught, false, fleet.costs)
        curve.append(
            CostPoint(threshold=candidate, failures_caught=caught, false_alarms=false, cost=cost)
        )
    best = min(curve, key=lambda point: (point.cost, -point.threshold))
    return Threshold(value=best.threshold, cost=best.cost, failures=len(peaks), curve=tuple(curve))


def _candidates(scores: Floats, true: Booleans, peaks: Floats, count: int = 100) -> list[float]:
    """At most `count` scores that occur, where the costs change.

    A failure is lost just above the highest score of its window, so those peaks come first; the
    scores of cut-offs before failures fill the gaps and the low end.
    """
    distinct: Floats = np.unique(scores)
    if len(distinct) > count:
        shares = np.linspace(0, 1, count // 2)
        pools: Sequence[Floats] = (peaks, scores[true])
        distinct = np.unique([np.quantile(pool, shares, method="nearest") for pool in pools])
    return [float(score) for score in distinct]


@dataclass(frozen=True)
class _Windows:
    """The failures that count, and where their windows lie among the cut-offs of a line.

    Cut-offs `first` up to, not including, `last` are in [failure - horizon, failure - lead time];
    from there up to `end` they come too late.
    """

    failures: Integers
    first: Integers
    last: Integers
    end: Integers

    def highest(self, ordered: Floats) -> Floats:
        """The highest score in each window."""
        # reduceat takes pairs of bounds; what lies between two windows is every other result.
        bounds = np.stack([self.first, self.last], axis=1).ravel()
        padded = np.append(ordered, -np.inf)
        highest: Floats = np.maximum.reduceat(padded, bounds)[::2]
        return highest


@dataclass(frozen=True)
class _Line:
    """The cut-offs of all machines, end to end on one axis of microseconds.

    Each machine has a stretch of its own, and the stretches lie more than two horizons apart, so
    that no search from a cut-off or a failure runs into the next machine. 64 bits hold about
    290,000 machine-years. `order` is the position in the frame of each cut-off on the line.
    """

    places: Integers
    order: Integers
    machines: pd.Index
    origin: int
    stride: int
    horizon: int
    lead_time: int

    @classmethod
    def of(cls, rows: pd.DataFrame, fleet: Fleet) -> "_Line":
        codes, machines = pd.factorize(rows["machine_id"], sort=True)
        times = pd.DatetimeIndex(rows["event_timestamp"]).as_unit("us").asi8
        horizon = fleet.horizon // MICROSECOND
        origin = int(times.min()) if len(times) else 0
        stride = (int(times.max()) if len(times) else 0) - origin + 3 * horizon
        places = codes.astype(np.int64) * stride + (times - origin)
        order = np.argsort(places, kind="stable")
        return cls(
            places=places[order],
            order=order,
            machines=pd.Index(machines),
            origin=origin,
            stride=stride,
            horizon=horizon,
            lead_time=fleet.lead_time // MICROSECOND,
        )

    def arrange(self, scores: Floats) -> Floats:
        """`scores` in the order of the line, after a look at whether they are scores."""
        if len(scores) != len(self.order):
            raise DataError(f"{len(scores):,} scores do not fit {len(self.order):,} rows")
        if np.isnan(scores).any():
            raise DataError("a score is not a number; look at what the model was given")
        arranged: Floats = np.asarray(scores, dtype=np.float64)[self.order]
        return arranged

    def place(self, failures: pd.DataFrame) -> Integers:
        """The failures of these machines on the line, rising, each moment once."""
        codes = self.machines.get_indexer(pd.Index(failures["machine_id"]))
        times = pd.DatetimeIndex(failures["timestamp"]).as_unit("us").asi8 - self.origin
        # Those further off can neither be announced nor missed by any cut-off here.
        near = (codes >= 0) & (times > 0) & (times <= self.stride - 2 * self.horizon)
        happened: Integers = np.unique(codes[near].astype(np.int64) * self.stride + times[near])
        return happened

    def times(self, places: Integers) -> NDArray[np.datetime64]:
        """The moments, in UTC, of places on the line."""
        return (places % self.stride + self.origin).astype("datetime64[us]")

    @cached_property
    def _answered(self) -> Integers:
        """For each cut-off, the first one that lies a horizon or more after it."""
        return np.searchsorted(self.places, self.places + self.horizon)

    def alarms(self, flagged: Booleans) -> Integers:
        """Which cut-offs raise an alarm, of those that are flagged."""
        positions = np.flatnonzero(flagged)
        following = np.searchsorted(positions, self._answered[positions]).tolist()
        raised = []
        current = 0
        while current < len(following):
            raised.append(current)
            current = following[current]
        return positions[raised]

    def following(self, happened: Integers) -> Integers:
        """For each cut-off, which failure comes next within the horizon; -1 if none does."""
        following = np.searchsorted(happened, self.places, side="right")
        never = np.iinfo(np.int64).max
        soon = np.append(happened, never)[following] - self.places <= self.horizon
        return np.where(soon, following, -1)

    def windows(self, happened: Integers) -> _Windows:
        """Where the windows of those failures lie that have cut-offs in theirs."""
        first = np.searchsorted(self.places, happened - self.horizon)
        last = np.searchsorted(self.places, happened - self.lead_time, side="right")
        end = np.searchsorted(self.places, happened)
        asked = last > first
        return _Windows(happened[asked], first[asked], last[asked], end[asked])
