"""One fault, some times, under a steady load; and what became of every request meanwhile."""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import steady
from benchmarks.fault_kinds import Fault, Round
from benchmarks.fault_plant import MACHINES
from benchmarks.fault_scene import Scene
from benchmarks.steady import RESET, Answer, Order

BEFORE, BETWEEN = 0.5, 0.3  # seconds of load before the first fault, and after each
IN_FLIGHT = 0.1  # seconds within which a client cannot know that a process has ended
SAME = 1e-6  # between a probability and what is known of it


@dataclass(frozen=True)
class Suffered:
    """What became of all requests; `wrong` are those that got what they should not have got.

    Times are seconds. `recovery` is from the end of the fault to the first answer after which none
    was refused, or to when the log had all, or the right release answered.
    """

    fault: str
    rounds: int
    requests: int
    answered: int
    refused: int
    resets: int
    wrong: tuple[str, ...]
    slowest: float
    late: float
    recovery: float
    worst: float
    predictions: int
    unlogged: int
    doubled: int


def suffer(scene: Scene, fault: Fault, times: int, seed: int, rate: float) -> Suffered:
    """Have a fault happen some times while the service is asked."""
    notes = scene.folder / "answers"
    notes.unlink(missing_ok=True)
    rounds = []
    with steady.asking(Order(scene.service.url, MACHINES, rate, seed), notes):
        time.sleep(BEFORE)
        for _ in range(times):
            rounds.append(fault.happen(scene))
            time.sleep(BETWEEN)
    answers = steady.read(notes)
    scene.idle()
    ids = [each.id for answer in answers for each in answer.predictions]
    logged = scene.logged(ids)
    found = [_recovery(answers, rounds, place) for place in range(times)]
    return Suffered(
        fault=fault.name,
        rounds=times,
        requests=len(answers),
        answered=sum(answer.status == 200 for answer in answers),
        refused=sum(answer.status == 503 for answer in answers),
        resets=sum(answer.status == RESET for answer in answers),
        wrong=tuple(filter(None, (_wrong(scene, fault, rounds, each) for each in answers))),
        slowest=max(answer.seconds for answer in answers),
        late=max(answer.late for answer in answers),
        recovery=statistics.median(found),
        worst=max(found),
        predictions=len(ids),
        unlogged=sum(count != logged.get(name) for name, count in Counter(ids).items()),
        doubled=sum(count > 1 for count in logged.values()),
    )


def _recovery(answers: Sequence[Answer], rounds: Sequence[Round], place: int) -> float:
    round_ = rounds[place]
    if round_.well is not None:
        return round_.well - round_.ended
    later = rounds[place + 1].began if place + 1 < len(rounds) else float("inf")
    mine = [answer for answer in answers if round_.began <= answer.at < later]
    since = max((each.sent for each in mine if not _whole(each)), default=round_.ended)
    good = [each.at for each in mine if _whole(each) and each.sent >= max(since, round_.ended)]
    return max(0.0, min(good, default=float("inf")) - round_.ended)


def _whole(answer: Answer) -> bool:
    return answer.status == 200 and all(each.status == "ok" for each in answer.predictions)


def _wrong(scene: Scene, fault: Fault, rounds: Sequence[Round], answer: Answer) -> str | None:
    """What is wrong with an answer, if anything."""
    if answer.status == 503:
        if not fault.refusals:
            return "503, where nothing should be refused"
        return None if answer.pause else "503 without Retry-After"
    if answer.status == RESET:
        of_the_killed = any(
            each.began - 1 < answer.sent < each.began + IN_FLIGHT for each in rounds
        )
        return None if fault.resets and of_the_killed else "a broken connection"
    if answer.status != 200:
        return f"status {answer.status}"
    if len({each.version for each in answer.predictions}) != 1:
        return "an answer of two releases"
    for each in answer.predictions:
        if each.status != "ok":
            if not fault.gaps:
                return f"'{each.status}', and all features are there"
        elif abs((each.probability or 0) - scene.plant.scores[each.version][each.machine]) > SAME:
            return f"another probability than v{each.version} gives"
    return None
