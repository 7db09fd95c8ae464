"""Which models the gate lets through, and what it says of the others."""

import pytest

from millwright.errors import ConfigurationError, DataError
from millwright.evaluation import Evaluation
from millwright.gate import FILE, decide, load_limits
from millwright.settings import REPOSITORY

GOOD = Evaluation(
    rows=10_000,
    machines=100,
    machine_months=50,
    base_rate=0.02,
    average_precision=0.8,
    roc_auc=0.98,
    brier=0.01,
    precision=0.9,
    recall=0.8,
    failures=40,
    failures_caught=36,
    failures_flagged_late=1,
    median_warning_hours=20,
    alarms=60,
    false_alarms=20,
    false_alarms_per_machine_month=0.4,
    cost=234_000,
    cost_per_machine_month=4_680,
    cost_without_alarms=800_000,
    threshold=0.1,
    calibration_error=0.002,
    calibration=(),
    segments=(),
)
LIMITS = load_limits()


def like_good(**changes):
    return GOOD.model_copy(update=changes)


RULE = like_good(average_precision=0.3, cost=500_000)


def keys(decision):
    return [failure.key for failure in decision.failures]


def test_a_good_model_passes_with_and_without_a_champion():
    for champion in (None, GOOD):
        decision = decide(LIMITS, GOOD, {"rule": RULE}, champion, 0)
        assert decision.passed
        assert decision.summary() == {"passed": True, "failures": []}


@pytest.mark.parametrize(
    ("figure", "worst", "too_bad", "key"),
    [
        ("failures", 5, 4, "minimum_failures"),
        ("average_precision", 0.31, 0.29, "minimum_average_precision"),
        ("roc_auc", 0.85, 0.84, "minimum_roc_auc"),
        ("failures_caught", 24, 23, "minimum_share_caught"),
        ("false_alarms_per_machine_month", 2.0, 2.1, "maximum_false_alarms_per_machine_month"),
        ("calibration_error", 0.02, 0.021, "maximum_calibration_error"),
    ],
)
def test_a_figure_may_reach_its_limit_and_not_pass_it(figure, worst, too_bad, key):
    assert keys(decide(LIMITS, like_good(**{figure: worst}), {}, None, 0)) == []
    assert keys(decide(LIMITS, like_good(**{figure: too_bad}), {}, None, 0)) == [key]


def test_every_miss_is_gathered_and_named_with_value_limit_and_key():
    bad = like_good(
        failures=4,
        failures_caught=1,
        average_precision=0.2,
        roc_auc=0.6,
        false_alarms_per_machine_month=3.5,
        calibration_error=0.3,
        cost=900_000,
    )
    rule = RULE.model_copy(update={"failures": 4})
    champion = like_good(failures=4)
    decision = decide(LIMITS, bad, {"logistic_regression": rule}, champion, 0)
    assert not decision.passed
    assert keys(decision) == [
        "minimum_failures",
        "minimum_average_precision",
        "minimum_roc_auc",
        "minimum_share_caught",
        "maximum_false_alarms_per_machine_month",
        "maximum_calibration_error",
        "baselines.average_precision_margin",
        "baselines.cost_margin",
        "champion.average_precision_margin",
        "champion.cost_margin",
    ]
    sentences = decision.summary()["failures"]
    assert sentences[1] == (
        f"average_precision is 0.2 and must be at least 0.3 (minimum_average_precision in {FILE})"
    )
    assert sentences[7] == (
        "cost is 900,000 and must be at most 525,000 to beat the logistic regression "
        f"(baselines.cost_margin in {FILE})"
    )
    assert "to replace the champion" in sentences[9]


def test_a_baseline_must_be_beaten_in_precision_and_may_be_a_little_cheaper():
    level = like_good(average_precision=GOOD.average_precision - 0.005)
    assert keys(decide(LIMITS, GOOD, {"rule": level}, None, 0)) == [
        "baselines.average_precision_margin"
    ]
    strict = LIMITS.model_copy(
        update={"baselines": LIMITS.baselines.model_copy(update={"cost_margin": 0.0})}
    )
    rival = like_good(average_precision=0.5, cost=GOOD.cost / 1.04)
    assert keys(decide(LIMITS, GOOD, {"rule": rival}, None, 0)) == []
    assert keys(decide(strict, GOOD, {"rule": rival}, None, 0)) == ["baselines.cost_margin"]


def test_a_perfect_baseline_can_still_be_met():
    perfect = like_good(average_precision=1.0)
    assert decide(LIMITS, perfect, {"rule": perfect}, None, 0).passed


def test_the_champion_may_be_a_little_better_and_no_more():
    little = like_good(average_precision=0.81, cost=GOOD.cost / 1.05)
    much = like_good(average_precision=0.83, cost=GOOD.cost / 1.15)
    assert decide(LIMITS, GOOD, {}, little, 0).passed
    assert keys(decide(LIMITS, GOOD, {}, much, 0)) == [
        "champion.average_precision_margin",
        "champion.cost_margin",
    ]


def test_figures_that_cannot_be_computed_do_not_pass():
    nothing = like_good(failures=0, failures_caught=0, average_precision=None, roc_auc=None)
    decision = decide(LIMITS, nothing, {}, None, 0)
    assert keys(decision) == [
        "minimum_failures",
        "minimum_average_precision",
        "minimum_roc_auc",
        "minimum_share_caught",
    ]
    assert "average_precision cannot be computed" in str(decision.failures[1])


def test_models_judged_on_different_rows_are_not_compared():
    with pytest.raises(DataError, match="different rows"):
        decide(LIMITS, GOOD, {"rule": like_good(rows=5)}, None, 0)


def test_a_misspelt_limit_is_refused_with_its_line(tmp_path):
    text = load_text().replace("minimum_roc_auc", "minimum_roc_acu")
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_limits(path)
    line = next(n for n, t in enumerate(text.splitlines(), 1) if "minimum_roc_acu" in t)
    assert f"{path}:{line}: unknown key 'minimum_roc_acu'; did you mean 'minimum_roc_auc'?" in str(
        caught.value
    )
    assert "'minimum_roc_auc' is missing" in str(caught.value)


def test_the_messages_name_the_file_that_the_limits_come_from():
    assert "minimum_share_caught" in load_text()


def load_text():
    return (REPOSITORY / FILE).read_text()
