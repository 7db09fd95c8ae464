"""Whether a release still predicts what it did when it was written, and soon enough.

A service meets a release in a process that has loaded nothing else, so that is where it is proved.
"""

import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from pydantic import FiniteFloat

from millwright.configuration import Strict
from millwright.encoder import Matrix
from millwright.errors import ReleaseError
from millwright.release import EXAMPLES, Release, load, read

# Two processes on one machine agree to the last digit; other processors may round otherwise.
TOLERANCE = 1e-6
SLOWEST = 0.1  # seconds that the prediction of one machine may take at best
TRIES = 20
PATIENCE = 120.0  # seconds for a verification


class Examples(Strict):
    """Held-out rows, None where there is no number, and what the model said of each of them."""

    rows: tuple[tuple[float | None, ...], ...]
    expected: tuple[FiniteFloat, ...]


def verify(folder: Path) -> int:
    """Load a release and predict its examples again; gives their number.

    Raises:
        ReleaseError: it cannot be loaded, or predicts otherwise than it did.
    """
    release, examples = load(folder), read(folder / EXAMPLES, Examples)
    width = len(release.manifest.encoder.columns)
    if not {len(row) for row in examples.rows} <= {width}:
        raise ReleaseError(
            f"the release {folder} has examples that are not of its model's {width} columns; "
            "train again"
        )
    if len(examples.rows) != len(examples.expected):
        raise ReleaseError(
            f"the release {folder} has {len(examples.rows)} examples and "
            f"{len(examples.expected)} predictions of them; train again"
        )
    with np.errstate(over="ignore"):  # what is too large for a column is infinite there too
        rows = np.array(examples.rows, dtype=np.float32).reshape(-1, width)
    found, expected = release.score(rows), np.array(examples.expected, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ReleaseError(f"the release {folder} predicts what is no number; train again")
    if not np.allclose(found, expected, rtol=0, atol=TOLERANCE):
        worst = float(np.max(np.abs(found - expected)))
        raise ReleaseError(
            f"the release {folder} predicts otherwise than when it was written, by up to "
            f"{worst:.2g}; train again with the libraries of this environment"
        )
    _refuse_slow(release, rows[:1])
    return len(rows)


class Verification:
    """Verifies a release as a service would meet it: in a process that has loaded nothing else.

    It begins at once, so that something else can be done meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "millwright", "releases", "verify", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            ReleaseError: with what that process said at last.
        """
        try:
            _, said = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.end()
            raise ReleaseError(
                f"the release {self.folder} was not verified within {PATIENCE:g} s; train again, "
                "or see what else keeps this machine busy"
            ) from None
        code = self._process.returncode
        if code:
            last = said.strip().rpartition("\n")[2]  # before it, libraries may have warned
            raise ReleaseError(last or f"verifying {self.folder} ended by {code}")

    def end(self) -> None:
        """Give it up."""
        self._process.kill()
        self._process.communicate()


def verify_in_fresh_process(folder: Path) -> None:
    """Verify a release in a process of its own.

    Raises:
        ReleaseError: with what that process said.
    """
    Verification(folder).finish()


def _refuse_slow(release: Release, row: Matrix) -> None:
    """See to it that a service could answer in time: the best of some tries says what can be."""
    best = math.inf
    for _ in range(TRIES if len(row) else 0):
        began = time.perf_counter()
        release.score(row)
        best = min(best, time.perf_counter() - began)
        if best <= SLOWEST:
            return
    if len(row):
        raise ReleaseError(
            f"the release {release.folder} takes {best:.2g} s for one machine, and {SLOWEST:g} s "
            "is the most; train a smaller model"
        )
