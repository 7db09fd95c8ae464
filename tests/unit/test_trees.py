"""What XGBoost's C library is asked directly is what its Python says."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xgboost

from millwright.encoder import Matrix
from millwright.models import Classifier
from millwright.trees import contributions, predict


def grown(columns: int, seed: int = 0, trees: int = 20) -> xgboost.Booster:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((300, columns), dtype=np.float32)
    labels = rows.sum(axis=1) > 0.3
    rows[rng.random(rows.shape) < 0.2] = np.nan
    booster = Classifier({"max_depth": 4}, trees, seed).fit(rows, labels).booster
    assert booster is not None
    return booster


BOOSTER = grown(6)


def some(rows: int, columns: int = 6, seed: int = 1) -> Matrix:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, columns), dtype=np.float32) * 3
    matrix[rng.random(matrix.shape) < 0.3] = np.nan
    return matrix


def assert_same(booster: xgboost.Booster, matrix: Matrix) -> None:
    found, wanted = predict(booster, matrix), booster.inplace_predict(matrix)
    assert (found.dtype, found.shape) == (np.float64, (len(matrix),))
    assert found.astype(np.float32).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("rows", [1, 2, 63, 1_000])
def test_probabilities_are_those_of_xgboost(rows: int) -> None:
    assert_same(BOOSTER, some(rows))


def test_no_rows_have_no_probabilities() -> None:
    found = predict(BOOSTER, some(0))
    assert (found.dtype, found.shape) == (np.float64, (0,))


def test_rows_may_lie_in_memory_in_any_way() -> None:
    wide, wanted = some(40, 12), predict(BOOSTER, some(40, 12)[:, ::2].copy())
    for matrix in (wide[:, ::2], np.asfortranarray(wide[:, ::2]), wide[:, ::2].astype(np.float64)):
        assert predict(BOOSTER, matrix).tolist() == wanted.tolist()
    assert predict(BOOSTER, wide[::3, ::2]).tolist() == wanted[::3].tolist()


def test_extremes_are_values_and_only_nan_is_missing() -> None:
    matrix = some(8)
    matrix[0], matrix[1], matrix[2], matrix[3] = np.inf, -np.inf, np.nan, 0
    matrix[4], matrix[5], matrix[6, 2] = -0.0, np.finfo(np.float32).max, np.inf
    assert_same(BOOSTER, matrix)
    moved = contributions(BOOSTER, matrix).sum(axis=1)
    assert 1 / (1 + np.exp(-moved)) == pytest.approx(predict(BOOSTER, matrix), abs=1e-5)


def test_boosters_of_other_widths_are_asked_in_turn_in_one_thread() -> None:
    boosters = {columns: grown(columns, columns) for columns in (2, 6, 30)}
    for rows in (1, 50, 2, 1):
        for columns, booster in boosters.items():
            assert_same(booster, some(rows, columns, rows))


def test_what_was_predicted_does_not_change_with_the_next_prediction() -> None:
    first = predict(BOOSTER, some(5, seed=2))
    kept = first.copy()
    predict(BOOSTER, some(5, seed=3))
    assert first.tolist() == kept.tolist()


def test_predictions_leave_no_garbage_behind() -> None:
    matrix = some(3)
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            predict(BOOSTER, matrix)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_threads_ask_one_booster_at_once() -> None:
    matrices = [some(rows % 7 + 1, seed=rows) for rows in range(200)]
    wanted = [predict(BOOSTER, matrix).tolist() for matrix in matrices]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda matrix: predict(BOOSTER, matrix).tolist(), matrices))
    assert found == wanted


@pytest.mark.parametrize("columns", [1, 5, 7])
def test_rows_of_another_width_are_refused(columns: int) -> None:
    with pytest.raises(ValueError, match="Number of columns"):
        predict(BOOSTER, some(3, columns))
    assert_same(BOOSTER, some(3))


def test_all_trees_have_a_say_whichever_was_best_in_training() -> None:
    booster = grown(6, trees=30)
    booster.set_attr(best_iteration="3")
    wanted = 1 / (1 + np.exp(-booster.predict(
        xgboost.DMatrix(some(20)), output_margin=True, iteration_range=(0, 30)
    ).astype(np.float64)))  # fmt: skip
    assert predict(booster, some(20)) == pytest.approx(wanted, abs=1e-6)


def test_contributions_add_up_to_the_log_odds() -> None:
    matrix = some(20)
    found = contributions(BOOSTER, matrix)
    assert found.shape == (20, 7)
    assert 1 / (1 + np.exp(-found.sum(axis=1))) == pytest.approx(predict(BOOSTER, matrix), abs=1e-5)
