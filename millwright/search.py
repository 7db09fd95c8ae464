"""The hyperparameter search: under a budget, on folds that all come before the test window."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pandas as pd
import xgboost
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from millwright.configuration import Strict
from millwright.errors import DataError
from millwright.models import Labels, Matrix, Model, Scores
from millwright.settings import Search
from millwright.splits import Fold, Split

MOST_ROUNDS = 600
PATIENCE = 40

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
    threads: int,
    progress: Progress | None = None,
) -> Found:
    """Look for the parameters with the best mean average precision over the folds of `split`.

    Each trial trains one model per fold, stopping when the fold's own average precision no longer
    rises. Where a fold has more than `budget.rows` rows to learn from, healthy ones are thinned and
    the rest weighted up, so that probabilities stay what they were.

    Args:
        matrix: shape (n, columns).
        labels: shape (n,).
        moments: the cut-offs' times, length n (UTC).
        split: gives the folds; rows after them are never looked at.
        budget: trials, seconds and rows. Only trials that were finished count.
        seed: of the sampler, the thinning and the trees.
        threads: of XGBoost.
        progress: called after each trial with trials done, trials allowed and the best figure.

    Raises:
        DataError: a fold has no failure to learn from or to be judged by.
    """
    folds = [
        _Trainable(matrix, labels, moments, fold, budget.rows, seed, threads)
        for fold in split.folds
    ]
    started = time.monotonic()

    def objective(trial: optuna.Trial) -> float:
        parameters = _suggest(trial)
        results = [fold.train(parameters) for fold in folds]
        trial.set_user_attr("folds", [score for score, _ in results])
        trial.set_user_attr("rounds", [rounds for _, rounds in results])
        return float(np.mean([score for score, _ in results]))

    def report(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if progress:
            progress(trial.number + 1, budget.trials, study.best_value)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(_USUAL)
    study.optimize(objective, n_trials=budget.trials, timeout=budget.seconds, callbacks=[report])
    best = study.best_trial
    return Found(
        parameters=best.params,
        rounds=max(1, round(float(np.mean(best.user_attrs["rounds"])))),
        trials=len(study.trials),
        ended_by="trials"
        if len(study.trials) >= budget.trials
        else f"{time.monotonic() - started:.0f} s",
        average_precision=float(best.value or 0.0),
        folds=tuple(best.user_attrs["folds"]),
    )


def score_out_of_fold(
    make: Callable[[], Model], matrix: Matrix, labels: Labels, moments: pd.Series, split: Split
) -> Scores:
    """Score every validation row by a model that learned only from before its fold.

    Returns:
        Shape (n,), NaN outside the folds.
    """
    scores = np.full(len(labels), np.nan)
    for fold in split.folds:
        learned, judged = fold.training(moments), fold.validation(moments)
        scores[judged] = make().fit(matrix[learned], labels[learned]).score(matrix[judged])
    return scores


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
        "max_depth": trial.suggest_int("max_depth", 2, 6),
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
        threads: int,
    ) -> None:
        learned, judged = fold.training(moments), fold.validation(moments)
        for mask, what in ((learned, f"before {fold.train_end}"), (judged, f"up to {fold.end}")):
            if not labels[mask].any() or labels[mask].all():
                raise DataError(
                    f"the validation fold from {fold.start} has no failure, or nothing else, "
                    f"{what}; ingest more data or take fewer folds in "
                    "configs/pipelines/training.yaml"
                )
        rows, weights = _thin(np.flatnonzero(learned), labels, most_rows, seed)
        self.training = xgboost.QuantileDMatrix(
            matrix[rows], labels[rows], weight=weights, nthread=threads
        )
        self.validation = xgboost.QuantileDMatrix(
            matrix[judged], labels[judged], ref=self.training, nthread=threads
        )
        self.labels = labels[judged]
        self.fixed = {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "eval_metric": "aucpr",
            "seed": seed,
            "nthread": threads,
        }

    def train(self, parameters: dict[str, Any]) -> tuple[float, int]:
        """Average precision on the fold, and the number of trees that reached it."""
        booster = xgboost.train(
            {**self.fixed, **parameters},
            self.training,
            MOST_ROUNDS,
            evals=[(self.validation, "validation")],
            early_stopping_rounds=PATIENCE,
            verbose_eval=False,
        )
        rounds = booster.best_iteration + 1
        scores = booster.predict(self.validation, iteration_range=(0, rounds))
        return float(average_precision_score(self.labels, scores)), rounds


def _thin(
    rows: NDArray[np.intp], labels: Labels, most: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Keep every failure and as many healthy rows as fit, weighted for those left out."""
    failing, healthy = rows[labels[rows]], rows[~labels[rows]]
    room = max(most - len(failing), 1)
    if len(healthy) <= room:
        return rows, np.ones(len(rows), dtype=np.float32)
    kept = np.random.default_rng(seed).choice(healthy, size=room, replace=False)
    chosen = np.sort(np.concatenate([failing, kept]))
    weights = np.where(labels[chosen], 1.0, len(healthy) / room).astype(np.float32)
    return chosen, weights
