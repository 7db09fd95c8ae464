"""What is logged: answers of the service, and what became of the machines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """Answers for n machines by one release, with the matrix that the model saw.

    Attributes:
        release: the version of the model.
        role: what the release was there for, such as `champion`, `canary` or `shadow`.
        feature_service: what the features were read from.
        source: `store` or `readings`.
        columns: the names of the matrix's columns, as the encoder gives them.
        views: the feature views whose event times are in `events`.
        ids: of the predictions.
        machines: which were asked about.
        asked_at: when each request came, int64 microseconds since 1970 UTC, shape (n,).
        as_of: the time that each request is about, likewise.
        latency: seconds from a request's arrival to its score, float64, shape (n,).
        statuses: as `serving.predictions.OUTCOMES` has them.
        threshold: at which a probability is an alarm.
        probabilities: float64, shape (n,), NaN where nothing was predicted.
        matrix: float32, shape (n, columns), NaN where a feature was missing.
        events: event times, int64 microseconds since 1970 UTC, shape (n, views), or `NEVER`.
    """

    release: int
    role: str
    feature_service: str
    source: str
    columns: tuple[str, ...]
    views: tuple[str, ...]
    ids: Sequence[str]
    machines: Sequence[str]
    asked_at: NDArray[np.int64]
    as_of: NDArray[np.int64]
    latency: NDArray[np.float64]
    statuses: Sequence[str]
    threshold: float
    probabilities: NDArray[np.float64]
    matrix: NDArray[np.float32]
    events: NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What somebody saw of a machine at `observed_at` (microseconds since 1970 UTC).

    The same machine and time again replaces what was said before. `prediction` is the id of the
    prediction that it is said of, if it is said of one.
    """

    machine: str
    observed_at: int
    failed: bool
    component: str | None = None
    prediction: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Loss:
    """That records were not logged, found at `at` (microseconds since 1970 UTC).

    `records` is how many; None where nobody can tell.
    """

    at: int
    records: int | None
    reason: str


@dataclass(frozen=True)
class Layout:
    """The names that the numbers of predictions go by, in their order; told once, not per row."""

    columns: tuple[str, ...]
    views: tuple[str, ...]
