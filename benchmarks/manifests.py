"""What a release says of itself that no training has made."""

from datetime import UTC, datetime
from typing import Any

import xgboost

from millwright.encoder import Encoder
from millwright.fleet import Fleet
from millwright.release import Manifest, ServedView
from millwright.views import service_name


def manifest(fleet: Fleet, version: int, environment: str, **changes: Any) -> Manifest:
    """The manifest of a release for `fleet`, but for some `changes` of its fields."""
    values = {
        "name": f"{fleet.name}_failure", "version": version, "fleet": fleet.name,
        "fingerprint": f"f{version}", "feature_service": service_name(fleet, "failure"),
        "views": ServedView.all_of(fleet), "encoder": Encoder.of(fleet), "threshold": 0.5,
        "costs": fleet.costs, "horizon": fleet.label(fleet.horizon),
        "lead_time": fleet.label(fleet.lead_time), "learned_until": datetime.now(UTC),
        "dataset_version": "d1", "detector_version": None, "code_version": "c1",
        "git_revision": None, "mlflow_run": "r1", "environment": environment,
        "libraries": {"xgboost": xgboost.__version__},
    }  # fmt: skip
    return Manifest.model_validate(values | changes)
