"""Questions that wait are answered together, in threads of their own.

While a thread works on some requests others come in, and they are its next batch: so a lone request
never waits for company, and under load one round trip and one call of the model serve many. Large
requests have a thread of their own, those with readings another, and shadows a third, so that none
of them delays a small one.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, Full, Queue, SimpleQueue
from typing import Any

import numpy as np

from millwright.errors import InputError, MillwrightError
from millwright.serving.features import OnlineReader, read
from millwright.serving.plan import MistypedError
from millwright.serving.policy import Policy
from millwright.serving.releases import Releases
from millwright.serving.routes import Loaded, Routes
from millwright.serving.scoring import (
    Answer,
    Log,
    NoReleaseError,
    Question,
    Scored,
    Scoring,
    predicted,
)
from millwright.traffic import SHADOW

TOGETHER = 512  # machines that are scored at once, unless one request asks for more
LARGE = 64  # machines; a request for more waits in another line
MOST_SHADOWED = 1_000  # batches that wait for their shadows; more are left out, and counted


@dataclass(frozen=True)
class Waiting:
    """A question, and whether somebody still waits for its answer."""

    question: Question
    abandoned: Callable[[], bool]
    ticket: Any


Done = Callable[[Sequence[tuple[Waiting, Answer | Exception]]], None]


class Scorer(Scoring):
    """Scores what is asked in threads of its own; `done` is called in one of them."""

    def __init__(
        self, releases: Releases, reader: OnlineReader, policy: Policy, log: Log, done: Done
    ) -> None:
        super().__init__(releases, reader, policy, log)
        self.unshadowed = 0
        self._done = done
        self._shadowed: Queue[tuple[tuple[Loaded, ...], Scored]] = Queue(MOST_SHADOWED)
        self._small: SimpleQueue[Waiting] = SimpleQueue()
        self._large: SimpleQueue[Waiting] = SimpleQueue()
        self._sent: SimpleQueue[Waiting] = SimpleQueue()
        for line in (self._small, self._large, self._sent):
            threading.Thread(target=self._answer, args=(line,), daemon=True).start()
        threading.Thread(target=self._shadow, daemon=True).start()

    def ask(self, waiting: Waiting) -> None:
        """Have a question answered by `done`."""
        if waiting.question.sent:
            self._sent.put(waiting)
        else:
            large = len(waiting.question.machines) > LARGE
            (self._large if large else self._small).put(waiting)

    def _answer(self, line: "SimpleQueue[Waiting]") -> None:
        while True:
            batch = [each for each in _waiting(line) if not each.abandoned()]
            if batch:
                self._done(self._answered(batch))

    def _answered(self, batch: Sequence[Waiting]) -> list[tuple[Waiting, Answer | Exception]]:
        try:
            answers = self.score([each.question for each in batch])
        except Exception as err:
            own = (InputError, NoReleaseError, MistypedError)
            of_the_store = isinstance(err, MillwrightError) and not isinstance(err, own)
            if len(batch) > 1 and not of_the_store:
                # Whose fault it is shows when each is asked alone.
                return [found for each in batch for found in self._answered([each])]
            return [(each, err) for each in batch]
        return list(zip(batch, answers, strict=True))

    def _afterwards(self, routes: Routes, scored: Scored) -> None:
        shadows = routes.shadows
        if not shadows or scored.source != "store":
            return
        try:
            self._shadowed.put_nowait((shadows, scored))
        except Full:
            self.unshadowed += len(shadows) * len(scored.machines)

    def _shadow_of(self, shadow: Loaded, scored: Scored) -> Scored:
        rows = scored.rows
        if shadow.plan != scored.loaded.plan:
            rows = read(self.reader, shadow.plan, scored.machines, scored.as_of)
        began = time.perf_counter()
        outcomes, matrix, probabilities = predicted(shadow, rows, self.policy)
        return Scored(
            loaded=shadow, role=SHADOW, ids=self._ids.some(len(scored.machines)),
            machines=scored.machines, as_of=scored.as_of, asked_at=scored.asked_at,
            latency=np.full(len(scored.machines), time.perf_counter() - began), rows=rows,
            matrix=matrix, outcomes=outcomes, probabilities=probabilities, source="store",
        )  # fmt: skip

    def _shadow(self) -> None:
        while True:
            shadows, scored = self._shadowed.get()
            for shadow in shadows:
                try:
                    self._log(self._shadow_of(shadow, scored))
                except Exception:  # the answer was given; that its shadow fails is told by count
                    self.unshadowed += len(scored.machines)


def _waiting(line: "SimpleQueue[Waiting]") -> list[Waiting]:
    """Whatever waits by now, one at least."""
    found = [line.get()]
    machines = len(found[0].question.machines)
    while machines < TOGETHER:
        try:
            found.append(line.get_nowait())
        except Empty:
            break
        machines += len(found[-1].question.machines)
    return found
