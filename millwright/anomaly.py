"""The anomaly detector: an isolation forest that has seen healthy telemetry alone.

It learns from the first `fit_window` of a fleet's history as it was known when that window ended,
and scores every step from then on. So a score never knows more than was known at its time, and a
step within the fit window has none. Its folder is named by what it was made from; a detector is
never changed, only followed by another, when rows are taken in that were known in time.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from millwright.errors import MillwrightError
from millwright.files import folder_written_whole
from millwright.fleet import Fleet
from millwright.labels import label_cutoffs

# scikit-learn and skops take three seconds to import, and a run without new rows needs neither.
if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

PIPELINE = "detector.skops"
TREES = 100
SAMPLES = 1024
MOST_ROWS = 100_000
FEWEST_ROWS = 100
SEED = 0
# What a fitted forest is made of besides the types that skops knows to be harmless.
TRUSTED = ("numpy.dtype", "sklearn.tree._tree.Tree")


@dataclass(frozen=True)
class Detector:
    """A fitted detector: which features it reads, and since when its scores count.

    `pipeline` gives what was fitted; one that was kept is read when rows are first scored.
    """

    version: str
    features: tuple[str, ...]
    fit_end: pd.Timestamp
    rows: int
    pipeline: "Callable[[], Pipeline]"

    def score(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        """How anomalous each row of `frame` is, in (0, 1]: the score of Liu et al. (2008).

        Shape (n,), float32; ordinary rows lie below 0.5.
        """
        if frame.empty:
            return np.empty(0, dtype=np.float32)
        values = frame[list(self.features)].to_numpy(np.float32)
        return np.asarray(-self.pipeline().score_samples(values), dtype=np.float32)


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
        digest.hexdigest()[:16], tuple(features), fit_end, len(healthy), lambda: pipeline
    )


def save(detector: Detector, folder: Path) -> None:
    """Write `detector` to `folder/<version>`, in the skops format, whole or not at all."""
    target = folder / detector.version
    if target.exists():
        return
    import skops.io

    with folder_written_whole(target) as draft:
        skops.io.dump(detector.pipeline(), draft / PIPELINE)
        facts = {
            "version": detector.version,
            "features": detector.features,
            "fit_end": detector.fit_end.isoformat(),
            "rows": detector.rows,
            "sha256": _sum(draft),
        }
        (draft / "detector.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load(folder: Path, version: str) -> Detector:
    """Read the detector `version` back.

    Raises:
        MillwrightError: it is not there, or not whole.
    """
    path = folder / version
    with _readable(path):
        facts = json.loads((path / "detector.json").read_text(encoding="utf-8"))
        if facts["sha256"] != _sum(path):
            raise ValueError(f"{PIPELINE} is not what was written")
        return Detector(
            version,
            tuple(facts["features"]),
            pd.Timestamp(facts["fit_end"]),
            facts["rows"],
            cache(lambda: _read_pipeline(path)),
        )


def _read_pipeline(path: Path) -> "Pipeline":
    import skops.io

    with _readable(path):
        pipeline: Pipeline = skops.io.load(path / PIPELINE, trusted=list(TRUSTED))
    return pipeline


def _sum(path: Path) -> str:
    return hashlib.sha256((path / PIPELINE).read_bytes()).hexdigest()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as err:
        raise MillwrightError(
            f"the anomaly detector {path} cannot be read: {err}; remove the folder and run "
            "--pipeline features again, which fits another"
        ) from err
