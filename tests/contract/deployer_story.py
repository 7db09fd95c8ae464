"""What happens to a fleet's releases, told to ZenML's deployer in a process of its own.

Run with the state of a new home in the environment; writes what it saw to a file, as JSON.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.stack import StackComponent

from millwright import release
from millwright.deployers import ReleaseDeployer
from millwright.deployments import ReleaseService
from millwright.encoder import Encoder
from millwright.models import Classifier
from millwright.release import MODEL, Manifest
from millwright.settings import state

HOME = state("local")
RELEASES = HOME.releases("plant")
KIND = StackComponentType.MODEL_DEPLOYER


def released(version: int, **changes: Any) -> Path:
    encoder = Encoder(features=("heat", "noise"), categories={})
    rows = np.random.default_rng(version).standard_normal((50, 2), dtype=np.float32)
    booster = Classifier({"max_depth": 2}, 3, version).fit(rows, rows[:, 0] > 0).booster
    assert booster is not None
    values = {
        "name": "plant_failure", "version": version, "fleet": "plant",
        "fingerprint": f"f{version}", "feature_service": "plant_failure_v1", "encoder": encoder,
        "views": [
            {"name": "v", "features": {"heat": "float32", "noise": "float32"}, "time_to_live": None}
        ],
        "costs": {"failure": 20000, "planned_repair": 4000, "inspection": 500},
        "threshold": 0.5, "horizon": "24h", "lead_time": "4h",
        "learned_until": datetime(2025, 1, 31, tzinfo=UTC), "dataset_version": "d1",
        "detector_version": None, "code_version": "c1", "git_revision": None, "mlflow_run": "r1",
        "environment": "local", "libraries": {"xgboost": xgboost.__version__},
    }  # fmt: skip
    return release.write(RELEASES, Manifest.model_validate(values | changes), booster, rows[:5])


def deployer() -> ReleaseDeployer:
    """The component as ZenML's commands make it; that of the active stack is kept and grows old."""
    found = StackComponent.from_model(Client().get_stack_component(KIND, "local"))
    assert isinstance(found, ReleaseDeployer)
    return found


def seen() -> dict[str, Any]:
    """The pointer, and each record with its state."""
    pointer = RELEASES / release.POINTER
    records = {str(each.uuid): each for each in deployer().find_model_server()}
    return {
        "champion": pointer.read_text().strip() if pointer.exists() else None,
        "records": sorted((each.config.model_version, each.status.state.value)
                          for each in records.values()),
        "stored": Client().list_services().total,
    }  # fmt: skip


def refusal(work: Callable[[], Any]) -> str:
    try:
        work()
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    return ""


def record_of(version: int) -> ReleaseService:
    found = deployer().find_model_server(model_name="plant_failure", model_version=str(version))
    assert len(found) == 1
    assert isinstance(found[0], ReleaseService)
    return found[0]


@contextmanager
def answering(status: int, said: Any) -> Iterator[str]:
    """A stand-in for a service that runs elsewhere; gives its URL."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ready" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def register() -> None:
    client = Client()
    client.create_flavor("millwright.deployers.ReleaseDeployerFlavor", KIND)
    client.create_stack_component("local", "release", KIND, {"environment": "local"})
    usual = (StackComponentType.ORCHESTRATOR, StackComponentType.ARTIFACT_STORE)
    client.create_stack("local", {**dict.fromkeys(usual, "default"), KIND: "local"})
    client.activate_stack("local")


def at(url: str) -> list[str]:
    """The state of the champion's record when the component knows a service at `url`."""
    Client().update_stack_component(
        "local", KIND, configuration={"environment": "local", "service_url": url}
    )
    found = record_of(2)
    return [found.status.state.value, found.status.last_error, found.get_prediction_url() or ""]


def tell() -> dict[str, Any]:
    told: dict[str, Any] = {}
    register()
    assert isinstance(Client().active_stack.model_deployer, ReleaseDeployer)
    told["nothing"] = seen()

    first, second = released(1), released(2)
    deployer().deploy_release(first)
    told["first"] = seen()
    before, uuid = (RELEASES / release.POINTER).stat(), record_of(1).uuid
    again = deployer().deploy_release(first)
    after = (RELEASES / release.POINTER).stat()
    told["again"] = seen()
    told["again_same"] = (before, uuid) == (after, again.uuid)
    deployer().deploy_release(second)
    told["second"] = seen()

    broken = released(3)
    (broken / MODEL).write_bytes((broken / MODEL).read_bytes()[:-1])
    told["broken_refused"] = refusal(lambda: deployer().deploy_release(broken))
    other = released(4)
    (other / MODEL).write_bytes((first / MODEL).read_bytes())
    (other / release.SUMS).write_bytes(b"".join(release._sums(other).values()))
    told["other_refused"] = refusal(lambda: deployer().deploy_release(other))
    told["foreign_refused"] = refusal(
        lambda: deployer().deploy_release(released(5, environment="staging"))
    )
    told["refused"] = seen()

    told["stop_refused"] = refusal(lambda: deployer().stop_model_server(record_of(2).uuid))
    told["delete_refused"] = refusal(lambda: deployer().delete_model_server(record_of(2).uuid))
    told["stopped"] = seen()
    deployer().start_model_server(record_of(1).uuid)
    told["back"] = seen()
    deployer().deploy_model(record_of(2).config, ReleaseService.SERVICE_TYPE)
    told["by_zenml"] = seen()
    deployer().delete_model_server(record_of(1).uuid)
    told["deleted"] = seen()
    release.set_champion(RELEASES, first)
    told["by_hand"] = seen()
    release.set_champion(RELEASES, second)
    told["running"] = [each.config.model_version
                       for each in deployer().find_model_server(running=True)]  # fmt: skip
    told["of_another_name"] = len(deployer().find_model_server(model_name="nothing"))

    model = (second / MODEL).read_bytes()
    (second / MODEL).write_bytes(model[:-1])
    told["spoilt"] = seen()
    (second / MODEL).write_bytes(model)

    ready = {"ready": True, "release": {"model": "plant_failure", "version": 2}}
    with answering(200, ready) as url:
        told["ready"] = [*at(url), url]
    with answering(200, {**ready, "release": {"version": 1}}) as url:
        told["behind"] = at(url)
    with answering(503, {}) as url:
        told["not_ready"] = at(url)
    told["away"] = at(url)
    told["urls_stored"] = Client().list_services().total
    return told


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(tell()))
