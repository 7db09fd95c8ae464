"""What waits together is read, scored and logged together, and answered as if it were alone."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from serving_parts import ENCODER, HOUR, NOW, ROW, VIEWS, Memory, loaded, whole

from millwright.encoder import Encoder, Matrix, Scores
from millwright.errors import InputError, MillwrightError
from millwright.release import Release, ServedView
from millwright.serving import scorer
from millwright.serving.features import read
from millwright.serving.plan import Cells, MistypedError, Plan
from millwright.serving.policy import Policy
from millwright.serving.predictions import OUTCOMES
from millwright.serving.routes import Loaded, Routes
from millwright.serving.rows import Moments
from millwright.serving.scorer import LARGE, Scorer, Waiting
from millwright.serving.scoring import Answer, Ids, NoReleaseError, Question, Scored
from millwright.traffic import Canary, Traffic

CANARY = Canary(version=2, percent=50)
MACHINES = [f"m{number}" for number in range(40)]


class Gated(Memory):
    """A store that may be closed; those who read wait until it is open again."""

    def __init__(self, machines: Any) -> None:
        super().__init__(machines)
        self.open, self.asked = threading.Event(), threading.Event()
        self.open.set()

    def cells(self, plan: Plan, machines: Sequence[str]) -> tuple[list[Cells], Moments]:
        self.asked.set()
        assert self.open.wait(20)
        if "cursed" in machines:
            raise RuntimeError("nobody has foreseen this")
        return super().cells(plan, machines)


class Numberless(Release):
    """A release that predicts what is no number."""

    def score(self, matrix: Matrix) -> Scores:
        return np.full(len(matrix), np.nan)


@dataclass
class Used:
    """The releases in use, as a scorer asks for them."""

    routes: Routes | None


@dataclass
class Desk:
    """A scorer whose answers and log are kept."""

    used: Used
    store: Gated
    policy: Policy = field(default_factory=Policy)
    logged: list[Scored] = field(default_factory=list)
    answers: dict[Any, Answer | Exception] = field(default_factory=dict)
    told: threading.Condition = field(default_factory=threading.Condition)
    logging: Callable[[Scored], None] = lambda _: None

    def __post_init__(self) -> None:
        used: Any = self.used
        self.scorer = Scorer(used, self.store, self.policy, self.log, self.done)

    def log(self, scored: Scored) -> None:
        self.logging(scored)
        with self.told:
            self.logged.append(scored)
            self.told.notify_all()

    def done(self, found: Sequence[tuple[Waiting, Answer | Exception]]) -> None:
        with self.told:
            self.answers |= {waiting.ticket: answer for waiting, answer in found}
            self.told.notify_all()

    def ask(self, **questions: Question) -> None:
        for ticket, question in questions.items():
            self.scorer.ask(Waiting(question, lambda: False, ticket))

    def asked_together(self, **questions: Question) -> dict[Any, Answer | Exception]:
        """The answers to questions that all wait while another one is worked on."""
        with self.busy():
            self.ask(**questions)
        self.until(lambda: len(self.answers) == len(questions) + 1)
        del self.answers["first"]
        found, self.answers = self.answers, {}
        return found

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While this lasts a first question is worked on, and all others wait."""
        self.store.asked.clear()
        self.store.open.clear()
        self.ask(first=Question(["first"], NOW))
        assert self.store.asked.wait(20)
        yield
        self.store.open.set()

    def until(self, condition: Callable[[], bool]) -> None:
        with self.told:
            assert self.told.wait_for(condition, 20)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Loaded]:
    """Three alike, and one that reads one view alone."""
    folder = tmp_path_factory.mktemp("releases")
    found = {version: loaded(folder, version) for version in (1, 2, 3)}
    narrow = Encoder(features=("heat",), categories={})
    found[4] = loaded(folder, 4, encoder=narrow, views=VIEWS[:1])
    return found


@pytest.fixture
def store() -> Gated:
    known = {machine: whole(HOUR * (number % 50)) for number, machine in enumerate(MACHINES)}
    known["bare"] = (ROW, {"attributes": NOW - HOUR})
    known["mistyped"] = ({**ROW, "heat_mean": "warm"}, dict(whole()[1]))
    return Gated(known)


@pytest.fixture
def desk(releases: dict[int, Loaded], store: Gated) -> Desk:
    """A champion, a canary for half of the machines, and two tags."""
    routes = Routes(
        champion=releases[1],
        canary=releases[2],
        tags={"three": releases[3], "narrow": releases[4]},
        shares=Traffic(canary=CANARY),
    )
    return Desk(Used(routes), store)


