"""Predictions of a made-up fleet, and the release that they are by."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from millwright.encoder import Encoder
from millwright.fleet import load_fleet
from millwright.inference.table import PREDICTIONS
from millwright.release import Manifest, Release

FLEET = load_fleet("simulated")
AS_OF = datetime(2025, 12, 31, tzinfo=UTC)


def release(**changes: Any) -> Release:
    """A release of a model that was fitted to noise, and so says something else of each machine."""
    from millwright.models import Classifier  # late: not every test takes XGBoost

    encoder, chance = Encoder.of(FLEET), np.random.default_rng(1)
    rows = chance.standard_normal((300, len(encoder.columns)), dtype=np.float32)
    booster = Classifier({"max_depth": 3}, 10, 1).fit(rows, rows.sum(axis=1) > 3).booster
    assert booster is not None
    return Release(Path("v3"), manifest(encoder=encoder, **changes), booster)


def manifest(**changes: Any) -> Manifest:
    """What that release says of itself."""
    from benchmarks import manifests  # late, for the same reason

    facts = {"environment": "local", "threshold": 0.2, "learned_until": AS_OF, **changes}
    return manifests.manifest(FLEET, 3, **facts)


def row(machine: str, rank: int | None = None, **changes: Any) -> dict[str, Any]:
    """A prediction; one without a rank is of a machine that could not be predicted."""
    known = rank is not None
    values = {
        "as_of": AS_OF, "machine_id": machine, "rank": rank, "status": "ok" if known else "stale",
        "probability": 0.5 if known else None, "alarm": True if known else None,
        "expected_cost": 2250.0 if known else None, "expected_saving": 7750.0 if known else None,
        "reasons": '[{"feature": "age", "value": 18.0, "contribution": 0.7}]' if known else None,
        "readings_at": AS_OF, "feature_age": 5400.0, "release": 3,
        "feature_service": "simulated_failure_v1", "source": "online", "computed_at": AS_OF,
        "run": "r1",
    }  # fmt: skip
    return values | changes


def table(*rows: dict[str, Any]) -> pa.Table:
    """Predictions, in the order given."""
    return pa.Table.from_pylist(list(rows), PREDICTIONS)
