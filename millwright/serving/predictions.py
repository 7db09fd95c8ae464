"""What is asked of the service and what it answers: a pure function of release and features.

The policy:

- A view of which a machine has no row, or one that is older than its time to live, counts as null
  features. Null never becomes zero: the model has learned what a missing value means.
- A machine with such a view is predicted and marked `degraded`.
- A machine without one view that counts is `unknown` and not predicted: there is nothing to
  predict from.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
from pydantic import AwareDatetime, Field, field_validator

from millwright.configuration import Strict
from millwright.errors import InputError, MillwrightError
from millwright.online import OnlineFeatures
from millwright.release import Release

MOST_MACHINES = 1_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Machine = Annotated[str, Field(min_length=1, max_length=200, strict=True)]
Outcome = Literal["ok", "degraded", "unknown"]


class PredictionRequest(Strict):
    """Which machines to predict, and as of when: now unless an ISO time with its zone is given."""

    machines: tuple[Machine, ...] = Field(min_length=1, max_length=MOST_MACHINES)
    as_of: AwareDatetime | None = Field(default=None, ge=EPOCH)

    @field_validator("as_of", mode="before")
    @classmethod
    def _is_iso(cls, value: object) -> object:
        """Refuse the numbers that pydantic would take for seconds or milliseconds."""
        if value is not None and not (isinstance(value, str) and "T" in value.upper()):
            raise ValueError("must be an ISO time with its zone, such as 2025-01-31T12:00:00Z")
        return value


class ViewState(Strict):
    """What a feature view had for a machine; `age` is in seconds, from `event_time` to as_of.

    A row of the future, by a clock that is wrong, is missing and has a negative age.
    """

    status: Literal["present", "stale", "missing"]
    event_time: datetime | None
    age: float | None


class Prediction(Strict):
    """The answer for one machine; nothing is predicted of one that is unknown."""

    machine: str
    status: Outcome
    probability: float | None
    alarm: bool | None
    views: dict[str, ViewState]


class PredictionAnswer(Strict):
    """One prediction for each machine in the order asked for, all by one release."""

    model: str
    version: int
    feature_service: str
    threshold: float
    as_of: datetime
    predictions: tuple[Prediction, ...]


def moment(asked: PredictionRequest, now: datetime) -> datetime:
    """The time that a request is about, in UTC.

    Raises:
        InputError: it is later than `now`.
    """
    if asked.as_of is None:
        return now
    if asked.as_of > now:
        raise InputError("as_of is in the future; leave it out to ask about now")
    return asked.as_of.astimezone(UTC)


def answer(
    release: Release, features: OnlineFeatures, asked: PredictionRequest, as_of: datetime
) -> PredictionAnswer:
    """Predict every machine that was asked for.

    Raises:
        InputError: a machine has features that are newer than the time asked about.
        MillwrightError: the features are not those that the release needs.
    """
    if asked.as_of is not None:
        _refuse_what_came_later(features, asked.machines, as_of)
    views = [
        {view: _state(features, view, row, as_of) for view in features.events}
        for row in range(len(asked.machines))
    ]
    outcomes = [_outcome(state.status for state in each.values()) for each in views]
    probabilities = _probabilities(release, features, outcomes)
    manifest = release.manifest
    return PredictionAnswer(
        model=manifest.name,
        version=manifest.version,
        feature_service=manifest.feature_service,
        threshold=manifest.threshold,
        as_of=as_of,
        predictions=tuple(
            Prediction(
                machine=machine,
                status=outcome,
                probability=probability,
                alarm=None if probability is None else probability >= manifest.threshold,
                views=states,
            )
            for machine, outcome, probability, states in zip(
                asked.machines, outcomes, probabilities, views, strict=True
            )
        ),
    )


def check_features(release: Release, features: OnlineFeatures) -> None:
    """See to it that every feature of the release was read.

    Raises:
        MillwrightError: one was not.
    """
    lacking = set(release.manifest.encoder.features) - set(features.table.column_names)
    if lacking:
        raise MillwrightError(
            f"feature service '{release.manifest.feature_service}' has no '{min(lacking)}', which "
            f"release v{release.manifest.version} needs; publish it (feast apply) or train again"
        )


def _state(features: OnlineFeatures, view: str, row: int, as_of: datetime) -> ViewState:
    event = features.events[view][row]
    return ViewState(
        status=features.statuses[view][row],
        event_time=event,
        age=None if event is None else (as_of - event).total_seconds(),
    )


def _outcome(statuses: Iterable[str]) -> Outcome:
    counts = {status == "present" for status in statuses}
    if counts == {True}:
        return "ok"
    return "degraded" if True in counts else "unknown"


def _probabilities(
    release: Release, features: OnlineFeatures, outcomes: list[Outcome]
) -> list[float | None]:
    """A probability for each machine; those that are unknown do not reach the model."""
    check_features(release, features)
    found: list[float | None] = [None] * len(outcomes)
    known = [row for row, outcome in enumerate(outcomes) if outcome != "unknown"]
    if known:
        frame = features.table.take(known).to_pandas()
        scores = release.score(release.manifest.encoder.encode(frame))
        for row, score in zip(known, np.asarray(scores).tolist(), strict=True):
            found[row] = score
    return found


def _refuse_what_came_later(
    features: OnlineFeatures, machines: tuple[str, ...], as_of: datetime
) -> None:
    """The online store keeps the newest row alone: what was before it can no longer be said.

    Such a machine was perhaps well known then, so that `unknown` would be no honest answer.
    """
    for view, events in features.events.items():
        for machine, event in zip(machines, events, strict=True):
            if event is not None and event > as_of:
                raise InputError(
                    f"machine '{machine}' has newer features in '{view}', of "
                    f"{event.isoformat()}, and the online store keeps no older ones; ask about "
                    "that time or a later one"
                )
