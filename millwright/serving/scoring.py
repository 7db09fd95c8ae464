"""From machines to predictions: questions are routed, read, scored and logged together."""

import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from millwright.encoder import Matrix, Scores
from millwright.errors import InputError, MillwrightError
from millwright.serving.features import OnlineReader, read
from millwright.serving.policy import DEGRADED, LAST_PREDICTED, OK, Policy, judged
from millwright.serving.predictions import EPOCH
from millwright.serving.releases import Releases
from millwright.serving.routes import Loaded, Routes
from millwright.serving.rows import NEVER, FeatureRows, Moments, newest

if TYPE_CHECKING:  # Arrow, which most requests do without
    from millwright.serving.sent import Readings

NO_NUMBER = "release v{} predicts what is no number; roll back: python -m millwright releases"


class NoReleaseError(MillwrightError):
    """There is nothing to predict with: no release yet, or one that predicts no number."""


@dataclass(frozen=True)
class Question:
    """What one request wants to know; times are microseconds since 1970.

    One that is `dated` names its time itself, and is refused where it cannot be answered any more.
    `began` is the request's own clock. `sent` are readings that came with the request.
    """

    machines: Sequence[str]
    as_of: int
    dated: bool = False
    tag: str | None = None
    asked_at: int = 0
    began: float = field(default_factory=time.perf_counter)
    sent: "Readings | None" = None


@dataclass(frozen=True)
class Scored:
    """Some machines as one release has scored them, in one role: what is answered and logged.

    All arrays have shape (n,), but `matrix` (n, columns). `probabilities` are NaN where nothing is
    predicted; `outcomes` are places in `predictions.OUTCOMES`.
    """

    loaded: Loaded
    role: str
    ids: Sequence[str]
    machines: Sequence[str]
    as_of: Moments
    asked_at: Moments
    latency: NDArray[np.float64]
    rows: FeatureRows
    matrix: Matrix
    outcomes: NDArray[np.int8]
    probabilities: Scores
    source: str


@dataclass(frozen=True)
class Part:
    """Where the answer for one machine of a question stands."""

    scored: Scored
    row: int


Answer = list[Part]
Log = Callable[[Scored], None]


