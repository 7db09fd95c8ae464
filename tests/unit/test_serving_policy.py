"""What becomes of a machine, for all that its views can be, by the words of the policy."""

from itertools import product
from typing import Literal

import numpy as np
import pytest
from serving_parts import HOUR, LIFE, NOW, VIEWS

from millwright.release import ServedView
from millwright.serving.plan import Plan
from millwright.serving.policy import Policy, judged
from millwright.serving.predictions import OUTCOMES, Outcome
from millwright.serving.rows import MISSING, NEVER, PRESENT, STALE, FeatureRows, states

Choice = Literal["degrade", "refuse"]
# What a view of readings can be, and what one can be that tells what a machine is.
AGES = {
    "new": HOUR, "just counts": LIFE, "old": LIFE + 1, "of the future": -1, "none": None,
}  # fmt: skip
READINGS, ATTRIBUTES = tuple(AGES), ("new", "very old", "of the future", "none")
PLAN = Plan(tuple(ServedView.model_validate(view) for view in VIEWS))
CHOICES: tuple[Choice, ...] = ("degrade", "refuse")


def by_the_words(
    readings: tuple[str, ...], attributes: str, stale: Choice, missing: Choice
) -> Outcome:
    """The policy, sentence for sentence."""
    counting = [each in ("new", "just counts") for each in readings]
    lacking_stale = "old" in readings
    lacking_missing = bool({"none", "of the future"} & {*readings, attributes})
    # With all its views it is predicted.
    if all(counting) and attributes in ("new", "very old"):
        return "ok"
    # The store has none.
    if {*readings, attributes} == {"none"}:
        return "unknown"
    # Without one view of readings that counts it is not predicted.
    if not any(counting):
        return "stale" if lacking_stale else "missing"
    # With some view stale or missing it is predicted and marked, or refused, as settings say.
    if lacking_stale and stale == "refuse":
        return "stale"
    if lacking_missing and missing == "refuse":
        return "missing"
    return "degraded"


@pytest.mark.parametrize(("stale", "missing"), [*product(CHOICES, CHOICES)])
def test_every_combination_is_judged_by_the_words(stale: Choice, missing: Choice) -> None:
    cases = list(product(READINGS, READINGS, ATTRIBUTES))
    ages = {**AGES, "very old": 900 * LIFE}
    events = np.array(
        [[NEVER if ages[each] is None else NOW - ages[each] for each in case] for case in cases],
        np.int64,
    )  # fmt: skip
    as_of = np.full(len(cases), NOW, np.int64)
    rows = FeatureRows({}, events, states(events, PLAN.lives, as_of), PLAN.names)
    found = [OUTCOMES[place] for place in judged(rows, PLAN, Policy(stale, missing))]
    wanted = [by_the_words((one, other), what, stale, missing) for one, other, what in cases]
    assert dict(zip(cases, found, strict=True)) == dict(zip(cases, wanted, strict=True))
    assert {*wanted} == {*OUTCOMES} or stale == missing == "refuse"


def test_many_that_are_whole_are_ok_and_one_that_is_not_is_found_among_them() -> None:
    states_of = np.full((100, 3), PRESENT, np.int8)
    events = np.full((100, 3), NOW - HOUR, np.int64)
    rows = FeatureRows({}, events, states_of, PLAN.names)
    assert (judged(rows, PLAN, Policy()) == 0).all()
    states_of[63, 0] = STALE
    assert np.flatnonzero(judged(rows, PLAN, Policy())).tolist() == [63]
    assert judged(FeatureRows({}, events[:0], states_of[:0], PLAN.names), PLAN, Policy()).size == 0


def test_where_no_view_grows_old_each_one_tells_of_readings() -> None:
    views = tuple(
        ServedView(name=name, features={name: "float32"}, time_to_live=None) for name in ("a", "b")
    )
    events = np.array([[NOW, NOW], [NOW, NEVER], [NEVER, NEVER]], np.int64)
    as_of, plan = np.full(3, NOW, np.int64), Plan(views)
    rows = FeatureRows({}, events, states(events, plan.lives, as_of), plan.names)
    found = [OUTCOMES[place] for place in judged(rows, plan, Policy())]
    assert found == ["ok", "degraded", "unknown"]


def test_a_row_is_worth_what_its_age_says_to_the_microsecond() -> None:
    events = np.array(
        [[NOW - LIFE, NOW, NOW], [NOW - LIFE - 1, NOW + 1, 0], [NEVER, NEVER, NEVER]], np.int64
    )
    found = states(events, PLAN.lives, np.full(3, NOW, np.int64))
    assert found.tolist() == [
        [PRESENT, PRESENT, PRESENT], [STALE, MISSING, PRESENT], [MISSING, MISSING, MISSING],
    ]  # fmt: skip


def test_each_machine_is_judged_at_its_own_time() -> None:
    events = np.full((3, 3), NOW, np.int64)
    found = states(events, PLAN.lives, np.array([NOW - 1, NOW, NOW + LIFE + 1], np.int64))
    assert found[:, 0].tolist() == [MISSING, PRESENT, STALE]
    assert found[:, 2].tolist() == [MISSING, PRESENT, PRESENT]
