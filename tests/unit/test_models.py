"""The encoder, the classifier and the baselines that it must beat."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_tables import plant

from millwright.encoder import Encoder, Matrix
from millwright.fleet import Fleet
from millwright.models import Classifier, Labels, Logistic, Rule, thin
from millwright.trees import contributions, predict
from millwright.views import model_features

FLEET = plant()
ENCODER = Encoder.of(FLEET)
ROWS = 600


def frame(rows: int = 3, **columns: Any) -> pd.DataFrame:
    """Feature rows, all zero but for `columns`."""
    values = {
        name: ["m1"] * rows if kind == "string" else np.zeros(rows, np.float32)
        for name, kind in model_features(FLEET).items()
    }
    return pd.DataFrame(values | columns)


def learnable(seed: int = 0) -> tuple[Matrix, Labels]:
    """Rows of which the first column says something, some values missing."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((ROWS, len(ENCODER.columns)), dtype=np.float32)
    labels = matrix[:, 0] + rng.normal(0, 0.5, ROWS) > 1.5
    errors = [i for i, name in enumerate(ENCODER.columns) if "_count_" in name]
    matrix[:, errors] = rng.poisson(0.3, (ROWS, len(errors)))
    matrix[rng.random(matrix.shape) < 0.05] = np.nan
    return matrix, labels


def test_columns_stand_in_the_order_of_the_features_a_category_as_its_values() -> None:
    assert ENCODER.features == tuple(model_features(FLEET))
    position = ENCODER.features.index("model")
    assert ENCODER.columns == [
        *ENCODER.features[:position], "model=m1", "model=m2", *ENCODER.features[position + 1 :]
    ]  # fmt: skip
    assert len(set(ENCODER.columns)) == len(ENCODER.columns)


def test_each_value_lands_in_the_column_of_its_name() -> None:
    numbers = [name for name in ENCODER.features if name != "model"]
    values = {name: [float(i), -float(i)] for i, name in enumerate(numbers, 1)}
    rows = frame(2, **values, model=["m2", "m1"])
    shuffled = rows[list(reversed(rows.columns))].assign(more=1.0)
    matrix = ENCODER.encode(shuffled)
    assert matrix.dtype == np.float32
    found = pd.DataFrame(matrix, columns=ENCODER.columns)
    for name, expected in values.items():
        assert found[name].tolist() == expected
    assert found["model=m1"].tolist() == [0, 1]
    assert found["model=m2"].tolist() == [1, 0]


@pytest.mark.parametrize("kind", [object, "string", "str", "category"])
def test_a_missing_or_unknown_category_is_zero_in_all_of_its_columns(kind: Any) -> None:
    rows = frame(4, model=pd.Series(["m2", None, "m9", "m1"], dtype=kind))
    found = pd.DataFrame(ENCODER.encode(rows), columns=ENCODER.columns)
    assert found["model=m1"].tolist() == [0, 0, 0, 1]
    assert found["model=m2"].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("kind", ["float64", "Float32", object])
def test_a_missing_number_stays_missing(kind: Any) -> None:
    rows = frame(3, age=pd.Series([None, 2, 7], dtype=kind))
    found = ENCODER.encode(rows)[:, ENCODER.columns.index("age")]
    assert np.isnan(found[0])
    assert found[1:].tolist() == [2, 7]


def test_a_feature_that_is_not_there_is_no_zero() -> None:
    with pytest.raises(KeyError, match="age"):
        ENCODER.encode(frame().drop(columns="age"))


def test_no_rows_make_an_empty_matrix() -> None:
    assert ENCODER.encode(frame(0)).shape == (0, len(ENCODER.columns))


def test_an_encoder_comes_back_from_a_release_as_it_was() -> None:
    assert Encoder.model_validate_json(ENCODER.model_dump_json()) == ENCODER


MODELS = [
    lambda: Rule(FLEET),
    lambda: Logistic(seed=3),
    lambda: Logistic(seed=3, most_rows=200),
    lambda: Classifier({"max_depth": 3, "subsample": 0.7, "colsample_bytree": 0.7}, 20, seed=3),
]


