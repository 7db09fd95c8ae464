"""Small releases and a store of rows in memory, for the tests of what the service is made of."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from feast.protos.feast.types.Value_pb2 import Value

from millwright import release
from millwright.encoder import Encoder
from millwright.errors import MillwrightError
from millwright.models import Classifier
from millwright.release import Manifest
from millwright.serving.plan import Cells, Plan
from millwright.serving.routes import Loaded
from millwright.serving.rows import Moments

HOUR = 3_600_000_000
NOW = 1_760_000_000_000_000  # microseconds since 1970
LIFE = 48 * HOUR
VIEWS: tuple[dict[str, Any], ...] = (
    {"name": "step", "features": {"heat": "float32", "noise": "float32"}, "time_to_live": 172800.0},
    {"name": "window", "features": {"heat_mean": "float32"}, "time_to_live": 172800.0},
    {"name": "attributes", "features": {"model": "string", "age": "float32"}, "time_to_live": None},
)
ENCODER = Encoder(
    features=("heat", "noise", "heat_mean", "model", "age"), categories={"model": ("m1", "m2")}
)
ROW = {"heat": 1.5, "noise": -0.25, "heat_mean": 0.5, "model": "m2", "age": 7.0}


def released(folder: Path, version: int, **changes: Any) -> Path:
    """A release that answers otherwise than that of every other version."""
    rng = np.random.default_rng(version)
    encoder = changes.get("encoder", ENCODER)
    rows = rng.standard_normal((300, len(encoder.columns)), dtype=np.float32)
    labels = rows.sum(axis=1) > version / 10
    rows[rng.random(rows.shape) < 0.3] = np.nan
    booster = Classifier({"max_depth": 3}, 8, version).fit(rows, labels).booster
    assert booster is not None
    values = {
        "name": "plant_failure", "version": version, "fleet": "plant",
        "fingerprint": f"f{version}", "feature_service": "plant_failure_v1", "views": VIEWS,
        "encoder": encoder, "threshold": 0.5,
        "costs": {"failure": 20000, "planned_repair": 4000, "inspection": 500},
        "horizon": "24h", "lead_time": "4h", "learned_until": datetime(2025, 1, 31, tzinfo=UTC),
        "dataset_version": "d1", "detector_version": None, "code_version": "c1",
        "git_revision": None, "mlflow_run": "r1", "environment": "local",
        "libraries": {"xgboost": xgboost.__version__},
    }  # fmt: skip
    manifest = Manifest.model_validate(values | changes)
    return release.write(folder, manifest, booster, rows[:3])


def loaded(folder: Path, version: int, **changes: Any) -> Loaded:
    return Loaded(release.load(released(folder, version, **changes)), f"digest of {version}")


def cell(value: float | str | None) -> bytes:
    """What Feast writes for a value."""
    if value is None:
        return b""
    message = Value(string_val=value) if isinstance(value, str) else Value(float_val=value)
    content: bytes = message.SerializeToString()
    return content


class Memory:
    """A store whose machines have these values and event times by view; it counts its reads."""

    def __init__(
        self, machines: Mapping[str, tuple[Mapping[str, float | str], Mapping[str, int]]]
    ) -> None:
        self.machines_known = machines
        self.reads: list[list[str]] = []
        self.broken = False

    def cells(self, plan: Plan, machines: Sequence[str]) -> tuple[list[Cells], Moments]:
        self.reads.append(list(machines))
        if self.broken:
            raise MillwrightError("the store does not answer")
        found, events = [], []
        for machine in machines:
            cells, times = plan.nothing()
            values, known = self.machines_known.get(machine, ({}, {}))
            for place, (_, name) in enumerate(plan.features):
                if name in values:
                    cells[place] = cell(values[name])
            for place, view in enumerate(plan.names):
                times[place] = known.get(view, times[place])
            found.append(cells)
            events.append(times)
        return found, np.array(events, np.int64).reshape(len(found), len(plan.views))

    def machines(self, plan: Plan) -> Iterator[str]:  # noqa: ARG002
        yield from self.machines_known

    def published(self) -> set[str] | None:
        return None


def whole(age: int = HOUR) -> tuple[Mapping[str, float | str], Mapping[str, int]]:
    """A machine of which everything is known, so old."""
    return ROW, {view["name"]: NOW - age for view in VIEWS}


def sign(folder: Path) -> None:
    """Have the sums say what the files are now."""
    (folder / release.SUMS).write_bytes(b"".join(release._sums(folder).values()))
