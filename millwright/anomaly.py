"""The anomaly detector: an isolation forest that has seen healthy telemetry alone.

It learns from the first `fit_window` of a fleet's history as it was known when that window ended,
and scores every step from then on. So a score never knows more than was known at its time, and a
step within the fit window has none. Its folder is named by what it was made from; a detector is
never changed, only followed by another, when rows are taken in that were known in time.
"""

import hashlib
import inspect
import json
from importlib.metadata import version

import numpy as np
import pandas as pd

from millwright.detectors import Detector
from millwright.fleet import Fleet
from millwright.labels import label_cutoffs

TREES = 100
SAMPLES = 1024
MOST_ROWS = 100_000
FEWEST_ROWS = 100
SEED = 0


def fit(
    windows: pd.DataFrame, failures: pd.DataFrame, features: list[str], fleet: Fleet
) -> Detector | None:
    """Fit a detector to the healthy rows of `windows`.

    A row is healthy if its machine does not fail within the horizon. Rows whose horizon reaches
    past the end of the fit window are left out: what became of them was not known yet.

    Args:
        windows: the detector's view with both timestamps (UTC), from the beginning of the fleet's
            history to at least the end of the fit window, in any order.
        failures: `machine_id` and `timestamp` (UTC).
        features: the columns of `windows` to read.
        fleet: gives the horizon and the fit window.

    Returns:
        None if the history does not fill the fit window yet or has too few healthy rows in it.
    """
    if windows.empty:
        return None
    start = windows["event_timestamp"].min()
    fit_end = start + fleet.anomaly.fit_window
    if windows["event_timestamp"].max() < fit_end:
        return None
    known = windows[
        (windows["event_timestamp"] + fleet.horizon <= fit_end)
        & (windows["created_timestamp"] <= fit_end)
    ]
    latest = known.sort_values(["event_timestamp", "machine_id", "created_timestamp"])
    latest = latest.drop_duplicates(
        ["event_timestamp", "machine_id"], keep="last", ignore_index=True
    )
    healthy = latest[~label_cutoffs(latest, failures, fleet.horizon)]
    if len(healthy) > MOST_ROWS:
        healthy = healthy.sample(MOST_ROWS, random_state=SEED).sort_index()
    if len(healthy) < FEWEST_ROWS:
        return None
    from sklearn.ensemble import IsolationForest
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        IsolationForest(
            n_estimators=TREES, max_samples=min(SAMPLES, len(healthy)), random_state=SEED
        ),
    )
    values = healthy[features].to_numpy(np.float32)
    pipeline.fit(values)
    digest = hashlib.sha256(np.ascontiguousarray(values).data)
    recipe = [inspect.getsource(inspect.getmodule(fit) or fit), version("scikit-learn")]
    digest.update(json.dumps([features, fit_end.isoformat(), *recipe]).encode())
    return Detector(
        digest.hexdigest()[:16],
        tuple(features),
        fit_end.to_pydatetime(),
        len(healthy),
        lambda: pipeline,
    )
