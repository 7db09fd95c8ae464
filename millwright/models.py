"""The failure classifier and the two baselines that it must beat."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from millwright.encoder import Encoder, Matrix, Scores
from millwright.fleet import Fleet
from millwright.trees import predict
from millwright.views import feature_views

Labels = NDArray[np.bool_]
# One thread a model: more make small ones slower, and another number of threads another model.
FIXED = {"objective": "binary:logistic", "tree_method": "hist", "nthread": 1}


class Model(Protocol):
    """Anything that learns from a matrix and scores one."""

    def fit(self, matrix: Matrix, labels: Labels) -> "Model":
        """Learn from `matrix`, shape (n, columns), and `labels`, shape (n,)."""
        ...

    def score(self, matrix: Matrix) -> Scores:
        """How likely each row of `matrix` is to fail, shape (n,); higher is likelier."""
        ...


class Logistic:
    """A logistic regression on standardised features, the usual first model.

    It learns from at most `most_rows` rows: of a linear model, more change nothing but the time.
    """

    def __init__(self, seed: int, most_rows: int = 100_000) -> None:
        self.seed = seed
        self.most_rows = most_rows
        self.pipeline: Pipeline = make_pipeline(
            SimpleImputer(strategy="mean", keep_empty_features=True),
            StandardScaler(),
            LogisticRegression(C=0.1, solver="newton-cholesky", max_iter=50),
        )

    def fit(self, matrix: Matrix, labels: Labels) -> "Logistic":
        """Learn from every failure and as many healthy rows as there is room for."""
        rows, weights = thin(np.arange(len(labels)), labels, self.most_rows, self.seed)
        self.pipeline.fit(matrix[rows], labels[rows], logisticregression__sample_weight=weights)
        return self

    def score(self, matrix: Matrix) -> Scores:
        """Probabilities."""
        return np.asarray(self.pipeline.predict_proba(matrix)[:, 1], dtype=np.float64)


class Rule:
    """What a planner would do without a model: watch for errors and unusual means.

    The score is the number of recent errors plus the largest deviation of any sensor's mean over
    the longest window, in standard deviations from what `fit` saw. It learns nothing from labels.
    """

    def __init__(self, fleet: Fleet) -> None:
        columns = Encoder.of(fleet).columns
        longest = fleet.label(max(fleet.features.windows))
        views = feature_views(fleet)
        watched = [f"{sensor}_mean_{longest}" for sensor in fleet.sensors]
        counted = [name for view in views if view.kind == "errors" for name in view.features]
        if "mean" not in fleet.features.statistics:
            watched = [name for view in views if view.kind == "step" for name in view.features]
        self.sensors = [columns.index(name) for name in watched]
        self.errors = [columns.index(name) for name in counted]

    def fit(self, matrix: Matrix, labels: Labels) -> "Rule":  # noqa: ARG002
        """Take mean and deviation of each sensor; one that was never read counts for nothing."""
        watched = np.ma.masked_invalid(matrix[:, self.sensors].astype(np.float64))
        self.centre = watched.mean(axis=0).filled(np.nan)
        self.spread = watched.std(axis=0).filled(0)
        return self

    def score(self, matrix: Matrix) -> Scores:
        """Rises with errors and deviations; in [0, 1), but no probability."""
        spread = np.where(self.spread > 0, self.spread, 1.0)
        deviations = np.abs(matrix[:, self.sensors] - self.centre) / spread
        largest = np.max(np.nan_to_num(deviations), axis=1)
        signs = np.asarray(largest + np.nansum(matrix[:, self.errors], axis=1), dtype=np.float64)
        return signs / (1 + signs)


class Classifier:
    """Gradient-boosted trees (XGBoost, histogram method), with `rounds` trees.

    With the same seed and data the trees are the same to the last digit.
    """

    def __init__(self, parameters: Mapping[str, Any], rounds: int, seed: int) -> None:
        self.parameters = {**FIXED, "seed": seed, **parameters}
        self.rounds = rounds
        self.booster: xgboost.Booster | None = None

    def fit(self, matrix: Matrix, labels: Labels) -> "Classifier":
        """Grow the trees."""
        data = xgboost.QuantileDMatrix(matrix, labels, nthread=1)
        self.booster = xgboost.train(self.parameters, data, self.rounds)
        return self

    def score(self, matrix: Matrix) -> Scores:
        """Probabilities."""
        if self.booster is None:
            raise ValueError("fit the classifier first")
        return predict(self.booster, matrix)


def thin(
    rows: NDArray[np.intp], labels: Labels, most: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Keep every failure among `rows` and as many healthy rows as fit into `most`.

    Returns:
        The rows kept, in their order, and a weight for each that makes up for those left out, so
        that probabilities stay what they were.
    """
    failing, healthy = rows[labels[rows]], rows[~labels[rows]]
    room = max(most - len(failing), 1)
    if len(healthy) <= room:
        return rows, np.ones(len(rows), dtype=np.float32)
    kept = np.random.default_rng(seed).choice(healthy, size=room, replace=False)
    chosen = np.sort(np.concatenate([failing, kept]))
    weights = np.where(labels[chosen], 1.0, len(healthy) / room).astype(np.float32)
    return chosen, weights
