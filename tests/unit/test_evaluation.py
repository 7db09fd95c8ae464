"""What `millwright.evaluation` says of scores, on small cases and on drawn ones."""

import json
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millwright.errors import DataError
from millwright.evaluation import (
    CalibrationBin,
    calibrate,
    calibration_error,
    compare,
    evaluate,
    scores_summary,
    summarise_contributions,
)
from millwright.fleet import load_fleet

HOUR = timedelta(hours=1)
START = pd.Timestamp("2025-03-01", tz="UTC")
FLEET = load_fleet("azure_pdm").model_copy(update={"horizon": 6 * HOUR, "lead_time": 2 * HOUR})
HOURS = 60
FAILURES = pd.DataFrame(
    {
        "machine_id": ["1", "2"],
        "timestamp": [START + 20 * HOUR, START + 40 * HOUR],
    }
)


def three_machines():
    """Machine 1 fails at hour 20, machine 2 at hour 40, machine 3 never."""
    rows = pd.DataFrame(
        {
            "machine_id": np.repeat(["1", "2", "3"], HOURS),
            "event_timestamp": list(pd.date_range(START, periods=HOURS, freq="h")) * 3,
            "model": np.repeat(["model1", "model1", "model3"], HOURS),
            "age": np.repeat([3.0, 5.0, 20.0], HOURS),
        }
    )
    hour = np.tile(np.arange(HOURS), 3)
    machine = rows["machine_id"].to_numpy()
    label = ((machine == "1") & (hour >= 14) & (hour < 20)) | (
        (machine == "2") & (hour >= 34) & (hour < 40)
    )
    scores = np.full(len(rows), 0.1)
    scores[(machine == "1") & (hour >= 16) & (hour < 20)] = 0.9  # four hours ahead
    scores[(machine == "2") & (hour == 39)] = 0.9  # too late
    scores[(machine == "3") & (hour == 5)] = 0.8  # for nothing
    return rows.assign(label=label), scores


def test_an_evaluation_gives_the_figures_worked_out_by_hand():
    rows, scores = three_machines()
    found = evaluate(rows, scores, FAILURES, 0.5, FLEET)
    assert (found.rows, found.machines, found.threshold) == (180, 3, 0.5)
    assert found.machine_months == pytest.approx(180 / 720)
    assert found.base_rate == pytest.approx(12 / 180)
    assert (found.failures, found.failures_caught, found.failures_flagged_late) == (2, 1, 1)
    assert found.share_caught == 0.5
    assert found.median_warning_hours == 4
    assert (found.alarms, found.false_alarms) == (3, 1)
    assert found.false_alarms_per_machine_month == pytest.approx(4)
    assert found.precision == pytest.approx(5 / 6)
    assert found.recall == pytest.approx(5 / 12)
    assert found.cost == 20_000 + 4_000 + 500
    assert found.cost_per_machine_month == pytest.approx(4 * 24_500)
    assert found.cost_without_alarms == 40_000
    # Precision 1 up to recall 5/12, then all 180 rows.
    assert found.average_precision == pytest.approx(5 / 12 + 7 / 12 * 12 / 180)
    # Of pairs of a positive and a negative row: 5/12 above all, the rest level with all but one.
    assert found.roc_auc == pytest.approx(5 / 12 + 7 / 12 * (167 / 168) / 2)
    squares = 5 * 0.1**2 + 7 * 0.9**2 + 0.8**2 + 167 * 0.1**2
    assert found.brier == pytest.approx(squares / 180)


def test_segments_are_named_by_value_and_band_and_hold_their_own_rows():
    rows, scores = three_machines()
    found = evaluate(rows, scores, FAILURES, 0.5, FLEET)
    segments = {segment.name: segment.figures for segment in found.segments}
    assert list(segments) == ["model=model1", "model=model3", "age<5", "age=5-10", "age>=15"]
    assert (segments["model=model1"].failures, segments["model=model1"].machines) == (2, 2)
    assert (segments["age<5"].failures_caught, segments["age<5"].failures) == (1, 1)
    assert (segments["age=5-10"].failures_caught, segments["age=5-10"].failures) == (0, 1)
    assert segments["age>=15"].false_alarms == 1
    for names in (("model=model1", "model=model3"), ("age<5", "age=5-10", "age>=15")):
        assert sum(segments[name].rows for name in names) == found.rows
        assert sum(segments[name].cost for name in names) == found.cost


def test_a_segment_of_one_class_has_no_ranking_figures():
    rows, scores = three_machines()
    found = evaluate(rows, scores, FAILURES, 0.5, FLEET)
    figures = next(s.figures for s in found.segments if s.name == "model=model3")
    assert (figures.average_precision, figures.roc_auc) == (None, None)
    assert (figures.recall, figures.median_warning_hours) == (None, None)
    assert figures.precision == 0


