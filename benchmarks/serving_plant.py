"""A plant to serve: machines in Redis as Feast has them there, and one model for whoever serves it.

The features are those of the fleet of `make run`, random and fresh for years, one in a hundred of
them null. The model is trees over random rows, once as a release and once as MLflow saves it.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import yaml
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float32, String

from benchmarks import simulated
from benchmarks.benchmark import Case
from benchmarks.manifests import manifest
from benchmarks.materialize import as_feast_writes_it
from millwright import release
from millwright.encoder import Encoder
from millwright.fleet import Fleet, load_fleet
from millwright.models import Classifier
from millwright.stores.online_redis import OrderedRedisOnlineStore
from millwright.stores.online_rows import OnlineRows
from millwright.views import View, feature_views, published, service_name

NAME, VERSION = "plant", 1
PROJECT = "millwright"  # in whose name the environment of staging reads
RELEASES = "releases"
RELEASE = f"{RELEASES}/v{VERSION}"
MACHINE = "machine_id"
OURS = "millwright.stores.online_redis.OrderedRedisOnlineStore"
STOCK = "redis"  # Feast's own, which reads what ours has written
AGE = timedelta(hours=1)
NULLS = 0.01
AT_ONCE = 10_000  # machines that are written together
TRAINED = 20_000  # rows
DEPTH, TREES = 6, 200


def make(case: Case) -> None:
    """The fleet's file, its features in Redis, Feast's registry, the release, MLflow's model."""
    simulated.make(case, NAME, _said())
    fleet, dice = load_fleet(NAME), np.random.default_rng(case.options["seed"])
    store = feast_store(case, case.data / "feast", OURS)
    _publish(store, fleet, case.data)
    for start in range(0, case.options["machines"], AT_ONCE):
        some = machines(case)[start : start + AT_ONCE]
        for view in feature_views(fleet):
            there = store.get_feature_view(published(fleet, view.name))
            rows = OnlineRows.of_arrow(there, _rows(fleet, view, some, dice))
            _online(store).write_rows(store.config, there, rows)
    _model(fleet, case, dice)


def machines(case: Case, count: int | None = None) -> list[str]:
    """The names of the machines, or of the first so many."""
    return [f"machine-{number:06d}" for number in range(count or case.options["machines"])]


def grouped(names: list[str], size: int) -> list[list[str]]:
    """`names` in lists of so many."""
    return [names[start : start + size] for start in range(0, len(names), size)]


def feast_store(case: Case, folder: Path, online: str) -> FeatureStore:
    """Feast over the plant, with an online store of that type, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "project": PROJECT,
        "provider": "local",
        "registry": {"path": str(case.data / "registry.db"), "cache_ttl_seconds": 3600},
        "offline_store": {"type": "duckdb"},
        "online_store": {
            "type": online,
            "connection_string": as_feast_writes_it(case.servers["redis"]),
        },
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return FeatureStore(repo_path=str(folder))


def load_plant(case: Case) -> Fleet:
    """The fleet that was made."""
    os.environ["MILLWRIGHT_FLEETS"] = str(case.data / "fleets")
    return load_fleet(NAME)


def _said() -> dict[str, Any]:
    """What the fleet's file says: its rows stay fresh however old the data of a benchmark are."""
    said = simulated.description()
    said["features"] = {**said["features"], "time_to_live": "3650d"}
    return {name: value for name, value in said.items() if name != "simulation"}


def _publish(store: FeatureStore, fleet: Fleet, folder: Path) -> None:
    machine = Entity(name="machine", join_keys=[MACHINE], value_type=ValueType.STRING)
    views = [_feast_view(fleet, view, machine, folder) for view in feature_views(fleet)]
    service = FeatureService(name=service_name(fleet, "failure"), features=views)
    store.apply([machine, *views, service])


def _feast_view(fleet: Fleet, view: View, machine: Entity, folder: Path) -> FeatureView:
    name = published(fleet, view.name)
    kinds = {"float32": Float32, "string": String}
    return FeatureView(
        name=name,
        entities=[machine],
        ttl=view.time_to_live,
        schema=[Field(name=name, dtype=kinds[kind]) for name, kind in view.features.items()],
        source=FileSource(
            name=name,
            path=str(folder / f"{name}.parquet"),  # which nobody reads
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )


def _rows(fleet: Fleet, view: View, names: list[str], dice: np.random.Generator) -> pa.RecordBatch:
    time = datetime.now(UTC) - AGE
    instants = pa.array([time] * len(names), pa.timestamp("us", tz="UTC"))
    columns: dict[str, Any] = {
        MACHINE: names, "event_timestamp": instants, "created_timestamp": instants
    }  # fmt: skip
    for name, kind in view.features.items():
        nothing = dice.random(len(names)) < NULLS
        if kind == "string":
            values = np.array(fleet.attributes[name].values, dtype=object)
            columns[name] = pa.array(dice.choice(values, len(names)), pa.string(), mask=nothing)
        else:
            drawn = dice.standard_normal(len(names), np.float32)
            columns[name] = pa.array(drawn, pa.float32(), mask=nothing)
    return pa.RecordBatch.from_pydict(columns)


def _model(fleet: Fleet, case: Case, dice: np.random.Generator) -> None:
    encoder = Encoder.of(fleet)
    rows = dice.standard_normal((TRAINED, len(encoder.columns)), dtype=np.float32)
    labels = rows[:, ::3].sum(axis=1) + dice.standard_normal(TRAINED) > 3
    rows[dice.random(rows.shape) < NULLS] = np.nan
    booster = (
        Classifier({"max_depth": DEPTH}, TREES, case.options["seed"]).fit(rows, labels).booster
    )
    assert booster is not None  # noqa: S101 - it was fitted
    said = manifest(fleet, VERSION, "staging")
    folder = case.data / RELEASES
    release.set_champion(folder, release.write(folder, said, booster, rows[:5]))
    mlflow.xgboost.save_model(
        booster, case.data / "mlflow", pip_requirements=["xgboost"], model_format="ubj"
    )


def _online(store: FeatureStore) -> OrderedRedisOnlineStore:
    found: OrderedRedisOnlineStore = store._get_provider().online_store
    return found