def numberless(like: Loaded) -> Loaded:
    made = like.release
    return Loaded(Numberless(made.folder, made.manifest, made.booster), "numberless")


def told(answer: Answer | Exception) -> list[tuple[Any, ...]]:
    """What an answer says of each machine, but for the name of the prediction."""
    assert not isinstance(answer, Exception), answer
    return [
        (
            part.scored.machines[part.row], part.scored.loaded.version, part.scored.role,
            OUTCOMES[part.scored.outcomes[part.row]], str(part.scored.probabilities[part.row]),
            part.scored.as_of[part.row], part.scored.asked_at[part.row],
            part.scored.rows.events[part.row].tolist(),
            part.scored.matrix[part.row].tobytes(),
        )
        for part in answer
    ]  # fmt: skip


def names(answer: Answer | Exception) -> list[str]:
    assert not isinstance(answer, Exception), answer
    return [part.scored.ids[part.row] for part in answer]


QUESTIONS = {
    "one": Question(["m1"], NOW, asked_at=5),
    "mixed": Question(["m2", "nobody", "bare", *MACHINES[::3], "m2"], NOW, asked_at=6),
    "tagged": Question(MACHINES[:9], NOW, tag="three"),
    "narrow": Question(["m1", "bare"], NOW, tag="narrow"),
    "later": Question(MACHINES[4:9], NOW + 30 * HOUR, dated=True),
    "again": Question(["m1"], NOW),
}


def test_each_question_of_a_batch_is_answered_as_if_it_were_alone(desk: Desk) -> None:
    together = desk.asked_together(**QUESTIONS)
    for ticket, question in QUESTIONS.items():
        (alone,) = desk.scorer.score([question])
        assert told(together[ticket]) == told(alone)
        assert [each[0] for each in told(alone)] == list(question.machines)
    every = [name for answer in together.values() for name in names(answer)]
    assert len({*every}) == len(every)


def test_probabilities_are_those_of_the_release_for_the_features_that_were_read(
    desk: Desk, releases: dict[int, Loaded], store: Gated
) -> None:
    (answer,) = desk.scorer.score([QUESTIONS["mixed"]])
    for part in answer:
        scored, machine = part.scored, part.scored.machines[part.row]
        plain = releases[2 if CANARY.takes(machine) else 1]
        assert scored.loaded is plain
        assert scored.role == ("canary" if CANARY.takes(machine) else "champion")
        rows = read(store, plain.plan, [machine], np.array([NOW]))
        matrix = ENCODER.encode_columns(rows.columns.__getitem__, 1)
        found = scored.probabilities[part.row]
        if machine in ("nobody", "bare"):
            assert np.isnan(found)
        else:
            assert found == plain.release.score(matrix)[0]


def test_a_batch_is_one_read_and_one_call_for_each_release(desk: Desk, store: Gated) -> None:
    desk.asked_together(**QUESTIONS)
    assert len(store.reads) == 1 + 4
    assert len(desk.logged) == 1 + 4


def test_all_that_was_answered_is_logged_once_and_before_it_is_told(desk: Desk) -> None:
    early: list[Any] = []
    desk.logging = lambda scored: early.extend({*scored.ids} & {*told_ids()})

    def told_ids() -> list[str]:
        return [name for each in desk.answers.values() for name in names(each)]

    together = desk.asked_together(**QUESTIONS)
    assert early == []
    logged = [name for scored in desk.logged for name in scored.ids]
    answered = [name for answer in together.values() for name in names(answer)]
    assert len({*logged}) == len(logged) == len(answered) + 1
    assert {*answered} < {*logged}


@pytest.mark.parametrize(
    ("bad", "kind", "reason"),
    [
        (Question(["m1"], NOW, tag="four"), InputError, "no tag 'four'; there are: narrow, three"),
        (Question(["m3", "m4"], NOW - HOUR * 40, dated=True), InputError, "has newer features in"),
        (Question(["m1", "mistyped"], NOW), MistypedError, "'heat_mean' of view 'window'"),
        (Question(["m1", "cursed"], NOW), RuntimeError, "nobody has foreseen this"),
    ],
    ids=["tag", "time", "type", "unforeseen"],
)
def test_a_bad_question_fails_alone_and_nothing_is_logged_twice(
    desk: Desk, bad: Question, kind: type[Exception], reason: str
) -> None:
    together = desk.asked_together(bad=bad, **QUESTIONS)
    found = together.pop("bad")
    assert isinstance(found, kind)
    assert reason in str(found)
    for ticket, question in QUESTIONS.items():
        (alone,) = desk.scorer.score([question])
        assert told(together[ticket]) == told(alone)
    answered = [name for answer in together.values() for name in names(answer)]
    logged = [name for scored in desk.logged for name in scored.ids if name in answered]
    assert sorted(logged) == sorted(answered)
    count = sum(len(question.machines) for question in QUESTIONS.values())
    assert sum(len(scored.ids) for scored in desk.logged) == 1 + 2 * count


