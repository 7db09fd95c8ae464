"""Fitted anomaly detectors: how they score, and how they are kept; `millwright.anomaly` fits them.

One is kept in the skops format, which holds data and no code. Neither reading the facts about a
detector nor importing this module needs scikit-learn.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from millwright.errors import MillwrightError
from millwright.files import folder_written_whole

# scikit-learn and skops take three seconds to import, and a run without new rows needs neither.
if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

PIPELINE, FACTS = "detector.skops", "detector.json"
# What a fitted forest is made of besides the types that skops knows to be harmless.
TRUSTED = ("numpy.dtype", "sklearn.tree._tree.Tree")


class Columns(Protocol):
    """A frame, or a mapping, of columns of one length by name; NaN is null."""

    def __getitem__(self, name: str, /) -> ArrayLike:
        """One of them."""


@dataclass(frozen=True)
class Detector:
    """A fitted detector: which features it reads, and since when (UTC) its scores count.

    `pipeline` gives what was fitted; one that was kept is read when rows are first scored.
    """

    version: str
    features: tuple[str, ...]
    fit_end: datetime
    rows: int
    pipeline: "Callable[[], Pipeline]"

    def score(self, columns: Columns) -> NDArray[np.float32]:
        """How anomalous each row is, in (0, 1]: the score of Liu et al. (2008).

        Shape (n,), float32; ordinary rows lie below 0.5.
        """
        values = np.column_stack([np.asarray(columns[n], np.float32) for n in self.features])
        if not len(values):
            return np.empty(0, dtype=np.float32)
        return np.asarray(-self.pipeline().score_samples(values), dtype=np.float32)


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
        (draft / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Detector:
    """Read back the detector in the folder `path`.

    Raises:
        MillwrightError: it is not there, or not whole.
    """
    with _readable(path):
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        if facts["sha256"] != _sum(path):
            raise ValueError(f"{PIPELINE} is not what was written")
        return Detector(
            facts["version"],
            tuple(facts["features"]),
            datetime.fromisoformat(facts["fit_end"]),
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
