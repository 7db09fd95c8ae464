"""Features of some machines in columns, whichever way they came, and what each view is worth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NEVER = -(2**63)  # the event time of a view without a row
Status = Literal["present", "stale", "missing"]
STATUSES: tuple[Status, ...] = ("present", "stale", "missing")
PRESENT, STALE, MISSING = range(3)

Moments = NDArray[np.int64]
States = NDArray[np.int8]


@dataclass(frozen=True)
class FeatureRows:
    """The features of n machines, null where a view is not present.

    `columns` has shape (n,) for each feature: float32 with NaN for null, or objects that are text
    or None. `events` and `states` have shape (n, views): of when each view's row is, in
    microseconds since 1970 or NEVER, and which of STATUSES it has.
    """

    columns: Mapping[str, NDArray[Any]]
    events: Moments
    states: States
    views: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.events)


def states(events: Moments, lives: Moments, as_of: Moments) -> States:
    """What rows are worth at `as_of`, shape (n,): shape (n, views), as `events`.

    A row is stale when it is older than its view's time to live, shape (views,) in microseconds.
    One that came true after `as_of` is missing: the store has none of before any more.
    """
    moments = as_of[:, None]
    missing = (events == NEVER) | (events > moments)
    ages = moments - np.where(missing, moments, events)
    return np.where(missing, MISSING, np.where(ages > lives, STALE, PRESENT)).astype(np.int8)
