"""A small plant with a real feature store and releases, and its prediction service as a process."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from starlette.applications import Starlette

from benchmarks.manifests import manifest
from millwright import feast_store, release
from millwright.encoder import Encoder
from millwright.fleet import Fleet, load_fleet
from millwright.models import Classifier
from millwright.prediction_log.opening import open_log
from millwright.release import Manifest
from millwright.serving.app import Service
from millwright.serving.features import open_reader
from millwright.serving.keys import key_ring
from millwright.serving.releases import Releases
from millwright.settings import REPOSITORY, Serving, State
from millwright.views import feature_views, published

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
sensors: {heat: {range: [0, 100]}}
attributes: {model: {type: category, values: [m1, m2]}, age: {type: number, range: [0, 60]}}
features: {windows: [3h], time_to_live: 48h}
anomaly: {fit_window: 30d}
costs: {failure: 20000, planned_repair: 4000, inspection: 500}
"""
NOW = datetime.now(UTC).replace(microsecond=250_000)
FRESH, OLD = NOW - timedelta(hours=1), NOW - timedelta(hours=60)
# Each machine's views, and of when; what is not named it has not.
TELEMETRY = ("sensor_step", "sensor_window_3h", "anomaly")
MACHINES = {
    "whole": {**dict.fromkeys(TELEMETRY, FRESH), "machine_attributes": OLD},
    "silent": {**dict.fromkeys(TELEMETRY, OLD), "machine_attributes": OLD},
    "new": {"sensor_step": FRESH},
    "gone": dict.fromkeys(TELEMETRY, OLD),
    "bare": {"machine_attributes": OLD},
}
# What a service may do without; each takes longer to import than all that is the service's own.
UNNEEDED = {
    "feast",
    "zenml",
    "mlflow",
    "ibis",
    "duckdb",
    "evidently",
    "optuna",
    "pipelines",
    "steps",
}

Result = TypeVar("Result")


@dataclass
class Plant:
    """A home with one fleet, its published views and its releases."""

    state: State
    fleet: Fleet
    variables: dict[str, str]

    @property
    def releases(self) -> Path:
        return self.state.releases(self.fleet.name)

    def released(self, version: int, **changes: Any) -> Path:
        """A release whose model answers otherwise than that of every other version."""
        columns, rng = Encoder.of(self.fleet).columns, np.random.default_rng(version)
        rows = rng.standard_normal((400, len(columns)), dtype=np.float32)
        labels = rows.sum(axis=1) > version / 10
        rows[rng.random(rows.shape) < 0.3] = np.nan
        booster = Classifier({"max_depth": 4}, 20, version).fit(rows, labels).booster
        assert booster is not None
        return release.write(self.releases, self.manifest(version, **changes), booster, rows[:5])

    def manifest(self, version: int, **changes: Any) -> Manifest:
        """What a release says of itself."""
        facts = {
            "environment": self.state.environment, "threshold": version / 1000,
            "learned_until": OLD, **changes,
        }  # fmt: skip
        return manifest(self.fleet, version, **facts)

    def write_online(self, machines: dict[str, dict[str, datetime]]) -> None:
        """Rows for the views of each machine, as a materialization writes them."""
        store = feast_store.open_store(self.state)
        for view in feature_views(self.fleet):
            batch = [
                (
                    EntityKey(join_keys=["machine_id"], entity_values=[Value(string_val=machine)]),
                    {name: value(name, kind) for name, kind in view.features.items()},
                    views[view.name],
                    views[view.name],
                )
                for machine, views in machines.items()
                if view.name in views
            ]
            there = store.get_feature_view(published(self.fleet, view.name))
            store._get_provider().online_write_batch(store.config, there, batch, None)


def value(name: str, kind: str) -> Value:
    return Value(string_val="m2") if kind == "string" else Value(float_val=as_number(name))


def as_number(name: str) -> float:
    return float(np.float32(len(name) / 20))


