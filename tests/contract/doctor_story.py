"""A small environment that is healthy, then damaged, then repaired, and what the doctor says of it.

Run in a process of its own with the state of a new home; prints as JSON what it saw.
"""

import argparse
import contextlib
import fcntl
import io
import json
import os
import shutil
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from mlflow import MlflowClient
from zenml import pipeline, step
from zenml.client import Client
from zenml.config.global_config import GlobalConfiguration
from zenml.enums import StackComponentType

from millwright import feast_store, process, registry, release, stack, stack_file
from millwright.doctor import command, stacks
from millwright.doctor.findings import Patient
from millwright.encoder import Encoder
from millwright.errors import BusyError, ConfigurationError
from millwright.fleet import fleets_folder
from millwright.ingest import ingest
from millwright.materialization import materialize
from millwright.models import Classifier
from millwright.project import open_project
from millwright.release import Manifest
from millwright.settings import load_settings, state
from millwright.simulator import simulate
from millwright.sources import open_source

FLEET = "small"
HOME = state("local")
ALERTER = StackComponentType.ALERTER
ELSEWHERE = "http://user:sesame@elsewhere:5000"


def doctor(*words: str, **variables: str) -> dict[str, Any]:
    """What the doctor says to somebody who has set nothing but `variables`."""
    before = dict(os.environ)
    kept = ("ZENML_", "MLFLOW_", "MILLWRIGHT_ENVIRONMENT")
    for name in before:
        if name.startswith(kept):
            del os.environ[name]
    os.environ.update(variables)
    path = HOME.home.parent / "doctor.json"
    path.unlink(missing_ok=True)
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    said = io.StringIO()
    began = time.monotonic()
    try:
        with contextlib.redirect_stdout(said):
            asked = parser.parse_args(["doctor", *words, "--json", str(path)])
            code = asked.do(asked)
    finally:
        os.environ.clear()
        os.environ.update(before)
    summary = json.loads(path.read_text(encoding="utf-8"))
    seconds = time.monotonic() - began
    return {"code": code, "said": said.getvalue(), "seconds": seconds, **summary}


def make() -> None:
    """Bring the environment to where a first training run leaves it."""
    process.prepare(HOME)
    stack.register("local", HOME)
    Client().activate_stack("local")
    project, now = open_project(FLEET, "local"), datetime.now(UTC)
    fleet, incoming = project.fleet, HOME.incoming(FLEET)
    assert fleet.simulation is not None
    simulate(fleet, fleet.simulation, incoming)
    engine = project.settings.engine
    quarantine = HOME.quarantine(FLEET)
    ingest(fleet, open_source(str(incoming), fleet), project.raw, quarantine, engine, now)
    project.offline.update()
    feast_store.apply(HOME)
    materialize(feast_store.open_store(HOME), project.published_views, datetime.now(UTC))
    _release(project.model_name)


def _release(model: str) -> None:
    registry.open_experiment(HOME.mlflow_uri, "training", HOME.mlflow_artifacts)
    client = MlflowClient()
    client.create_registered_model(model)
    client.create_model_version(model, source=str(HOME.mlflow_artifacts))
    client.set_registered_model_alias(model, "champion", "1")
    rows = np.random.default_rng(1).standard_normal((50, 2), dtype=np.float32)
    booster = Classifier({"max_depth": 2}, 3, 1).fit(rows, rows[:, 0] > 0).booster
    assert booster is not None
    manifest = {
        "name": model, "version": 1, "fleet": FLEET, "fingerprint": "f1",
        "feature_service": f"{FLEET}_failure_v1",
        "encoder": Encoder(features=("heat", "noise"), categories={}), "threshold": 0.5,
        "views": [
            {"name": "v", "features": {"heat": "float32", "noise": "float32"}, "time_to_live": None}
        ],
        "costs": {"failure": 20000, "planned_repair": 4000, "inspection": 500},
        "horizon": "24h", "lead_time": "4h", "learned_until": datetime(2025, 1, 31, tzinfo=UTC),
        "dataset_version": "d1", "detector_version": None, "code_version": "c1",
        "git_revision": None, "mlflow_run": "r1", "environment": "local",
        "libraries": {"xgboost": xgboost.__version__},
    }  # fmt: skip
    folder = HOME.releases(FLEET)
    made = release.write(folder, Manifest.model_validate(manifest), booster, rows[:5])
    release.set_champion(folder, made)


@step(enable_cache=False)
def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pipeline(enable_cache=False)
def killed() -> None:
    be_killed()


