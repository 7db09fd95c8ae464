"""What is asked of XGBoost's trees, in training and in the service alike."""

import ctypes
import threading

import numpy as np
import xgboost
from numpy.typing import NDArray
from xgboost.core import _LIB, _check_call

from millwright.encoder import Matrix, Scores

# All trees, probabilities, NaN is missing: XGBoosterPredictFromDense in XGBoost's C API.
_ASKED = (
    b'{"type":0,"training":false,"iteration_begin":0,"iteration_end":0,"strict_shape":false,'
    b'"cache_id":0,"missing":NaN}'
)
_ARRAY = b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f4","version":3}'


class _Proxy(threading.local):
    """What XGBoost lays over the rows that it is given; each thread keeps one."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        _check_call(_LIB.XGProxyDMatrixCreate(ctypes.byref(self.handle)))


_PROXY = _Proxy()


def predict(booster: xgboost.Booster, matrix: Matrix) -> Scores:
    """The booster's probabilities for each row of `matrix`.

    This is `Booster.inplace_predict` without what it does for other kinds of data, which takes
    longer than the trees do for a few rows.
    """
    rows = np.ascontiguousarray(matrix, np.float32)
    if not len(rows):
        return np.empty(0)
    shape, values = ctypes.POINTER(ctypes.c_uint64)(), ctypes.POINTER(ctypes.c_float)()
    dimensions = ctypes.c_uint64()
    _check_call(
        _LIB.XGBoosterPredictFromDense(
            booster.handle,
            _ARRAY % (rows.ctypes.data, *rows.shape),
            _ASKED,
            _PROXY.handle,
            ctypes.byref(shape),
            ctypes.byref(dimensions),
            ctypes.byref(values),
        )
    )
    # The values are XGBoost's own, until its next call in this thread. (numpy's `as_array` would
    # leave objects that hold each other, and so one more piece of garbage with each call.)
    taken = ctypes.string_at(values, len(rows) * ctypes.sizeof(ctypes.c_float))
    return np.frombuffer(taken, np.float32).astype(np.float64)


def contributions(booster: xgboost.Booster, matrix: Matrix) -> NDArray[np.float32]:
    """SHAP values by XGBoost's own algorithm (Lundberg et al. 2018), in log odds.

    Shape (n, columns + 1); the last column is the bias, and each row sums to the row's margin.
    """
    # What is infinite goes the same ways through the trees as the largest number, which is allowed.
    finite = np.nan_to_num(matrix, nan=np.nan)
    return np.asarray(booster.predict(xgboost.DMatrix(finite), pred_contribs=True))
