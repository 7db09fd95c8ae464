"""What is asked of the service and what it answers.

The policy, of a machine as of a time:

- A view of which it has no row, or one that is older than its time to live, counts as null
  features. Null never becomes zero: the model has learned what a missing value means.
- With all its views it is predicted: `ok`.
- With some view stale or missing it is predicted and marked `degraded`, as long as one view of
  readings counts; or refused as `stale` or `missing`, if the environment's settings say so.
- Without one view of readings that counts it is not predicted, for what it is says nothing of how
  it does: `stale` if there were rows once, `missing` if only other views have any, and `unknown` if
  the store has none.
- A store that cannot be reached is an answer of its own, 503, for the whole request.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, FailFast, Field

from millwright.configuration import Strict
from millwright.errors import InputError
from millwright.serving.rows import Status
from millwright.traffic import Tag

MOST_MACHINES = 1_000
MOST_REASONS = 20
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STORABLE = r"^[^\x00]*$"


def _iso(value: object) -> object:
    """Refuse the numbers that pydantic would take for seconds or milliseconds."""
    if not (isinstance(value, str) and "T" in value.upper()):
        raise ValueError("must be an ISO time with its zone, such as 2025-01-31T12:00:00Z")
    return value


def _countable(moment: datetime) -> datetime:
    """Refuse what microseconds since 1970 do not count."""
    if moment < EPOCH:
        raise ValueError("must be 1970 or later")
    return moment


def _storable(text: str) -> str:
    """Refuse what PostgreSQL would, and with it what others have logged besides."""
    if "\0" in text:
        raise ValueError("must be without the character NUL")
    return text


Text = Annotated[
    str,
    Field(min_length=1, max_length=200, strict=True, json_schema_extra={"pattern": STORABLE}),
    AfterValidator(_storable),
]
Machine = Text
Moment = Annotated[AwareDatetime, BeforeValidator(_iso), AfterValidator(_countable)]
Outcome = Literal["ok", "degraded", "stale", "missing", "unknown"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "degraded", "stale", "missing", "unknown")


class PredictionRequest(Strict):
    """Which machines to predict, and as of when: now unless an ISO time with its zone is given.

    `tag` asks the release that traffic names so, and `explain` for so many features that moved
    each probability most.
    """

    machines: Annotated[tuple[Machine, ...], FailFast()] = Field(
        min_length=1, max_length=MOST_MACHINES
    )
    as_of: Moment | None = None
    tag: Tag | None = None
    explain: int = Field(default=0, ge=0, le=MOST_REASONS, strict=True)


class ViewState(Strict):
    """What a feature view had for a machine; `age` is in seconds, from `event_time` to as_of.

    A row of the future, by a clock that is wrong, is missing and has a negative age.
    """

    status: Status
    event_time: datetime | None
    age: float | None


class Contribution(Strict):
    """How far a column of the model moved the log odds of a failure, and what it was."""

    feature: str
    value: float | None
    contribution: float


class Prediction(Strict):
    """The answer for one machine; null where nothing is predicted.

    `id` names it in the prediction log and in feedback; an overview of the fleet is in no log, and
    has none. `expected_cost` is what the decision, `alarm`, costs on average if the probability is
    right, in the answer's currency.
    """

    id: str | None
    machine: str
    status: Outcome
    probability: float | None
    alarm: bool | None
    expected_cost: float | None
    version: int
    role: str
    views: dict[str, ViewState]
    contributions: tuple[Contribution, ...] | None = None


class AnsweringRelease(Strict):
    """A release that had a part in the answer."""

    version: int
    feature_service: str
    threshold: float


class PredictionAnswer(Strict):
    """One prediction for each machine in the order asked for, each by exactly one release."""

    model: str
    as_of: datetime
    currency: str
    releases: tuple[AnsweringRelease, ...]
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


def micros(moment: datetime) -> int:
    """A time in microseconds since 1970."""
    return (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)
