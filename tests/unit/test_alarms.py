"""The rules of `millwright.alarms`, on cases small enough to work out by hand."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millwright.alarms import (
    choose_threshold,
    expected_cost,
    judge_alarms,
    judge_failures,
    machine_months,
    raise_alarms,
)
from millwright.errors import DataError
from millwright.fleet import load_fleet

HOUR = timedelta(hours=1)
START = pd.Timestamp("2025-03-01", tz="UTC")
FLEET = load_fleet("azure_pdm").model_copy(update={"horizon": 6 * HOUR, "lead_time": 2 * HOUR})
COSTS = FLEET.costs  # a failure 20,000, a planned repair 4,000, an inspection 500


def rows_of(*hours, machine="1"):
    return pd.DataFrame(
        {"machine_id": machine, "event_timestamp": [START + hour * HOUR for hour in hours]}
    )


def failures_at(*hours, machine="1"):
    return pd.DataFrame(
        {
            "machine_id": pd.Series([machine] * len(hours), dtype=object),
            "timestamp": pd.DatetimeIndex([START + hour * HOUR for hour in hours], tz="UTC"),
        }
    )


def hours_of(times):
    return [(time - START) / HOUR for time in times]


def test_a_repeat_within_the_horizon_is_suppressed_and_one_a_horizon_later_is_not():
    rows = rows_of(0, 1, 5, 6, 11, 12)
    alarms = raise_alarms(rows, np.ones(6), 0.5, FLEET)
    assert hours_of(alarms["event_timestamp"]) == [0, 6, 12]


def test_a_suppressed_repeat_does_not_prolong_the_silence():
    alarms = raise_alarms(rows_of(0, 5, 7), np.ones(3), 0.5, FLEET)
    assert hours_of(alarms["event_timestamp"]) == [0, 7]


def test_a_score_equal_to_the_threshold_is_flagged():
    alarms = raise_alarms(rows_of(0, 10, 20), np.array([0.49, 0.5, 0.51]), 0.5, FLEET)
    assert hours_of(alarms["event_timestamp"]) == [10, 20]
    assert alarms["score"].tolist() == [0.5, 0.51]


def test_machines_do_not_suppress_each_other_and_rows_may_come_in_any_order():
    rows = pd.concat([rows_of(3, 0, machine="b"), rows_of(1, 2, machine="a")], ignore_index=True)
    alarms = raise_alarms(rows, np.array([0.9, 0.8, 0.7, 0.6]), 0.5, FLEET)
    assert alarms["machine_id"].tolist() == ["a", "b"]
    assert hours_of(alarms["event_timestamp"]) == [1, 0]
    assert alarms["score"].tolist() == [0.7, 0.8]


@pytest.mark.parametrize(
    ("hour", "is_true"), [(9, False), (10, False), (11, True), (16, True), (17, False)]
)
def test_an_alarm_is_true_if_a_failure_follows_after_it_and_up_to_the_horizon(hour, is_true):
    alarms = raise_alarms(rows_of(10), np.ones(1), 0.5, FLEET)
    judged = judge_alarms(alarms, failures_at(hour), FLEET)
    assert judged["is_true"].tolist() == [is_true]
    assert judged["failure"].notna().tolist() == [is_true]


def test_an_alarm_names_the_next_failure_of_its_own_machine():
    alarms = raise_alarms(rows_of(0, machine="2"), np.ones(1), 0.5, FLEET)
    failures = pd.concat([failures_at(1), failures_at(5, 4, 30, machine="2")])
    judged = judge_alarms(alarms, failures, FLEET)
    assert hours_of(judged["failure"]) == [4]


def test_no_alarms_are_judged_as_none():
    alarms = raise_alarms(rows_of(0), np.zeros(1), 0.5, FLEET)
    assert judge_alarms(alarms, failures_at(1), FLEET)["is_true"].tolist() == []


@pytest.mark.parametrize(
    ("flagged", "caught", "late"),
    [
        (13, False, False),  # earlier than the horizon
        (14, True, False),  # the horizon itself
        (18, True, False),  # the lead time itself
        (19, False, True),
        (20, False, False),  # the moment of the failure is no warning
    ],
)
def test_a_failure_is_caught_from_the_horizon_to_the_lead_time_before_it(flagged, caught, late):
    rows = rows_of(*range(24))
    scores = (np.arange(24) == flagged).astype(float)
    fates = judge_failures(rows, scores, 0.5, failures_at(20), FLEET)
    assert fates["caught"].tolist() == [caught]
    assert fates["flagged_late"].tolist() == [late]
    assert hours_of(fates["flagged_from"].dropna()) == ([flagged] if caught else [])


def test_a_flagged_cut_off_catches_though_an_earlier_false_alarm_suppressed_its_own():
    rows = rows_of(*range(24))
    scores = np.isin(np.arange(24), [12, 16]).astype(float)
    alarms = judge_alarms(raise_alarms(rows, scores, 0.5, FLEET), failures_at(20), FLEET)
    assert alarms["is_true"].tolist() == [False]
    assert judge_failures(rows, scores, 0.5, failures_at(20), FLEET)["caught"].all()


def test_a_failure_of_two_components_at_one_moment_counts_once():
    fates = judge_failures(rows_of(*range(24)), np.ones(24), 0.5, failures_at(20, 20), FLEET)
    assert len(fates) == 1


def test_failures_without_cut_offs_in_their_window_count_nowhere():
    failures = pd.concat([failures_at(-5, 0, 1, 30, 500), failures_at(12, machine="stranger")])
    fates = judge_failures(rows_of(*range(24)), np.ones(24), 0.5, failures, FLEET)
    assert fates.empty
    # Two hours after the first row and six after the last one are still asked about.
    fates = judge_failures(rows_of(*range(24)), np.ones(24), 0.5, failures_at(2, 29), FLEET)
    assert hours_of(fates["timestamp"]) == [2, 29]


def test_the_cost_adds_missed_failures_planned_repairs_and_inspections():
    assert expected_cost(5, 3, 7, COSTS) == 2 * 20_000 + 3 * 4_000 + 7 * 500


def test_machine_months_add_up_the_watched_time_of_each_machine():
    rows = pd.concat([rows_of(0, 30 * 24 - 1), rows_of(15 * 24, 30 * 24 - 1, machine="2")])
    assert machine_months(rows, FLEET) == pytest.approx(1.5)


def test_the_threshold_weighs_a_failure_against_false_alarms():
    rows = rows_of(*range(0, 400, 10))
    failures = failures_at(204, 304)
    scores = np.full(40, 0.1)
    scores[30] = 0.9  # at hour 300, four hours before a failure
    scores[20] = 0.4  # at hour 200, as well
    scores[:5] = 0.5  # five false alarms, which cost less than a failure
    chosen = choose_threshold(rows, scores, failures, FLEET)
    assert chosen.value == 0.4
    assert chosen.cost == 2 * 4_000 + 5 * 500
    assert [point.threshold for point in chosen.curve] == [0.1, 0.4, 0.5, 0.9]
    assert [point.false_alarms for point in chosen.curve] == [38, 5, 5, 0]
    dear = FLEET.model_copy(update={"costs": COSTS.model_copy(update={"inspection": 10_000})})
    assert choose_threshold(rows, scores, failures, dear).value == 0.9


def test_of_thresholds_that_cost_the_same_the_highest_is_chosen():
    rows = rows_of(*range(24))
    scores = np.where(
        np.isin(np.arange(24), [14, 15, 16]), [0.0] * 14 + [0.7, 0.8, 0.9] + [0] * 7, 0
    )
    assert choose_threshold(rows, scores, failures_at(20), FLEET).value == 0.9


def test_without_a_failure_there_is_no_threshold_to_choose():
    with pytest.raises(DataError, match=r"azure_pdm.*no failure.*longer time"):
        choose_threshold(rows_of(0, 1), np.ones(2), failures_at(), FLEET)


@pytest.mark.parametrize(
    ("scores", "words"), [([0.1], "1 scores do not fit 2 rows"), ([0.1, np.nan], "not a number")]
)
def test_scores_that_are_none_are_refused(scores, words):
    with pytest.raises(DataError, match=words):
        raise_alarms(rows_of(0, 1), np.array(scores), 0.5, FLEET)


def cost_by_hand(rows, scores, threshold, failures):
    """The rules of the module once more, one row at a time."""
    moments = {(f.machine_id, f.timestamp) for f in failures.itertuples()}
    open_until, false_alarms, flags = {}, 0, []
    ordered = rows.assign(score=scores).sort_values("event_timestamp", kind="stable")
    for row in ordered.itertuples():
        if row.score < threshold:
            continue
        machine, now = row.machine_id, row.event_timestamp
        flags.append((machine, now))
        if machine in open_until and now < open_until[machine]:
            continue
        open_until[machine] = now + FLEET.horizon
        false_alarms += not any(m == machine and now < f <= now + FLEET.horizon for m, f in moments)
    missed = caught = 0
    for machine, failure in moments:
        early, late = failure - FLEET.horizon, failure - FLEET.lead_time
        own = rows.loc[rows["machine_id"] == machine, "event_timestamp"]
        if own.between(early, late).any():
            hit = any(m == machine and early <= now <= late for m, now in flags)
            caught += hit
            missed += not hit
    return missed * 20_000 + caught * 4_000 + false_alarms * 500


@st.composite
def histories(draw):
    hours = [draw(st.lists(st.integers(0, 40), min_size=3, max_size=20, unique=True)) for _ in "ab"]
    rows = pd.concat([rows_of(*h, machine=m) for h, m in zip(hours, "ab", strict=True)])
    levels = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0])
    scores = np.array(draw(st.lists(levels, min_size=len(rows), max_size=len(rows))))
    moments = [draw(st.lists(st.integers(-3, 50), min_size=1, max_size=5)) for _ in "ab"]
    failures = pd.concat([failures_at(*h, machine=m) for h, m in zip(moments, "ab", strict=True)])
    return rows.reset_index(drop=True), scores, failures


@settings(max_examples=60, deadline=None, derandomize=True)
@given(histories())
def test_no_score_makes_a_cheaper_threshold_than_the_chosen_one(history):
    rows, scores, failures = history
    try:
        chosen = choose_threshold(rows, scores, failures, FLEET)
    except DataError:
        assert cost_by_hand(rows, scores, 2.0, failures) == 0  # no failure counts
        return
    costs = {s: cost_by_hand(rows, scores, s, failures) for s in np.unique(scores).tolist()}
    assert {point.threshold: point.cost for point in chosen.curve} == costs
    assert chosen.cost == min(costs.values())
    assert chosen.value == max(s for s, cost in costs.items() if cost == chosen.cost)


def test_many_scores_are_tried_at_about_a_hundred_of_them_and_the_curve_is_right():
    random = np.random.default_rng(3)
    rows = pd.concat([rows_of(*range(300), machine=m) for m in "abc"], ignore_index=True)
    failures = pd.concat([failures_at(*range(20, 300, 70), machine=m) for m in "abc"])
    scores = random.random(len(rows))
    chosen = choose_threshold(rows, scores, failures, FLEET)
    assert 50 < len(chosen.curve) <= 100
    assert chosen.cost == min(point.cost for point in chosen.curve)
    for point in chosen.curve[::20]:
        assert point.cost == cost_by_hand(rows, scores, point.threshold, failures)