@dataclass
class Server:
    """A running service."""

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[str] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> None:
        """Keep what the service says, and know where it is as soon as it tells."""
        for line in self.process.stderr or ():
            self.lines.append(line.rstrip())
            if line.startswith("serving "):
                self.url = line.split(" at ")[1].strip()
                self.started.set()

    @property
    def imported(self) -> set[str]:
        """The packages that it has imported so far."""
        told = [line.rpartition("|") for line in self.lines if line.startswith("import time:")]
        return {name.strip().partition(".")[0] for _, _, name in told}

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False)

    def get(self, path: str) -> httpx.Response:
        with self.client as client:
            return client.get(path)

    def predict(self, *machines: str, **more: Any) -> httpx.Response:
        return self.post({"machines": machines, **more})

    def post(self, asked: Any) -> httpx.Response:
        with self.client as client:
            return client.post("/v1/predict", json=asked)

    def until(self, condition: Any, seconds: float = 60) -> Any:
        """What `/ready` says as soon as it meets a condition."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            said = self.get("/ready").json()
            if condition(said):
                return said
            time.sleep(0.05)
        raise AssertionError((said, self.lines))

    def in_use(self, version: int) -> Any:
        return self.until(
            lambda said: (
                said["ready"] and not said["refused"] and said["release"]["version"] == version
            )
        )


@contextmanager
def serving(plant: Plant) -> Iterator[Server]:
    """The service of a plant; Python tells on its stderr what it imports."""
    command = [sys.executable, "-X", "importtime", "-m", "millwright", "serve"]
    process = subprocess.Popen(
        [*command, "--stack", plant.state.environment, "--fleet", "plant", "--port", "0"],
        env=plant.variables, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert process.stderr
    server = Server(process)
    reading = threading.Thread(target=server.listen, daemon=True)
    reading.start()
    try:
        assert server.started.wait(60), server.lines
        server_is_up(server)
        yield server
    finally:
        process.kill()
        process.wait()
        reading.join()
        process.stderr.close()


def server_is_up(server: Server) -> None:
    assert server.get("/health").json() == {"status": "alive"}


def app_of(plant: Plant, folder: Path | None = None, **settings: Any) -> Starlette:
    """The service in this process, with a release that need prove nothing or with the champion."""
    current = Releases(
        plant.state.environment, plant.fleet.name, plant.releases, folder, prove=lambda _: None
    )
    current.refresh()
    allowed = Serving.model_validate(settings)
    reader = open_reader(plant.state, allowed.store_timeout_ms / 1000)
    log = open_log(plant.state, plant.fleet.name)
    return Service(current, reader, log, key_ring(plant.state), plant.state, allowed).app()


def asking(
    app: Starlette, story: Callable[[httpx.AsyncClient], Awaitable[Result]], seconds: float = 10
) -> Result:
    """What comes of a story that has so long to ask a service in this process."""

    async def told() -> Result:
        async with (
            asyncio.timeout(seconds),
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://localhost"
            ) as client,
        ):
            return await story(client)

    return asyncio.run(told())


def asked(app: Starlette, *machines: str, **more: Any) -> tuple[httpx.Response, httpx.Response]:
    """What a service in this process says of machines, and to the question whether it is ready."""

    async def story(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        wanted = {"machines": machines or ("whole", "nobody"), **more}
        return await client.post("/v1/predict", json=wanted), await client.get("/ready")

    return asking(app, story)


def new_plant(home: Path, patch: pytest.MonkeyPatch, environment: str = "local") -> Plant:
    fleets = home / "fleets"
    fleets.mkdir(parents=True)
    (fleets / "plant.yaml").write_text(FLEET)
    state = State(home / "state", environment)
    state.root.mkdir(parents=True)
    named = {"MILLWRIGHT_HOME": str(state.home), "MILLWRIGHT_FLEETS": str(fleets)}
    for name, place in named.items():
        patch.setenv(name, place)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ZENML_", "MLFLOW_"))}
    return Plant(state, load_fleet("plant"), kept)


@contextmanager
def filled_plant(folders: pytest.TempPathFactory, *versions: int) -> Iterator[Plant]:
    """A plant with features online and some releases, the first of them as champion."""
    with pytest.MonkeyPatch.context() as patch:
        made = new_plant(folders.mktemp("plant"), patch)
        feast_store.apply(made.state)
        made.write_online(MACHINES)
        first, *_ = [made.released(version) for version in versions]
        release.set_champion(made.releases, first)
        yield made


def expected(plant: Plant, version: int, *views: str) -> float:
    """What a release makes of a machine that has these views and no others."""
    encoder = Encoder.of(plant.fleet)
    row = dict.fromkeys(encoder.columns, float("nan")) | {"model=m1": 0.0, "model=m2": 0.0}
    for view in feature_views(plant.fleet):
        if view.name in views:
            row |= {n: as_number(n) for n, kind in view.features.items() if kind == "float32"}
            row |= {"model=m2": 1.0} if "model" in view.features else {}
    matrix = np.array([[row[column] for column in encoder.columns]], dtype=np.float32)
    return float(release.load(plant.releases / f"v{version}").score(matrix)[0])


def sign(folder: Path) -> None:
    """Have the sums say what the files are now."""
    (folder / release.SUMS).write_bytes(b"".join(release._sums(folder).values()))