def test_a_release_that_predicts_no_number_fails_its_own_questions(
    desk: Desk, releases: dict[int, Loaded]
) -> None:
    assert desk.used.routes is not None
    desk.used.routes = replace(desk.used.routes, tags={"three": numberless(releases[3])})
    together = desk.asked_together(
        good=QUESTIONS["mixed"],
        bad=QUESTIONS["tagged"],
        none=Question(["nobody"], NOW, tag="three"),
    )
    assert isinstance(together["bad"], NoReleaseError)
    assert "release v3 predicts what is no number; roll back" in str(together["bad"])
    assert told(together["good"]) == told(desk.scorer.score([QUESTIONS["mixed"]])[0])
    assert [each[3] for each in told(together["none"])] == ["unknown"]


def test_a_store_that_is_away_is_asked_once_for_all_that_wait(desk: Desk, store: Gated) -> None:
    store.broken = True
    together = desk.asked_together(**QUESTIONS)
    assert {str(each) for each in together.values()} == {"the store does not answer"}
    assert {type(each) for each in together.values()} == {MillwrightError}
    assert len(store.reads) == 2
    assert desk.logged == []


def test_a_question_that_nobody_waits_for_any_more_is_passed_over(desk: Desk, store: Gated) -> None:
    with desk.busy():
        for number in range(3):
            given_up = Waiting(Question([f"lost {number}"], NOW), lambda: True, number)
            desk.scorer.ask(given_up)
        desk.ask(last=Question(["m1"], NOW))
    desk.until(lambda: "last" in desk.answers)
    assert {*desk.answers} == {"first", "last"}
    assert store.reads == [["first"], ["m1"]]


def test_without_a_release_that_is_said(store: Gated) -> None:
    desk = Desk(Used(None), store)
    with pytest.raises(NoReleaseError, match="no release is loaded; /ready says why"):
        desk.scorer.score([QUESTIONS["one"]])
    assert store.reads == []


def test_a_past_that_the_store_cannot_tell_is_refused_where_it_was_asked_for_alone(
    desk: Desk,
) -> None:
    """By its own clock a request may be a moment older than what has just been written."""
    (answer,) = desk.scorer.score([Question(["m1"], NOW - 2 * HOUR)])
    assert told(answer)[0][3] == "missing"
    told_time = r"machine 'm1' has newer features in 'step', of 2025-10-09T07:53:20\+00:00"
    with pytest.raises(InputError, match=told_time):
        desk.scorer.score([Question(["m30", "m1"], NOW - 2 * HOUR, dated=True)])


def test_settings_decide_about_machines_with_gaps(
    releases: dict[int, Loaded], store: Gated
) -> None:
    store.machines_known = {"gap": (ROW, {"step": NOW, "attributes": NOW})}
    for policy, status in ((Policy(), "degraded"), (Policy(missing="refuse"), "missing")):
        desk = Desk(Used(Routes(releases[1])), store, policy)
        (answer,) = desk.scorer.score([Question(["gap"], NOW)])
        assert told(answer)[0][3] == status
        assert (told(answer)[0][4] == "nan") == (status == "missing")


def test_a_large_question_holds_up_no_small_one(desk: Desk, store: Gated) -> None:
    entered, may_end = threading.Event(), threading.Event()
    read = store.cells

    def slow(plan: Plan, machines: Sequence[str]) -> tuple[list[Cells], Moments]:
        if len(machines) > LARGE / 4:
            entered.set()
            assert may_end.wait(20)
        return read(plan, machines)

    store.cells = slow  # type: ignore[method-assign]
    desk.ask(large=Question([f"x{number}" for number in range(LARGE + 1)], NOW))
    assert entered.wait(20)
    desk.ask(small=QUESTIONS["one"])
    desk.until(lambda: "small" in desk.answers)
    assert "large" not in desk.answers
    may_end.set()
    desk.until(lambda: "large" in desk.answers)