def test_attributes_that_are_not_known_are_a_segment_of_their_own():
    rows, scores = three_machines()
    rows["model"] = rows["model"].where(rows["machine_id"] != "2", None)
    rows["age"] = rows["age"].where(rows["machine_id"] != "3")
    names = [s.name for s in evaluate(rows, scores, FAILURES, 0.5, FLEET).segments]
    assert names == [
        "model=model1",
        "model=model3",
        "model=unknown",
        "age<5",
        "age=5-10",
        "age=unknown",
    ]


def test_a_fleet_without_attributes_has_no_segments():
    rows, scores = three_machines()
    bare = FLEET.model_copy(update={"attributes": {}})
    assert evaluate(rows, scores, FAILURES, 0.5, bare).segments == ()
    assert (
        evaluate(rows.drop(columns=["model", "age"]), scores, FAILURES, 0.5, FLEET).segments == ()
    )


def test_a_model_that_flags_nothing_has_no_precision():
    rows, scores = three_machines()
    found = evaluate(rows, scores, FAILURES, 0.95, FLEET)
    assert (found.precision, found.recall, found.alarms) == (None, 0, 0)
    assert found.cost == found.cost_without_alarms


def test_no_rows_are_refused():
    rows, scores = three_machines()
    with pytest.raises(DataError, match="no rows to judge"):
        evaluate(rows[:0], scores[:0], FAILURES, 0.5, FLEET)


def test_calibration_cuts_into_tenths_and_the_top_tenth_again():
    scores = np.arange(1000) / 1000
    label = scores >= 0.995
    bins = calibrate(label, scores)
    assert [each.count for each in bins] == [100] * 9 + [10] * 10
    assert [each.observed for each in bins] == [0.0] * 18 + [0.5]
    assert bins[0].mean_predicted == pytest.approx(0.0495)
    assert bins[-1].mean_predicted == pytest.approx(0.9945)


def test_rows_of_equal_score_share_a_bin_whatever_their_order():
    scores = np.array([0.0] * 95 + [1.0] * 5)
    label = np.arange(100) >= 97
    bins = calibrate(label, scores)
    assert [(each.mean_predicted, each.count) for each in bins] == [(0.0, 95), (1.0, 5)]
    assert [each.observed for each in bins] == pytest.approx([0.0, 0.6])
    assert calibrate(label[::-1], scores[::-1]) == bins


def test_the_calibration_error_weighs_the_distances_by_rows():
    bins = (
        CalibrationBin(mean_predicted=0.1, observed=0.2, count=30),
        CalibrationBin(mean_predicted=0.9, observed=0.5, count=10),
    )
    assert calibration_error(bins) == pytest.approx(0.75 * 0.1 + 0.25 * 0.4)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=200))
def test_calibration_bins_lose_no_row_and_no_failure(pairs):
    scores, label = (np.array(column) for column in zip(*pairs, strict=True))
    bins = calibrate(label, scores)
    assert sum(each.count for each in bins) == len(scores)
    assert sum(each.count * each.observed for each in bins) == pytest.approx(label.sum())
    means = [each.mean_predicted for each in bins]
    assert means == sorted(means)


def test_contenders_stand_in_the_order_given_on_the_same_rows():
    rows, scores = three_machines()
    model = evaluate(rows, scores, FAILURES, 0.5, FLEET)
    rule = evaluate(rows, np.zeros(180), FAILURES, 0.5, FLEET)
    table = compare({"model": model, "rule": rule})
    assert table.index.tolist() == ["model", "rule"]
    assert table["cost"].tolist() == [24_500, 40_000]
    other = evaluate(rows[:120], scores[:120], FAILURES, 0.5, FLEET)
    with pytest.raises(DataError, match="different rows; 'rows' is model: 180, rule: 120"):
        compare({"model": model, "rule": other})


def test_contributions_are_ranked_by_mean_absolute_value_without_the_bias():
    contributions = np.array([[1.0, -4.0, 0.0, 9.0], [-3.0, 2.0, 0.0, 9.0]], dtype=np.float32)
    ranked = summarise_contributions(contributions, ["volt", "age", "dead"])
    assert [(each.feature, each.mean_absolute) for each in ranked] == [
        ("age", 3.0),
        ("volt", 2.0),
        ("dead", 0.0),
    ]
    with pytest.raises(DataError, match="4 columns of contributions do not fit 2 features"):
        summarise_contributions(contributions, ["volt", "age"])


def test_the_summary_for_machines_has_the_agreed_keys_and_is_json():
    rows, scores = three_machines()
    summary = scores_summary(evaluate(rows, scores, FAILURES, 0.5, FLEET))
    assert set(summary) == {
        "average_precision",
        "roc_auc",
        "failures",
        "failures_caught",
        "false_alarms_per_machine_month",
        "cost",
    }
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
