"""Splitting by time: an untouched test window at the end, and validation folds before it.

Between the last cut-off that a model learns from and the first that judges it lies a gap of the
horizon, so that no label of the one reaches into the other.
"""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from millwright.configuration import Strict
from millwright.errors import DataError
from millwright.fleet import Fleet

Mask = NDArray[np.bool_]


class Folds(Strict):
    """How the time before the test window is cut for validation.

    The folds together make up the last `share` of the development window. The model of each
    learns from everything before it, less the gap.
    """

    count: int = Field(default=3, gt=0)
    share: float = Field(default=0.6, gt=0, lt=1)


@dataclass(frozen=True)
class Fold:
    """Learn from cut-offs up to `train_end`; judge on `start` < cut-off <= `end`. All UTC."""

    train_end: pd.Timestamp
    start: pd.Timestamp
    end: pd.Timestamp

    def training(self, moments: pd.Series) -> Mask:
        """Which of `moments` the fold's model may learn from."""
        return np.asarray(moments <= self.train_end)

    def validation(self, moments: pd.Series) -> Mask:
        """Which of `moments` judge the fold's model."""
        return np.asarray((moments > self.start) & (moments <= self.end))


@dataclass(frozen=True)
class Split:
    """The development window with its folds, and the test window: everything after `test.start`."""

    folds: tuple[Fold, ...]
    test: Fold

    def validation(self, moments: pd.Series) -> Mask:
        """Which of `moments` lie in any validation fold."""
        masks = [fold.validation(moments) for fold in self.folds]
        return np.asarray(np.logical_or.reduce(masks))


def split_by_time(moments: pd.Series, end: pd.Timestamp, fleet: Fleet, folds: Folds) -> Split:
    """Cut the time of the cut-offs `moments` into folds and the test window.

    Args:
        moments: the cut-offs' times (UTC).
        end: the time of the last reading; the test window is the fleet's `test_window` before it.
        fleet: gives the test window, the horizon (the gap) and the step.
        folds: how to cut what lies before.

    Raises:
        DataError: what lies before the test window is too short for the folds and their gaps.
    """
    gap: timedelta = fleet.horizon
    test_start = end - fleet.test_window
    first = moments.min()
    development = test_start - gap - first
    length = (development * folds.share / folds.count).floor(fleet.step)
    if length < gap or first + development * (1 - folds.share) - gap <= first:
        raise DataError(
            f"fleet '{fleet.name}' has telemetry from {first:%Y-%m-%d %H:%M} to "
            f"{end:%Y-%m-%d %H:%M}: too short for a test window of "
            f"{fleet.label(fleet.test_window)} and {folds.count} validation folds with gaps of "
            f"{fleet.label(gap)}; ingest more or shorten 'test_window' in the fleet file"
        )
    learned_until = test_start - gap
    starts = [learned_until - length * (folds.count - index) for index in range(folds.count)]
    return Split(
        folds=tuple(Fold(start - gap, start, start + length) for start in starts),
        test=Fold(learned_until, test_start, end),
    )
