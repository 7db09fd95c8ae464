"""Batches of answers for the tests of the prediction log."""

from typing import Any

import numpy as np

from millwright.prediction_log.records import ScoredBatch
from millwright.serving.rows import NEVER

START = 1_760_000_000_000_000  # microseconds since 1970 UTC
SECOND = 1_000_000


def scored(
    number: int, rows: int = 3, columns: int = 4, views: int = 2, **more: Any
) -> ScoredBatch:
    """A batch whose rows are told apart by `number`, a second after the one before."""
    chance = np.random.default_rng(number)
    matrix = chance.normal(size=(rows, columns)).astype(np.float32)
    matrix[0, 0] = np.nan
    events = START + chance.integers(-(10**9), 0, size=(rows, views))
    events[-1, -1] = NEVER
    asked = np.full(rows, START + number * SECOND)
    given: dict[str, Any] = {
        "release": 1,
        "role": "champion",
        "feature_service": "plant_failure_v1",
        "source": "store",
        "columns": tuple(f"feature {index}" for index in range(columns)),
        "views": tuple(f"view_{index}" for index in range(views)),
        "ids": [f"{number:06d}-{row:04d}" for row in range(rows)],
        "machines": [f"m{row}" for row in range(rows)],
        "asked_at": asked,
        "as_of": asked - 5,
        "latency": chance.uniform(size=rows),
        "statuses": ["ok"] * (rows - 1) + ["degraded"],
        "threshold": 0.5,
        "probabilities": chance.uniform(size=rows),
        "matrix": matrix,
        "events": events,
    }
    return ScoredBatch(**{**given, **more})