def test_shadows_predict_what_others_answer_and_tell_nobody(
    desk: Desk, releases: dict[int, Loaded], store: Gated
) -> None:
    assert desk.used.routes is not None
    desk.used.routes = replace(desk.used.routes, shadows=(releases[3], releases[4]))
    (answer,) = desk.scorer.score([QUESTIONS["mixed"]])
    desk.until(lambda: len(desk.logged) == 2 + 4)
    assert {each[2] for each in told(answer)} == {"champion", "canary"}
    shadows = [scored for scored in desk.logged if scored.role == "shadow"]
    assert {*names(answer)}.isdisjoint(name for scored in shadows for name in scored.ids)
    for version in (3, 4):
        mine = [scored for scored in shadows if scored.loaded.version == version]
        found = {
            machine: probability
            for scored in mine
            for machine, probability in zip(scored.machines, scored.probabilities, strict=True)
        }
        assert {*found} == {*QUESTIONS["mixed"].machines}
        tagged = replace(QUESTIONS["mixed"], tag="three" if version == 3 else "narrow")
        (plain,) = desk.scorer.score([tagged])
        for part in plain:
            wanted = part.scored.probabilities[part.row]
            assert str(found[part.scored.machines[part.row]]) == str(wanted)
        assert all((scored.as_of == NOW).all() for scored in mine)
    assert desk.scorer.unshadowed == 0


def test_a_shadow_of_the_same_views_reads_nothing_again(
    desk: Desk, releases: dict[int, Loaded], store: Gated
) -> None:
    desk.used.routes = Routes(releases[1], shadows=(releases[2], releases[4]))
    desk.scorer.score([QUESTIONS["one"]])
    desk.until(lambda: len(desk.logged) == 3)
    assert len(store.reads) == 2  # one for the answer, and one for the shadow of other views


def test_a_shadow_that_fails_harms_no_answer_and_no_other_shadow_and_is_counted(
    desk: Desk, releases: dict[int, Loaded]
) -> None:
    shadows = (numberless(releases[3]), releases[2])
    desk.used.routes = Routes(releases[1], shadows=shadows)
    (answer,) = desk.scorer.score([Question(["m1", "m2"], NOW)])
    desk.until(lambda: len(desk.logged) == 2)
    assert [each[1] for each in told(answer)] == [1, 1]
    assert [(each.role, each.loaded.version) for each in desk.logged] == [
        ("champion", 1), ("shadow", 2),
    ]  # fmt: skip
    assert desk.scorer.unshadowed == 2


def test_shadows_that_cannot_keep_up_are_left_out_and_counted(
    releases: dict[int, Loaded], store: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "MOST_SHADOWED", 3)
    entered, may_end = threading.Event(), threading.Event()

    def slow(scored: Scored) -> None:
        if scored.role == "shadow":
            entered.set()
            assert may_end.wait(20)

    desk = Desk(Used(Routes(releases[1], shadows=(releases[2],))), store, logging=slow)
    desk.scorer.score([Question(["m1"], NOW)])
    assert entered.wait(20)
    for _ in range(5):
        (answer,) = desk.scorer.score([Question(["m1", "m2"], NOW)])
        assert len(answer) == 2
    assert desk.scorer.unshadowed == 2 * 2
    may_end.set()
    desk.until(lambda: len(desk.logged) == 6 + 4)


def test_latency_counts_from_each_requests_own_beginning(desk: Desk) -> None:
    began = time.perf_counter()
    questions = [Question(["m1"], NOW, began=began - 5), Question(["m2"], NOW, began=began - 7)]
    for (part,), least in zip(desk.scorer.score(questions), (5, 7), strict=True):
        assert least <= part.scored.latency[part.row] < least + 2


def test_names_are_unique_and_in_the_order_in_which_they_are_made() -> None:
    ids, others = Ids(), Ids()
    some = [*ids.some(3), *ids.some(100)]
    assert some == sorted(some)
    assert len({*some, *others.some(103)}) == 206
    assert {len(name) for name in some} == {26}


def test_a_plan_that_a_release_reads_is_made_once(releases: dict[int, Loaded]) -> None:
    assert releases[1].plan is releases[1].plan
    assert releases[1].plan == releases[2].plan
    assert releases[4].plan == Plan((ServedView.model_validate(VIEWS[0]),))
