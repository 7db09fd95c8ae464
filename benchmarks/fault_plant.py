"""A small plant to break things around: its fleet, its machines' features, its releases.

What a release says of a machine is known beforehand, so that an answer shows whose it is.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.manifests import manifest
from millwright import release, traffic
from millwright.encoder import Encoder, Matrix
from millwright.fleet import Fleet, load_fleet
from millwright.models import Classifier
from millwright.release import MODEL, SUMS
from millwright.settings import State
from millwright.views import feature_views, published

NAME = "plant"
FLEET = """
name: plant
step: 1h
horizon: 24h
lead_time: 4h
test_window: 30d
tables:
  telemetry: {source: readings, machine: id, timestamp: at}
  failures: {source: failures, machine: id, timestamp: at}
  machines: {source: machines, machine: id}
sensors: {heat: {range: [0, 100]}, shake: {range: [0, 100]}}
attributes: {model: {type: category, values: [m1, m2]}, age: {type: number, range: [0, 60]}}
features: {windows: [3h, 24h], time_to_live: 48h}
anomaly: {fit_window: 30d}
costs: {failure: 20000, planned_repair: 4000, inspection: 500}
"""
MACHINES = tuple(f"machine-{number:03d}" for number in range(200))
AGE = timedelta(hours=1)


@dataclass
class Plant:
    """A fleet, its state of the environment staging, and where its servers are."""

    state: State
    fleet: Fleet
    variables: Mapping[str, str]
    scores: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def releases(self) -> Path:
        """The folder of the releases."""
        return self.state.releases(NAME)

    @cached_property
    def values(self) -> dict[str, "np.ndarray[Any, Any]"]:
        """Each feature of each machine, in the order of `MACHINES`."""
        dice = np.random.default_rng(7)
        kinds = {n: k for view in feature_views(self.fleet) for n, k in view.features.items()}
        return {
            name: dice.choice(np.array(["m1", "m2"], object), len(MACHINES))
            if kind == "string"
            else dice.standard_normal(len(MACHINES), np.float32)
            for name, kind in kinds.items()
        }

    def release(self) -> Path:
        """A new release, whose model answers otherwise than that of every other."""
        version, encoder = len(self.scores) + 1, Encoder.of(self.fleet)
        dice = np.random.default_rng(version)
        rows = dice.standard_normal((400, len(encoder.columns)), dtype=np.float32)
        labels = rows.sum(axis=1) > version / 100
        booster = Classifier({"max_depth": 4}, 20, version).fit(rows, labels).booster
        assert booster is not None  # noqa: S101 - it was fitted
        said = manifest(self.fleet, version, self.state.environment)
        path = release.write(self.releases, said, booster, rows[:5])
        found = release.load(path).score(self._matrix(encoder))
        self.scores[version] = dict(zip(MACHINES, found.tolist(), strict=True))
        return path

    def fill(self) -> None:
        """Write all features to the online store, as a materialization does."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        from millwright import feast_store

        store, at = feast_store.open_store(self.state), datetime.now(UTC) - AGE
        keys = [
            EntityKey(join_keys=["machine_id"], entity_values=[Value(string_val=machine)])
            for machine in MACHINES
        ]

        def cell(name: str, kind: str, place: int) -> Value:
            found = self.values[name][place]
            return Value(string_val=found) if kind == "string" else Value(float_val=float(found))

        for view in feature_views(self.fleet):
            rows = [
                (key, {n: cell(n, k, place) for n, k in view.features.items()}, at, at)
                for place, key in enumerate(keys)
            ]
            there = store.get_feature_view(published(self.fleet, view.name))
            store._get_provider().online_write_batch(store.config, there, rows, None)

    def _matrix(self, encoder: Encoder) -> Matrix:
        return encoder.encode_columns(self.values.__getitem__, len(MACHINES))


@contextlib.contextmanager
def made(folder: Path, urls: Mapping[str, str]) -> Iterator[Plant]:
    """A plant in `folder`, over servers of which `urls` has the variables, with one release.

    This process has its variables for the block.
    """
    from millwright import feast_store
    from millwright.services import schemas

    shutil.rmtree(folder, ignore_errors=True)
    fleets, state = folder / "fleets", State(folder / "home", "staging")
    fleets.mkdir(parents=True)
    state.root.mkdir(parents=True)
    (fleets / f"{NAME}.yaml").write_text(FLEET, encoding="utf-8")
    variables = {"MILLWRIGHT_HOME": str(state.home), "MILLWRIGHT_FLEETS": str(fleets), **urls}
    with _set(variables):
        plant = Plant(state, load_fleet(NAME), variables)
        schemas.create(urls["MILLWRIGHT_POSTGRES_URL"], [feast_store.REGISTRY_SCHEMA])
        feast_store.apply(state)
        plant.fill()
        plant.release()
        traffic.promote(plant.releases, 1)
        yield plant


def truncate(folder: Path) -> None:
    """Cut the end off the model of a release."""
    model = folder / MODEL
    os.truncate(model, model.stat().st_size * 2 // 3)


def flip(folder: Path, place: float) -> None:
    """Have one bit of the model be another; `place` from 0 to 1 says which byte has it."""
    model = bytearray((folder / MODEL).read_bytes())
    model[int(place * len(model))] ^= 1
    (folder / MODEL).write_bytes(model)


def plant_pickle(folder: Path, marker: Path) -> None:
    """Have the model be a pickle that writes a marker when it is loaded."""
    (folder / MODEL).write_bytes(b"cbuiltins\nopen\n(V" + str(marker).encode() + b"\nVw\ntR.")


def sign(folder: Path) -> None:
    """Have the sums say what the files are now, as whoever changed them could."""
    (folder / SUMS).write_bytes(b"".join(release._sums(folder).values()))


@contextlib.contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
