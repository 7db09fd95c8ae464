"""The pictures show the data that they were given: their artists are asked, not their pixels."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from matplotlib import rcParams
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score

from millwright import plots
from millwright.alarms import CostPoint, Threshold
from millwright.evaluation import CalibrationBin, Contribution
from millwright.fleet import load_fleet

HOUR = timedelta(hours=1)
START = pd.Timestamp("2025-03-01", tz="UTC")
FLEET = load_fleet("azure_pdm")


def line(axes, label):
    return next(each for each in axes.lines if each.get_label() == label)


def texts(axes):
    return [each.get_text() for each in axes.texts]


def history(hours=200, machines=("1", "2")):
    rows = pd.DataFrame(
        {
            "machine_id": np.repeat(machines, hours),
            "event_timestamp": list(pd.date_range(START, periods=hours, freq="h")) * len(machines),
        }
    )
    return rows, np.zeros(len(rows))


def failures(**hours):
    return pd.DataFrame(
        {
            "machine_id": [machine.strip("m") for machine in hours],
            "timestamp": [START + hour * HOUR for hour in hours.values()],
        }
    )


def test_precision_and_recall_are_drawn_for_each_contender_and_labelled_with_their_area():
    label = np.array([True, False, True, False])
    scores = {"rule": np.array([0.1, 0.9, 0.2, 0.3]), "model": np.array([0.9, 0.1, 0.8, 0.2])}
    axes = plots.precision_recall(label, scores).axes[0]
    model, rule = line(axes, "model"), line(axes, "rule")
    assert set(zip(model.get_xdata(), model.get_ydata(), strict=True)) >= {(1.0, 1.0), (0.5, 1.0)}
    assert rule.get_ydata()[list(rule.get_xdata()).index(1.0)] == 0.5
    area = average_precision_score(label, scores["rule"])
    assert texts(axes) == ["chance 50.0%", "average precision", "1.00  model", f"{area:.2f}  rule"]
    assert model.get_color() != rule.get_color()


def test_a_long_curve_is_thinned():
    random = np.random.default_rng(1)
    label = random.random(50_000) < 0.3
    axes = plots.precision_recall(label, {"model": random.random(50_000)}).axes[0]
    assert 500 < len(line(axes, "model").get_xdata()) < 1300


def test_calibration_draws_a_point_for_each_bin():
    bins = [
        CalibrationBin(mean_predicted=predicted, observed=observed, count=10)
        for predicted, observed in [(0.01, 0.0), (0.2, 0.3), (0.6, 0.5)]
    ]
    axes = plots.calibration(bins).axes[0]
    points = axes.collections[0].get_offsets().tolist()
    assert points == [[0.01, 0.0], [0.2, 0.3], [0.6, 0.5]]
    assert axes.get_xlim()[1] >= 0.6


def test_the_cost_curve_shows_the_three_parts_their_sum_and_the_chosen_threshold():
    curve = (
        CostPoint(threshold=0.1, failures_caught=2, false_alarms=30, cost=23_000),
        CostPoint(threshold=0.5, failures_caught=1, false_alarms=4, cost=26_000),
    )
    chosen = Threshold(value=0.1, cost=23_000, failures=2, curve=curve)
    axes = plots.cost_over_threshold(chosen, FLEET.costs).axes[0]
    assert list(line(axes, "all together").get_xdata()) == [0.1, 0.5]
    parts = ("missed failures", "planned repairs", "needless inspections")
    drawn = np.array([line(axes, name).get_ydata() for name in parts])
    assert drawn.tolist() == [[0, 20_000], [8_000, 4_000], [15_000, 2_000]]
    assert list(line(axes, "all together").get_ydata()) == drawn.sum(axis=0).tolist()
    marked = next(each for each in axes.lines if each.get_marker() == "o")
    assert (marked.get_xdata()[0], marked.get_ydata()[0]) == (0.1, 23_000)
    assert "chosen: 0.1, EUR 23,000" in texts(axes)
    assert set(parts) < set(texts(axes))


def test_the_largest_contributions_stand_on_top():
    ranked = [Contribution(feature=f"f{i}", mean_absolute=1 / (i + 1)) for i in range(20)]
    axes = plots.top_contributions(ranked, count=3).axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [each.get_text() for each in axes.get_yticklabels()] == ["f0", "f1", "f2"]
    assert axes.yaxis_inverted()


def test_the_timeline_shows_one_machine_with_its_score_alarms_and_failures():
    rows, scores = history()
    scores[50], scores[100], scores[200 + 30] = 0.9, 0.8, 0.7
    gone = failures(m1=60, m2=33)
    axes = plots.timeline("1", rows, scores, 0.5, gone, FLEET).axes[0]
    assert list(line(axes, "score").get_ydata()) == scores[:200].tolist()
    assert line(axes, "score").get_xdata()[0] == date2num(START)
    assert line(axes, "threshold 0.5").get_ydata()[0] == 0.5
    assert list(line(axes, "true alarm").get_xdata()) == [date2num(START + 50 * HOUR)]
    assert list(line(axes, "false alarm").get_ydata()) == [0.8]
    drawn = [each.get_xdata()[0] for each in axes.lines if each.get_gid() == "failure"]
    assert drawn == [date2num(START + 60 * HOUR)]


def test_the_timeline_adds_at_most_four_sensors_of_that_machine():
    rows, scores = history()
    five = {f"s{i}": FLEET.sensors["volt"] for i in range(5)}
    fleet = FLEET.model_copy(update={"sensors": five})
    readings = rows.rename(columns={"event_timestamp": "timestamp"})
    for number, name in enumerate(five):
        readings[name] = np.arange(len(rows)) + 1000.0 * number
    panels = plots.timeline("2", rows, scores, 0.5, failures(m2=60), fleet, readings).axes
    assert [axes.get_ylabel() for axes in panels] == ["score", "s0\nV", "s1\nV", "s2\nV", "s3\nV"]
    drawn = panels[2].lines[-1]
    assert list(drawn.get_ydata()) == [1200.0 + hour for hour in range(200)]


def test_a_long_timeline_keeps_its_peaks():
    rows, scores = history(hours=5000, machines=("1",))
    scores[3333] = 0.97
    drawn = line(plots.timeline("1", rows, scores, 0.5, failures(), FLEET).axes[0], "score")
    assert len(drawn.get_ydata()) < 1300
    assert max(drawn.get_ydata()) == 0.97


def test_the_machine_picked_has_a_caught_failure_and_the_most_events():
    rows, scores = history(hours=200, machines=("1", "2", "3"))
    scores[[0, 30, 60, 90, 120]] = 0.9  # machine 1: five false alarms, nothing caught
    scores[200 + 40] = scores[400 + 40] = 0.9  # machines 2 and 3: a failure caught
    gone = failures(m2=50, m3=50)
    assert plots.pick_machine(rows, scores, 0.5, gone, FLEET) == "2"
    scores[400 + 100] = 0.9  # one alarm more
    assert plots.pick_machine(rows, scores, 0.5, gone, FLEET) == "3"
    assert plots.pick_machine(rows, scores, 0.5, gone[:0], FLEET) == "1"


def test_no_figure_changes_the_settings_of_matplotlib():
    before = dict(rcParams)
    figure = plots.top_contributions([Contribution(feature="volt", mean_absolute=1.0)])
    assert isinstance(figure, Figure)
    assert dict(rcParams) == before
