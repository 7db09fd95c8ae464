"""One fleet in one environment: its configuration and its stores, opened together."""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from pydantic import Field

from millwright.configuration import Strict, load
from millwright.durations import Duration
from millwright.endpoints import endpoints
from millwright.fleet import Fleet, fleets_folder, load_fleet
from millwright.offline import OfflineStore
from millwright.parquet_warehouse import ParquetWarehouse
from millwright.raw_store import RawStore
from millwright.revision import code_version
from millwright.settings import ENVIRONMENTS, REPOSITORY, Settings, State, load_settings, state
from millwright.splits import Folds
from millwright.views import feature_views, published, service_name
from millwright.warehouse import Warehouse

PIPELINES = REPOSITORY / "configs" / "pipelines"
# What a result follows from besides our own code.
LIBRARIES = ("xgboost", "scikit-learn", "numpy", "pandas", "duckdb", "ibis-framework", "optuna")


class Training(Strict):
    """`configs/pipelines/training.yaml`: what is decided about a training run."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    every: Duration | None = None
    folds: Folds = Field(default_factory=Folds)
    contribution_rows: int = Field(default=5000, gt=0)


@dataclass(frozen=True)
class Project:
    """A fleet, the environment it is handled in, and what that keeps of it."""

    fleet: Fleet
    settings: Settings
    state: State
    training: Training

    @cached_property
    def raw(self) -> RawStore:
        """The fleet's raw store."""
        return RawStore(self.state.raw(self.fleet.name), self.fleet)

    @cached_property
    def offline(self) -> OfflineStore:
        """The fleet's feature tables."""
        detectors = self.state.detectors(self.fleet.name)
        threads = self.settings.engine.threads
        return OfflineStore(self.warehouse, detectors, self.fleet, self.raw, threads)

    @cached_property
    def warehouse(self) -> Warehouse:
        """Where the feature tables are computed and kept."""
        if self.settings.engine.kind == "postgres":
            from millwright.postgres.warehouse import PostgresWarehouse

            url = endpoints(self.state).postgres
            return PostgresWarehouse(url, self.fleet, self.raw, self.settings.engine)
        folder = self.state.offline(self.fleet.name)
        return ParquetWarehouse(folder, self.fleet, self.raw, self.settings.engine)

    @property
    def model_name(self) -> str:
        """What the failure classifier is called in every registry."""
        return f"{self.fleet.name}_failure"

    @property
    def service(self) -> str:
        """The feature service that the failure classifier reads."""
        return service_name(self.fleet, "failure")

    @property
    def published_views(self) -> list[str]:
        """The names under which Feast knows the fleet's feature views."""
        return [published(self.fleet, view.name) for view in feature_views(self.fleet)]

    @property
    def cutoff_distance(self) -> timedelta:
        """The time between two cut-offs of a machine."""
        return self.training.every or self.fleet.step

    @property
    def configuration_files(self) -> dict[str, Path]:
        """Every file that decides about a training run, by what it is."""
        return {
            "fleet.yaml": fleets_folder() / f"{self.fleet.name}.yaml",
            "settings.yaml": ENVIRONMENTS / self.state.environment / "settings.yaml",
            "training.yaml": PIPELINES / "training.yaml",
            "gate.yaml": PIPELINES / "gate.yaml",
        }

    def fingerprint(self) -> str:
        """A hash of all that a trained model follows from: the same means the same model."""
        facts = [
            self.raw.dataset_version,
            self.offline.detector_version(),
            self.service,
            self.fleet.model_dump_json(exclude={"simulation", "description", "owner"}),
            self.training.model_dump_json(),
            self.settings.search.model_dump_json(),
            code_version(),
            {library: version(library) for library in LIBRARIES},
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def open_project(fleet: str, environment: str) -> Project:
    """Read the configuration of a fleet in an environment. Nothing is created.

    Raises:
        ConfigurationError: a file is missing or wrong.
    """
    return Project(
        fleet=load_fleet(fleet),
        settings=load_settings(environment),
        state=state(environment),
        training=load(PIPELINES / "training.yaml", Training),
    )
