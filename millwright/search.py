"""The hyperparameter search: under a budget, on folds that all come before the test window."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import optuna
import pandas as pd
import xgboost
from sklearn.metrics import average_precision_score

from millwright.configuration import Strict
from millwright.encoder import Matrix
from millwright.errors import DataError
from millwright.models import FIXED, Labels, thin
from millwright.settings import Search
from millwright.splits import Fold, Split

# How many trees a model may have; the search looks which number does best.
ROUNDS = (50, 100, 150, 200, 300)

Progress = Callable[[int, int, float], None]


class Found(Strict):
    """The best parameters, how they were found, and how well they did on each fold."""

    parameters: dict[str, float | int]
    rounds: int
    trials: int
    ended_by: str
    average_precision: float
    folds: tuple[float, ...]


def search(
    matrix: Matrix,
    labels: Labels,
    moments: pd.Series,
    split: Split,
    budget: Search,
    seed: int,
    workers: int,
    progress: Progress | None = None,
) -> Found:
    """Look for the parameters with the best mean average precision over the folds of `split`.

    Each trial trains one model per fold, and the number of trees that does best over all folds is
    kept with it. Where a fold has more than `budget.rows` rows to learn from, healthy ones are
    thinned and the rest weighted up. Folds are trained side by side, each in one thread, so the
    result does not depend on how many there are.

    Args:
        matrix: shape (n, columns).
        labels: shape (n,).
        moments: the cut-offs' times, length n (UTC).
        split: gives the folds; rows after them are never looked at.
        budget: trials, seconds and rows. Only trials that were finished count.
        seed: of the sampler, the thinning and the trees.
        workers: how many folds are trained at a time.
        progress: called after each trial with trials done, trials allowed and the best figure.

    Raises:
        DataError: a fold has no failure to learn from or to be judged by.
    """
    folds = [_Trainable(matrix, labels, moments, fold, budget.rows, seed) for fold in split.folds]
    started = time.monotonic()

    def objective(trial: optuna.Trial) -> float:
        parameters = _suggest(trial)
        results = np.array(list(pool.map(lambda fold: fold.train(parameters), folds)))
        best = int(results.mean(axis=0).argmax())
        trial.set_user_attr("rounds", ROUNDS[best])
        trial.set_user_attr("folds", results[:, best].tolist())
        return float(results[:, best].mean())

    def report(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if progress:
            progress(trial.number + 1, budget.trials, study.best_value)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(_USUAL)
    with ThreadPoolExecutor(workers) as pool:
        study.optimize(
            objective, n_trials=budget.trials, timeout=budget.seconds, callbacks=[report]
        )
    best = study.best_trial
    in_time = len(study.trials) >= budget.trials
    return Found(
        parameters=best.params,
        rounds=best.user_attrs["rounds"],
        trials=len(study.trials),
        ended_by="trials" if in_time else f"time, after {time.monotonic() - started:.0f} s",
        average_precision=float(best.value or 0.0),
        folds=tuple(best.user_attrs["folds"]),
    )


# Where a search starts: what does well on most tables of this size.
_USUAL: dict[str, Any] = {
    "max_depth": 4,
    "eta": 0.1,
    "min_child_weight": 1.0,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "reg_lambda": 1.0,
}


def _suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "max_depth": trial.suggest_int("max_depth", 2, 5),
        "eta": trial.suggest_float("eta", 0.05, 0.3, log=True),
        "min_child_weight": trial.suggest_float("min_child_weight", 0.1, 20.0, log=True),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.4, 1.0),
        "reg_lambda": trial.suggest_float("reg_lambda", 0.1, 10.0, log=True),
    }


class _Trainable:
    """A fold with its rows binned once, for all trials."""

    def __init__(
        self,
        matrix: Matrix,
        labels: Labels,
        moments: pd.Series,
        fold: Fold,
        most_rows: int,
        seed: int,
    ) -> None:
        learned, judged = fold.training(moments), fold.validation(moments)
        for mask, what in ((learned, f"before {fold.train_end}"), (judged, f"up to {fold.end}")):
            if not labels[mask].any() or labels[mask].all():
                raise DataError(
                    f"the validation fold from {fold.start} has no failure, or nothing else, "
                    f"{what}; ingest more data or take fewer folds in "
                    "configs/pipelines/training.yaml"
                )
        rows, weights = thin(np.flatnonzero(learned), labels, most_rows, seed)
        self.training = xgboost.QuantileDMatrix(
            matrix[rows], labels[rows], weight=weights, nthread=1
        )
        self.validation = xgboost.QuantileDMatrix(matrix[judged], ref=self.training, nthread=1)
        self.labels = labels[judged]
        self.seed = seed

    def train(self, parameters: dict[str, Any]) -> list[float]:
        """Average precision on the fold with each of the `ROUNDS` of trees."""
        settings = {**FIXED, "seed": self.seed, **parameters}
        booster = xgboost.train(settings, self.training, max(ROUNDS))
        return [
            float(
                average_precision_score(
                    self.labels, booster.predict(self.validation, iteration_range=(0, rounds))
                )
            )
            for rounds in ROUNDS
        ]