def kill_a_run() -> None:
    """Have a run of ZenML's end as nobody would want it to, in a process that knows nothing."""
    child = os.fork()
    if child == 0:
        Client._reset_instance()
        GlobalConfiguration._reset_instance()
        killed()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def damage_by_hand() -> None:
    """What one finds on a machine on which much was killed and something was changed."""
    kill_a_run()
    Client().update_stack_component("local", ALERTER, configuration={"path": "/elsewhere.jsonl"})
    (HOME.root / FLEET / ".spill-0").mkdir()
    (HOME.root / FLEET / "releases" / ".v2.draft").mkdir()
    (HOME.root / ".online.db.unfinished").write_text("half", encoding="utf-8")
    fleet = fleets_folder() / f"{FLEET}.yaml"
    text = fleet.read_text(encoding="utf-8")
    fleet.write_text(text.replace("owner: maintenance-planning", "owner: others"), encoding="utf-8")


def damage_data() -> dict[str, str]:
    """Files that are gone or point nowhere; gives what is needed to put them back."""
    period = sorted((HOME.offline(FLEET) / "sensor_step").glob("*.parquet"))[0]
    raw = sorted((HOME.raw(FLEET) / "telemetry").rglob("*.parquet"))[0]
    kept = HOME.home.parent / "kept"
    kept.mkdir()
    shutil.move(period, kept / "period")
    shutil.move(raw, kept / "raw")
    (HOME.releases(FLEET) / "champion").write_text("v7\n", encoding="utf-8")
    return {str(kept / "period"): str(period), str(kept / "raw"): str(raw)}


def damage_databases() -> None:
    for path in (
        HOME.zenml / "stores" / "default_zen_store" / "zenml.db",
        *(HOME.root / name for name in ("mlflow.db", "registry.db", "online.db")),
    ):
        os.truncate(path, path.stat().st_size // 2)  # fmt: skip


def at_a_server(environment: str) -> list[str]:
    """What is said of ZenML's database while a variable names a server."""
    os.environ["ZENML_STORE_URL"] = "https://user:sesame@elsewhere"
    try:
        patient = Patient(state(environment), load_settings(environment), dict(os.environ))
        (found,) = stacks.database(patient)
    finally:
        del os.environ["ZENML_STORE_URL"]
    return [found.level, found.found]


def an_alerter_beside_ours() -> list[str]:
    """What is said of a stack with one alerter too many, and done to put it back."""
    Client().create_stack_component("other", "console_and_file", ALERTER, {"path": "/other.jsonl"})
    Client().update_stack("local", component_updates={ALERTER: ["local", "other"]})
    try:
        stack.refuse_mixture(stack_file.read("local", HOME))
    except ConfigurationError as err:
        return [str(err), stack.register("local", HOME), stack.register("local", HOME)]
    return []


def contents() -> dict[str, int]:
    """Every file of the home, by path, with its size and when it was changed."""
    return {
        str(path): hash((path.stat().st_size, path.stat().st_mtime_ns))
        for path in HOME.home.rglob("*")
        if "cache" not in path.relative_to(HOME.home).parts
    }


def mended() -> dict[str, Any]:
    found: dict[str, Any] = {}
    make()
    before = contents()
    found["healthy"] = doctor()
    found["changed"] = sorted(dict(before.items() ^ contents().items()))
    damage_by_hand()
    found["damaged"] = doctor("--stack", "local")
    with HOME.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found["at work"] = doctor("--stack", "local")
        command.PATIENCE = 0.2
        try:
            doctor("--stack", "local", "--repair")
        except BusyError as err:
            found["busy"] = {"error": str(err), "code": err.exit_code}
    found["repaired"] = doctor("--stack", "local", "--repair")
    return found


def broken() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["afterwards"] = doctor()
    found["runs"] = [
        [run.status, *(step.status for step in run.steps.values())]
        for run in Client().list_pipeline_runs(hydrate=True)
    ]
    found["at a server"] = {name: at_a_server(name) for name in ("production", "local")}
    found["beside"] = an_alerter_beside_ours()
    back = damage_data()
    found["data"] = doctor("--stack", "local", MLFLOW_TRACKING_URI=ELSEWHERE)
    for kept, path in back.items():
        shutil.move(kept, path)
    damage_databases()
    found["databases"] = doctor()
    shutil.move(HOME.root, HOME.root.with_name("moved"))
    HOME.root.write_text("no folder", encoding="utf-8")
    found["no folder"] = doctor("--stack", "local")
    return found


if __name__ == "__main__":
    result = {"mended": mended(), "broken": broken()}
    Path(sys.argv[1]).write_text(json.dumps(result, indent=1), encoding="utf-8")
