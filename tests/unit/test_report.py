"""What a planner and an engineer get to read."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from millwright import plots
from millwright.alarms import choose_threshold
from millwright.evaluation import Contribution, evaluate
from millwright.fleet import load_fleet
from millwright.gate import decide, load_limits
from millwright.report import (
    Pictures,
    ReportContext,
    Split,
    inline_svg,
    planner_summary,
    render_model_card,
    render_report,
)

FLEET = load_fleet("azure_pdm")
START = pd.Timestamp("2025-03-01", tz="UTC")


@pytest.fixture(scope="module")
def context():
    """Four machines of which each fails once; the model sees three of them coming."""
    hours, machines = 240, ["1", "2", "3", "4"]
    rows = pd.DataFrame(
        {
            "machine_id": np.repeat(machines, hours),
            "event_timestamp": list(pd.date_range(START, periods=hours, freq="h")) * 4,
            "model": np.repeat(["model1", "model2", "model1", "model2"], hours),
            "age": np.repeat([3.0, 7.0, 12.0, 18.0], hours),
        }
    )
    hour = np.tile(np.arange(hours), 4)
    rows["label"] = (hour >= 126) & (hour < 150)
    failures = pd.DataFrame({"machine_id": machines, "timestamp": START + pd.Timedelta(hours=150)})
    scores = np.where(rows["label"] & (rows["machine_id"] != "4"), 0.8, 0.01)
    scores[10] = 0.9
    threshold = choose_threshold(rows, scores, failures, FLEET)
    model = evaluate(rows, scores, failures, 0.5, FLEET)
    rule = evaluate(rows, np.zeros(len(rows)), failures, 0.5, FLEET)
    contributions = (Contribution(feature="volt_mean_24h", mean_absolute=0.5),)
    return ReportContext(
        title="Failures of <b>presses</b>",
        fleet=FLEET.model_copy(update={"description": "Presses <script>alert(1)</script>"}),
        environment="local",
        created_at=datetime(2025, 6, 1, 12, tzinfo=UTC),
        dataset_version="d4f00d",
        code_version="c0de",
        feature_service="failure_model_v1",
        detector_version="detector-7",
        splits=(Split("training", 12_345, 310, START, START + pd.Timedelta(days=9)),),
        parameters={"max_depth": 4, "odd|name": "<img src=x>"},
        candidate=model,
        baselines={"logistic_regression": rule},
        decision=decide(load_limits(), model, {"logistic_regression": rule}, None, 0),
        contributions=contributions,
        pictures=Pictures(
            precision_recall=plots.precision_recall(
                rows["label"].to_numpy(), {"model": scores, "rule": np.zeros(len(rows))}
            ),
            calibration=plots.calibration(model.calibration),
            cost=plots.cost_over_threshold(threshold, FLEET.costs),
            contributions=plots.top_contributions(contributions),
            timeline=plots.timeline("1", rows, scores, 0.5, failures, FLEET),
        ),
        model_name="azure_pdm_failure",
        model_version=3,
        git_revision="abc1234",
        mlflow_run_id="run-9",
    )


@pytest.fixture(scope="module")
def page(context):
    return render_report(context)


class Reader(HTMLParser):
    """Gathers what a browser would show, and what it would ask for or run."""

    def __init__(self):
        super().__init__()
        self.text, self.tags, self.targets = "", [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.targets += [v for k, v in attributes if k in ("src", "href", "srcset", "xlink:href")]

    def handle_data(self, data):
        self.text += data


def read(page):
    reader = Reader()
    reader.feed(str(page))  # a Markup would escape what the parser has decoded
    return reader


def test_the_page_tells_the_planner_what_the_model_would_have_done(context, page):
    text = read(page).text
    caught, alarms, cost = planner_summary(context)
    assert caught == (
        "In the test window 4 machines had 4 failures. The model would have warned of 3 of them at "
        "least 4 hours ahead, half of them 24 hours ahead or more."
    )
    assert "raised 4 alarms, 1 of them false: 0.75 a machine and month" in alarms
    assert "would have cost EUR 32,500." in cost
    assert "would have cost EUR 80,000, so the model would have saved EUR 47,500." in cost
    for sentence in (caught, alarms, cost):
        assert sentence in text


def test_the_page_gives_the_engineer_comparison_gate_segments_and_origin(context, page):
    text = read(page).text
    assert "Refused by the gate" in text
    for failure in context.decision.failures:
        assert str(failure) in text
    assert "logistic regression" in text
    assert f"{context.candidate.average_precision:.3f}" in text
    assert "model=model2" in text
    assert "age=5-10" in text
    for origin in ("d4f00d", "abc1234", "c0de", "failure_model_v1", "detector-7", "run-9"):
        assert origin in text
    assert "12,345" in text
    assert "2025-03-01 00:00" in text


def test_the_page_holds_every_picture_that_it_was_given(context, page):
    reader = read(page)
    assert reader.tags.count("svg") == 5
    for words in ("recall", "mean score of the bin", "needless inspections", "volt_mean_24h"):
        assert words in reader.text
    fewer = render_report(replace(context, pictures=Pictures(cost=context.pictures.cost)))
    assert read(fewer).tags.count("svg") == 1


def test_text_from_outside_is_shown_and_not_run(page):
    reader = read(page)
    assert "script" not in reader.tags
    assert "img" not in reader.tags
    assert "Presses <script>alert(1)</script>" in reader.text
    assert "Failures of <b>presses</b>" in reader.text
    assert "<img src=x>" in reader.text


def test_the_page_asks_for_nothing_outside_itself(page):
    assert all(target.startswith("#") for target in read(page).targets)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)


def test_names_in_a_picture_are_escaped():
    feature = "<script>alert(1)</script>"
    figure = plots.top_contributions([Contribution(feature=feature, mean_absolute=1.0)])
    svg = inline_svg(figure)
    assert "<script" not in svg
    assert feature in read(svg).text


def test_pictures_take_their_colours_from_the_page(page):
    used = set(re.findall(r"var\(--([a-z]+)\)", page))
    light, dark = page.split("prefers-color-scheme: dark", 1)
    for name in used:
        assert f"--{name}:" in light
        assert f"--{name}:" in dark


def test_the_same_figure_makes_the_same_picture():
    ranked = [Contribution(feature="volt", mean_absolute=1.0)]
    first, second = (inline_svg(plots.top_contributions(ranked)) for _ in range(2))
    assert first == second


def test_a_page_without_failures_champion_or_versions_says_so(context):
    rows = pd.DataFrame(
        {
            "machine_id": "1",
            "event_timestamp": pd.date_range(START, periods=5, freq="h"),
            "label": False,
        }
    )
    none = pd.DataFrame(
        {"machine_id": pd.Series(dtype=object), "timestamp": pd.DatetimeIndex([], tz="UTC")}
    )
    quiet = evaluate(rows, np.zeros(5), none, 0.5, FLEET)
    bare = replace(
        context,
        candidate=quiet,
        baselines={},
        decision=decide(load_limits(), quiet, {}, None, 0),
        contributions=(),
        pictures=Pictures(),
        model_name="",
        model_version=None,
        git_revision=None,
        mlflow_run_id=None,
    )
    assert "No machine failed in the test window (1 machine)" in read(render_report(bare)).text
    assert "average_precision cannot be computed" in render_model_card(bare)


def test_the_model_card_says_what_it_is_for_what_it_is_worth_and_how_to_make_it_again(context):
    card = render_model_card(context)
    assert card.startswith("# azure_pdm_failure, version 3\n")
    headings = re.findall(r"^## (.+)$", card, flags=re.MULTILINE)
    assert headings == ["Intended use", "Data", "Metrics", "Limits", "How to reproduce it"]
    assert "python run.py --pipeline training --fleet azure_pdm --stack local" in card
    assert "git checkout abc1234" in card
    assert "3 of 4" in card
    assert "| max_depth | 4 |" in card
    assert "<script" not in card
    assert "| odd\\|name | &lt;img src=x> |" in card
    for failure in context.decision.failures:
        assert f"- {failure}" in card


NOTE = "v3 reads features that are no longer made: <volt>"


def test_the_page_says_at_the_gate_and_in_the_comparison_why_the_champion_is_missing(context):
    text = read(render_report(replace(context, champion_note=NOTE))).text
    gate, comparison = text.split("Comparison on the same rows")
    assert f"nothing says whether this model is better: {NOTE}." in gate
    assert f"not compared: {NOTE}" in comparison


def test_the_model_card_says_why_the_champion_is_missing(context):
    card = render_model_card(replace(context, champion_note=NOTE))
    assert f"\n\nThe champion was not compared: {NOTE.replace('<', '&lt;')}.\n" in card


def test_without_a_champion_nothing_is_said_of_one(context, page):
    for text in (read(page).text, render_model_card(context)):
        assert "champion" not in text
