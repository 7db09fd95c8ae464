"""The search keeps to its budget, and what it finds follows from its seed and the folds alone."""

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from raw_tables import plant

from millwright.encoder import Matrix
from millwright.errors import DataError
from millwright.models import Labels
from millwright.search import ROUNDS, Found, search
from millwright.settings import Search
from millwright.splits import Folds, Split, split_by_time

HOURS, MACHINES = 24 * 40, 1
FLEET = plant(horizon="24h", lead_time="1h", test_window="10d")
MOMENTS = pd.Series(
    np.repeat(pd.date_range("2025-01-01", periods=HOURS, freq="h", tz="UTC", unit="us"), MACHINES)
)


def rows() -> tuple[Matrix, Labels]:
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((len(MOMENTS), 3), dtype=np.float32)
    return matrix, matrix[:, 0] + rng.normal(0, 0.7, len(MOMENTS)) > 1.7


MATRIX, LABELS = rows()
SPLIT = split_by_time(
    MOMENTS, MOMENTS.max() + FLEET.horizon, FLEET, Folds(count=2, share=0.5)
)  # fmt: skip


def found(
    matrix: Matrix = MATRIX,
    labels: Labels = LABELS,
    split: Split = SPLIT,
    trials: int = 2,
    seconds: float = 300,
    most_rows: int = 200,
    seed: int = 7,
    workers: int = 1,
    **more: Any,
) -> Found:
    budget = Search(trials=trials, seconds=seconds, rows=most_rows)
    return search(matrix, labels, MOMENTS, split, budget, seed, workers, **more)


@pytest.fixture(scope="module")
def usual() -> Found:
    return found()


def test_a_search_finds_parameters_that_beat_chance(usual: Found) -> None:
    assert usual.rounds in ROUNDS
    assert set(usual.parameters) == {
        "max_depth", "eta", "min_child_weight", "subsample", "colsample_bytree", "reg_lambda"
    }  # fmt: skip
    assert len(usual.folds) == 2
    assert usual.average_precision == pytest.approx(np.mean(usual.folds))
    assert usual.average_precision > 5 * LABELS.mean()


def test_more_trials_find_nothing_worse(usual: Found) -> None:
    assert found(trials=1).average_precision <= usual.average_precision


def test_a_budget_in_trials_is_kept_and_told(usual: Found) -> None:
    assert (usual.trials, usual.ended_by) == (2, "trials")


def test_a_budget_in_seconds_is_kept_and_told() -> None:
    began = time.monotonic()
    stopped = found(trials=10_000, seconds=0.3)
    assert time.monotonic() - began < 10
    assert 1 <= stopped.trials < 10_000
    assert stopped.ended_by.startswith("time, after ")


def test_one_trial_is_finished_however_short_the_time() -> None:
    stopped = found(seconds=0.001)
    assert stopped.trials == 1
    assert stopped.average_precision > 0


def test_progress_is_told_after_each_trial(usual: Found) -> None:
    told: list[tuple[int, int, float]] = []
    assert found(progress=lambda *words: told.append(words)) == usual
    assert [(done, total) for done, total, _ in told] == [(1, 2), (2, 2)]
    best = [figure for _, _, figure in told]
    assert best == sorted(best)
    assert best[-1] == usual.average_precision


def test_the_same_seed_finds_the_same(usual: Found) -> None:
    assert found() == usual
    assert found(seed=8) != usual


def test_what_is_found_does_not_depend_on_the_number_of_workers(usual: Found) -> None:
    assert found(workers=2) == usual


def test_rows_after_the_folds_are_never_looked_at(usual: Found) -> None:
    later = np.asarray(MOMENTS.gt(SPLIT.folds[-1].end))
    assert later.sum() > SPLIT.test.validation(MOMENTS).sum() > 0
    matrix, labels = MATRIX.copy(), LABELS.copy()
    # XGBoost refuses infinity, so a row that got through would be an error.
    matrix[later] = np.inf
    matrix[later, 0] = np.nan
    labels[later] = ~labels[later]
    assert found(matrix, labels) == usual


def test_rows_in_the_folds_are_looked_at(usual: Found) -> None:
    """Or else the test before this one could not fail."""
    labels = LABELS.copy()
    judged = SPLIT.folds[-1].validation(MOMENTS)
    labels[judged] = np.roll(labels[judged], 5)
    assert found(labels=labels) != usual


def test_rows_in_a_gap_are_not_learned_from() -> None:
    first = SPLIT.folds[0]
    gap = np.asarray(MOMENTS.between(first.train_end, first.start, inclusive="right"))
    matrix = MATRIX.copy()
    matrix[gap] = np.inf
    alone = Split(folds=(first,), test=SPLIT.test)
    assert found(matrix, split=alone, trials=1) == found(split=alone, trials=1)


def test_the_budget_of_rows_bounds_what_a_trial_learns_from() -> None:
    learned = int(SPLIT.folds[-1].training(MOMENTS).sum())
    assert learned > 200
    every = found(most_rows=learned, trials=1)
    assert every == found(most_rows=10 * learned, trials=1)
    assert every != found(trials=1)


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_fold_without_failures_is_refused(where: str) -> None:
    fold = SPLIT.folds[0]
    labels = LABELS.copy()
    labels[getattr(fold, where)(MOMENTS)] = False
    with pytest.raises(DataError, match=r"has no failure.*ingest more data or take fewer folds"):
        found(labels=labels)


def test_a_fold_of_nothing_but_failures_is_refused() -> None:
    labels = LABELS.copy()
    labels[SPLIT.folds[1].validation(MOMENTS)] = True
    with pytest.raises(DataError, match="has no failure, or nothing else"):
        found(labels=labels)