class Scoring:
    """Answers questions by the releases in use; `log` gets what was scored before it is told."""

    def __init__(self, releases: Releases, reader: OnlineReader, policy: Policy, log: Log) -> None:
        self.releases = releases
        self.reader = reader
        self.policy = policy
        self._log = log
        self._ids = Ids()

    def score(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions now, in this thread; all of them, or none.

        Raises:
            NoReleaseError: no release is loaded, or one predicts what is no number.
            InputError: a tag is unknown, or a time was before what the store has.
            MillwrightError: the features cannot be read.
        """
        routes = in_use(self.releases)
        answers: list[list[Part | None]] = [[None] * len(each.machines) for each in questions]
        found = []
        for (loaded, role, sent), places in _groups(routes, questions).items():
            scored = self._scored(loaded, role, sent, questions, places)
            found.append(scored)
            for row, (question, place) in enumerate(places):
                answers[question][place] = Part(scored, row)
        for scored in found:  # when all can be answered, so that no answer is logged twice
            self._log(scored)
            self._afterwards(routes, scored)
        return [[part for part in answer if part] for answer in answers]

    def _scored(
        self,
        loaded: Loaded,
        role: str,
        sent: "Readings | None",
        questions: Sequence[Question],
        places: Sequence[tuple[int, int]],
    ) -> Scored:
        """One release's part of some questions, or of one with readings that were `sent`."""
        machines = [questions[question].machines[place] for question, place in places]
        asked = [question for question, _ in places]
        if sent:
            as_of = sent.as_of
            rows = self._with_readings(loaded, sent)
        else:
            as_of = np.array([questions[each].as_of for each in asked], np.int64)
            rows = read(self.reader, loaded.plan, machines, as_of)
            dated = [questions[each].dated for each in asked]
            if any(dated):
                _refuse_what_came_later(rows, machines, as_of, np.array(dated))
        outcomes, matrix, probabilities = predicted(loaded, rows, self.policy)
        if sent and loaded.recipe:
            outcomes[sent.short(loaded.recipe) & (outcomes == OK)] = DEGRADED
        now = time.perf_counter()
        return Scored(
            loaded=loaded,
            role=role,
            ids=self._ids.some(len(machines)),
            machines=machines,
            as_of=as_of,
            asked_at=np.array([questions[each].asked_at for each in asked], np.int64),
            latency=np.array([now - questions[each].began for each in asked]),
            rows=rows,
            matrix=matrix,
            outcomes=outcomes,
            probabilities=probabilities,
            source="readings" if sent else "store",
        )

    def _with_readings(self, loaded: Loaded, sent: "Readings") -> FeatureRows:
        """The features of what was sent, and of the store where that is newer or says more."""
        made = loaded.engine.features(sent)
        kept = read(self.reader, loaded.plan, sent.machines, sent.as_of)
        # What the store has of later is no answer about this time.
        events = np.where(kept.events > sent.as_of[:, None], NEVER, kept.events)
        features = {view.name: tuple(view.features) for view in loaded.plan.views}
        return newest(made, replace(kept, events=events), features)

    def _afterwards(self, routes: Routes, scored: Scored) -> None:
        """What else is to be done about what was scored: nothing here."""


def in_use(releases: Releases) -> Routes:
    """The releases that answer at this moment.

    Raises:
        NoReleaseError: none is loaded.
    """
    routes = releases.routes
    if routes is None:
        raise NoReleaseError("no release is loaded; /ready says why")
    return routes


class Ids:
    """Names for predictions: unique, in the order in which they are made."""

    def __init__(self) -> None:
        self._head = secrets.token_hex(8)
        self._next = itertools.count()

    def some(self, count: int) -> list[str]:
        """So many names, of 26 characters."""
        return [f"{self._head}{number:010x}" for number in itertools.islice(self._next, count)]


def _groups(
    routes: Routes, questions: Sequence[Question]
) -> dict[tuple[Loaded, str, "Readings | None"], list[tuple[int, int]]]:
    """Which machines of which questions each release answers for."""
    groups: dict[tuple[Loaded, str, Readings | None], list[tuple[int, int]]] = {}
    for number, question in enumerate(questions):
        if question.sent:
            loaded, role = routes.of_readings(question.tag)
            every = [(number, place) for place in range(len(question.machines))]
            groups[loaded, role, question.sent] = every
            continue
        for place, machine in enumerate(question.machines):
            loaded, role = routes.of(machine, question.tag)
            groups.setdefault((loaded, role, None), []).append((number, place))
    return groups


def _refuse_what_came_later(
    rows: FeatureRows, machines: Sequence[str], as_of: Moments, dated: NDArray[np.bool_]
) -> None:
    """The online store keeps the newest row alone: what was before it can no longer be said.

    Such a machine was perhaps well known then, so that `unknown` would be no honest answer.
    """
    later = np.argwhere((rows.events > as_of[:, None]) & dated[:, None])
    if len(later):
        row, view = later[0]
        since = EPOCH + timedelta(microseconds=int(rows.events[row, view]))
        raise InputError(
            f"machine '{machines[row]}' has newer features in '{rows.views[view]}', of "
            f"{since.isoformat()}, and the online store keeps no older ones; ask about that time "
            "or a later one"
        )


def predicted(
    loaded: Loaded, rows: FeatureRows, policy: Policy
) -> tuple[NDArray[np.int8], Matrix, Scores]:
    """What becomes of each machine, what the model sees of it, and its probability.

    The first are places in OUTCOMES; the last is NaN where nothing is predicted.

    Raises:
        NoReleaseError: the release predicts what is no number.
    """
    outcomes = judged(rows, loaded.plan, policy)
    matrix = loaded.matrix(rows)
    known = outcomes <= LAST_PREDICTED
    if known.all():
        found = probabilities = loaded.release.score(matrix)
    else:
        probabilities = np.full(len(rows), np.nan)
        found = loaded.release.score(matrix[known]) if known.any() else probabilities[:0]
        probabilities[known] = found
    if not np.isfinite(found).all():
        raise NoReleaseError(NO_NUMBER.format(loaded.version))
    return outcomes, matrix, probabilities
