"""What the service writes to the prediction log, and reads from it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from pydantic import FailFast, Field

from millwright.configuration import Strict
from millwright.prediction_log.records import Outcome, ScoredBatch
from millwright.serving.predictions import OUTCOMES, Machine, Moment, Text, micros
from millwright.serving.scoring import Scored

MOST_OUTCOMES = 1_000


class ReportedOutcome(Strict):
    """What somebody saw of a machine: that it failed, or had not failed by then.

    The same machine and time again replaces what was said before. `prediction` is the id of the
    prediction that it answers, if it answers one.
    """

    machine: Machine
    observed_at: Moment
    failed: bool = Field(strict=True)
    component: Text | None = None
    prediction: Text | None = None
    note: Text | None = None


class FeedbackRequest(Strict):
    """Outcomes, to be joined to their predictions."""

    outcomes: Annotated[tuple[ReportedOutcome, ...], FailFast()] = Field(
        min_length=1, max_length=MOST_OUTCOMES
    )


class FeedbackAnswer(Strict):
    """How many outcomes were taken; they are in the log within seconds."""

    taken: int


class LoggedPrediction(Strict):
    """A prediction as it was logged, with the features that the model saw; null where none was."""

    id: str
    asked_at: datetime
    as_of: datetime
    status: str
    probability: float | None
    alarm: bool | None
    threshold: float
    release: int
    role: str
    source: str
    latency: float
    features: dict[str, float | None]
    event_times: dict[str, datetime | None]


class HistoryAnswer(Strict):
    """The last predictions of a machine, the newest first."""

    machine: str
    predictions: tuple[LoggedPrediction, ...]


def batch(scored: Scored) -> ScoredBatch:
    """What was scored, as it is logged."""
    manifest = scored.loaded.release.manifest
    return ScoredBatch(
        release=manifest.version,
        role=scored.role,
        feature_service=manifest.feature_service,
        source=scored.source,
        columns=scored.loaded.columns,
        views=scored.rows.views,
        ids=scored.ids,
        machines=scored.machines,
        asked_at=scored.asked_at,
        as_of=scored.as_of,
        latency=scored.latency,
        statuses=[OUTCOMES[place] for place in scored.outcomes.tolist()],
        threshold=manifest.threshold,
        probabilities=scored.probabilities,
        matrix=scored.matrix,
        events=scored.rows.events,
    )


def outcomes(reported: Sequence[ReportedOutcome]) -> list[Outcome]:
    """What was reported, as it is logged."""
    return [
        Outcome(
            each.machine, micros(each.observed_at), each.failed, each.component, each.prediction,
            each.note,
        )
        for each in reported
    ]  # fmt: skip


def answer(machine: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The history of a machine as it is answered; what is no finite number is null."""
    return {"machine": machine, "predictions": [_told(row) for row in rows]}


def _told(row: dict[str, Any]) -> dict[str, Any]:
    names = LoggedPrediction.model_fields
    told = {name: row[name] for name in names if name in row}
    told["id"] = row["prediction_id"]
    told["features"] = {
        name: value if value is not None and np.isfinite(value) else None
        for name, value in row["features"].items()
    }
    return told
