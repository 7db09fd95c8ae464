"""The whole fleet at one look: how many machines are how, and which need somebody first.

All machines of the online store are scored, in parts, and that is kept for a while: a wall of
screens asks often, and the answer changes as fast as features do. It is no answer about a machine
to anybody in particular, and so it is not in the prediction log.
"""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from millwright.serving.answers import described, expected_cost, iso
from millwright.serving.plan import MistypedError
from millwright.serving.predictions import OUTCOMES, micros
from millwright.serving.routes import Routes
from millwright.serving.scoring import Part, Question, Scoring, in_use
from millwright.serving.unreadable import PassedOver, readable

TOGETHER = 500  # machines that are read and scored at once
KEPT = 30.0  # seconds for which an overview counts as new
DATED = 8  # overviews of past times that are kept


@dataclass(frozen=True)
class Overview:
    """What was found by `routes`, the most urgent machines first; `made` is the clock's seconds."""

    routes: Routes | None
    made: float
    as_of: int
    parts: tuple[Part, ...]
    outcomes: dict[str, int]
    alarms: int
    cost: float

    def told(self, most: int) -> dict[str, Any]:
        """The answer, with so many machines."""
        answer = described(self.parts[:most], self.as_of, 0) if self.parts else {}
        for each in answer.get("predictions", ()):
            each["id"] = None  # by which nothing would be found in the log
        return {
            **answer,
            "as_of": iso(self.as_of),
            "machines": sum(self.outcomes.values()),
            "outcomes": self.outcomes,
            "alarms": self.alarms,
            "expected_cost": self.cost,
        }


class Fleet:
    """Overviews of one fleet; who asks while one is made waits for it and gets the same."""

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self._making = threading.Lock()
        self._kept: dict[int | None, Overview] = {}
        self._passed_over = PassedOver()

    def overview(self, as_of: datetime | None) -> Overview:
        """The fleet as of a time, or as of now.

        Raises:
            NoReleaseError: no release is loaded.
            InputError: the online store has newer features than that.
            MillwrightError: the features cannot be read.
        """
        asked = None if as_of is None else micros(as_of)
        with self._making:
            routes = self.scoring.releases.routes
            kept = self._kept.pop(asked, None)
            new = kept and kept.routes is routes and time.monotonic() - kept.made <= KEPT
            if kept is None or not new:
                kept = self._made(asked, routes)
            self._kept[asked] = kept
            for old in list(self._kept)[:-DATED]:
                del self._kept[old]
            return kept

    def _made(self, asked: int | None, routes: Routes | None) -> Overview:
        as_of = micros(datetime.now(UTC)) if asked is None else asked

        def scored(machines: Sequence[str]) -> list[Part]:
            (answer,) = self.scoring.score([Question(machines, as_of, dated=asked is not None)])
            return answer

        parts: list[Part] = []
        odd: MistypedError | None = None
        for machines in self._machines():
            found, fault = readable(machines, scored)
            parts += itertools.chain(*found)
            odd = odd or fault
        if odd:
            if not parts:
                raise odd
            self._passed_over.add(odd)
        counts = Counter(OUTCOMES[part.scored.outcomes[part.row]] for part in parts)
        known = [part for part in parts if not np.isnan(_probability(part))]
        known.sort(key=_probability, reverse=True)
        decided = [
            (_probability(part), _probability(part) >= manifest.threshold, manifest.costs)
            for part in known
            for manifest in [part.scored.loaded.release.manifest]
        ]
        return Overview(
            routes=routes,
            made=time.monotonic(),
            as_of=as_of,
            parts=tuple(known),
            outcomes={outcome: counts[outcome] for outcome in OUTCOMES},
            alarms=sum(alarm for _, alarm, _ in decided),
            cost=sum(expected_cost(*each) for each in decided),
        )

    def _machines(self) -> Iterator[list[str]]:
        champion = in_use(self.scoring.releases).champion
        every = self.scoring.reader.machines(champion.plan)
        while some := list(itertools.islice(every, TOGETHER)):
            yield some


def _probability(part: Part) -> float:
    return float(part.scored.probabilities[part.row])
