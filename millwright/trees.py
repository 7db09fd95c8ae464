"""What is asked of XGBoost's trees, in training and in the service alike."""

import numpy as np
import xgboost
from numpy.typing import NDArray

from millwright.encoder import Matrix, Scores


def predict(booster: xgboost.Booster, matrix: Matrix) -> Scores:
    """The booster's probabilities for each row of `matrix`."""
    return np.asarray(booster.inplace_predict(matrix, validate_features=False), dtype=np.float64)


def contributions(booster: xgboost.Booster, matrix: Matrix) -> NDArray[np.float32]:
    """SHAP values by XGBoost's own algorithm (Lundberg et al. 2018), in log odds.

    Shape (n, columns + 1); the last column is the bias, and each row sums to the row's margin.
    """
    return np.asarray(booster.predict(xgboost.DMatrix(matrix), pred_contribs=True))
