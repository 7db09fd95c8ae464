"""What the endpoints beside prediction answer, and are asked to change."""

from datetime import datetime
from typing import Literal

from millwright.configuration import Strict
from millwright.serving.predictions import AnsweringRelease, Prediction
from millwright.traffic import Traffic, Version


class ChampionRequest(Strict):
    """The release that is to be the champion."""

    version: Version


class RollbackRequest(Strict):
    """The champion to roll back from: the same request again finds another, and is refused."""

    version: Version


class FleetAnswer(Strict):
    """How many machines are how, what the decisions cost on average, and the most urgent machines.

    Where nothing is predicted there is no model.
    """

    model: str | None = None
    as_of: datetime
    currency: str | None = None
    releases: tuple[AnsweringRelease, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    machines: int
    outcomes: dict[str, int]
    alarms: int
    expected_cost: float


class ListedRelease(Strict):
    """A release, and the roles in which it answers; of one that is broken nothing is known."""

    version: int
    roles: tuple[str, ...]
    broken: bool
    learned_until: datetime | None = None
    fingerprint: str | None = None
    feature_service: str | None = None
    threshold: float | None = None
    dataset_version: str | None = None
    git_revision: str | None = None
    mlflow_run: str | None = None


class ReleasesAnswer(Strict):
    """Every release of the fleet; `refused` says why something is not in use that should be."""

    fleet: str
    environment: str
    refused: str | None
    traffic: Traffic
    releases: tuple[ListedRelease, ...]


class DescriptionAnswer(Strict):
    """What this is and where to go from here."""

    service: str
    environment: str
    fleet: str
    openapi: str


class HealthAnswer(Strict):
    """That the process lives."""

    status: Literal["alive"]


class UsedRelease(Strict):
    """The champion."""

    model: str
    version: int


class Role(Strict):
    """A release and what it answers."""

    role: str
    version: int


class Freshness(Strict):
    """The newest row of a view among some machines; `age` in seconds."""

    newest: datetime | None
    age: float | None
    fresh: bool


class ReadyAnswer(Strict):
    """Whether predictions can be had, or the `reason` why not, and from what they would be made."""

    ready: bool
    reason: str | None
    refused: str | None
    release: UsedRelease | None
    releases: tuple[Role, ...]
    traffic: Traffic | None = None
    features: dict[str, Freshness]
    code: str