@pytest.mark.parametrize("make", MODELS)
def test_the_same_seed_gives_the_same_scores_to_the_last_digit(make: Any) -> None:
    matrix, labels = learnable()
    first, second = (make().fit(matrix, labels).score(matrix) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.shape == (ROWS,)
    assert first.dtype == np.float64
    assert ((first >= 0) & (first <= 1)).all()


@pytest.mark.parametrize("make", MODELS)
def test_a_row_is_scored_the_same_in_any_company(make: Any) -> None:
    matrix, labels = learnable()
    model = make().fit(matrix, labels)
    alone = np.concatenate([model.score(matrix[[row]]) for row in (0, 7, 99)])
    np.testing.assert_allclose(alone, model.score(matrix)[[0, 7, 99]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", MODELS[1:])
def test_what_learns_from_labels_ranks_what_it_has_not_seen(make: Any) -> None:
    model = make().fit(*learnable(seed=0))
    matrix, labels = learnable(seed=1)
    scores = model.score(matrix)
    assert scores[labels].mean() > 3 * scores[~labels].mean()


def test_another_seed_grows_other_trees() -> None:
    matrix, labels = learnable()
    parameters = {"subsample": 0.5}
    one, other = (Classifier(parameters, 10, seed).fit(matrix, labels) for seed in (1, 2))
    assert (one.score(matrix) != other.score(matrix)).any()


def test_a_classifier_scores_nothing_before_it_has_learned() -> None:
    with pytest.raises(ValueError, match="fit the classifier first"):
        Classifier({}, 1, seed=0).score(learnable()[0])


def rule_columns(fleet: Fleet, rule: Rule) -> tuple[list[str], list[str]]:
    columns = Encoder.of(fleet).columns
    return [columns[i] for i in rule.sensors], [columns[i] for i in rule.errors]


def test_the_rule_watches_means_over_the_longest_window_and_errors() -> None:
    features = {"windows": ["3h", "24h"], "error_windows": ["12h"], "time_to_live": "48h"}
    fleet = plant(features=features)
    assert rule_columns(fleet, Rule(fleet)) == (
        ["heat_mean_24h", "noise_mean_24h"], ["e1_count_12h", "e2_count_12h"]
    )  # fmt: skip
    without = plant(features=features | {"statistics": ["max"]})
    assert rule_columns(without, Rule(without))[0] == ["heat_mean_1h", "noise_mean_1h"]


def test_the_rule_rises_with_deviations_either_way_and_with_errors() -> None:
    columns = ENCODER.columns
    usual = np.zeros((101, len(columns)), dtype=np.float32)
    usual[:, columns.index("heat_mean_3h")] = np.linspace(10, 20, 101)
    rule = Rule(FLEET).fit(usual, np.zeros(101, dtype=bool))

    def score(**values: float) -> float:
        row = usual[[50]].copy()
        for name, value in values.items():
            row[0, columns.index(name)] = value
        return float(rule.score(row)[0])

    rising = [
        score(), score(heat_mean_3h=18), score(heat_mean_3h=25),
        score(heat_mean_3h=25, e1_count_24h=1),
        score(heat_mean_3h=25, e1_count_24h=1, e2_count_24h=4),
    ]  # fmt: skip
    assert all(before < after for before, after in pairwise(rising))
    assert rising[0] == 0
    assert score(heat_mean_3h=5) == pytest.approx(score(heat_mean_3h=25))
    # Two deviations, worked out by hand, are two thirds.
    deviation = float(np.linspace(10, 20, 101).std())
    assert score(heat_mean_3h=15 + 2 * deviation) == pytest.approx(2 / 3, abs=1e-6)


def test_the_rule_does_without_what_was_never_read() -> None:
    matrix, labels = learnable()
    matrix[:, ENCODER.columns.index("heat_mean_3h")] = np.nan
    rule = Rule(FLEET).fit(matrix, labels)
    seen = matrix[:2].copy()
    seen[:, ENCODER.columns.index("heat_mean_3h")] = 1e6
    assert np.isfinite(rule.score(matrix)).all()
    assert rule.score(seen).tolist() == rule.score(matrix[:2]).tolist()


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=80),
    st.integers(1, 100),
    st.integers(0, 2**32 - 1),
)
def test_thinning_keeps_every_failure_and_weights_restore_the_base_rate(
    flags: list[bool], most: int, seed: int
) -> None:
    labels = np.array(flags)
    rows = np.flatnonzero(np.arange(len(flags)) % 3 != 1)  # a fold has some of the rows
    kept, weights = thin(rows, labels, most, seed)
    assert set(rows[labels[rows]]) <= set(kept) <= set(rows)
    assert (np.diff(kept) > 0).all()
    failing, healthy = int(labels[rows].sum()), int((~labels[rows]).sum())
    assert len(kept) == min(len(rows), max(most, failing + min(1, healthy)))
    assert weights[labels[kept]].sum() == failing
    assert weights[~labels[kept]].sum() == pytest.approx(healthy, rel=1e-5)


def test_thinning_depends_on_nothing_but_its_seed() -> None:
    labels = np.arange(1000) % 50 == 0
    rows = np.arange(1000)
    first, again, other = (thin(rows, labels, 100, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_contributions_of_a_row_sum_to_its_margin() -> None:
    matrix, labels = learnable()
    booster = Classifier({"max_depth": 4, "eta": 0.2}, 25, seed=0).fit(matrix, labels).booster
    assert booster is not None
    found = contributions(booster, matrix)
    assert found.shape == (ROWS, len(ENCODER.columns) + 1)
    margins = booster.predict(xgboost.DMatrix(matrix), output_margin=True)
    np.testing.assert_allclose(found.sum(axis=1), margins, rtol=0, atol=1e-4)
    np.testing.assert_allclose(predict(booster, matrix), 1 / (1 + np.exp(-margins)), atol=1e-6)
    # What the labels follow from is what the trees are about.
    assert np.abs(found[:, :-1]).mean(axis=0).argmax() == 0
