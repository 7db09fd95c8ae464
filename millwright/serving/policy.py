"""What becomes of a machine whose features are not all there: see `predictions` for the words."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from millwright.serving.plan import Plan
from millwright.serving.predictions import OUTCOMES
from millwright.serving.rows import MISSING, NEVER, PRESENT, STALE, FeatureRows

OK, DEGRADED, GONE_STALE, GONE_MISSING, UNKNOWN = range(len(OUTCOMES))
LAST_PREDICTED = DEGRADED  # those after it are not


@dataclass(frozen=True)
class Policy:
    """Whether a machine of which some views are stale or missing is predicted all the same."""

    stale: Literal["degrade", "refuse"] = "degrade"
    missing: Literal["degrade", "refuse"] = "degrade"


def judged(rows: FeatureRows, plan: Plan, policy: Policy) -> NDArray[np.int8]:
    """What becomes of each machine, shape (n,): places in OUTCOMES."""
    present = rows.states == PRESENT
    whole = present.all(axis=1)
    if whole.all():
        return np.zeros(len(rows), np.int8)
    stale = (rows.states == STALE).any(axis=1)
    missing = (rows.states == MISSING).any(axis=1)
    told = present[:, plan.timed].any(axis=1)  # of what it does, and not of what it is alone
    refused_stale = stale & (~told | (policy.stale == "refuse"))
    refused_missing = missing & (~told | (policy.missing == "refuse"))
    return np.select(
        [whole, (rows.events == NEVER).all(axis=1), refused_stale, refused_missing],
        [OK, UNKNOWN, GONE_STALE, GONE_MISSING],
        DEGRADED,
    ).astype(np.int8)
