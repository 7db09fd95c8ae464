"""A whole check of production, in a copy of the project: with ZenML, Feast and the pipelines."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from millwright.check import stacks
from millwright.configuration import load
from millwright.settings import REPOSITORY, State, load_settings
from millwright.stack_file import StackFile

CANARY = "canary9c1e"
PARTS = ("configs", "docker/kubernetes", "feature_repo", "millwright", "pipelines", "steps")
OWN = {
    "plant-artifacts": r"(?<=MILLWRIGHT_S3_BUCKET: ).*",
    "registry.plant.test/plant": r"(?<=MILLWRIGHT_IMAGE_REGISTRY: ).*",
    "registry.plant.test/plant/millwright-pipelines:v1": r"(?<=MILLWRIGHT_PIPELINES_IMAGE: )\S+",
    "plant": r"(?<=MILLWRIGHT_KUBERNETES_CONTEXT: ).*",
    "C0123456789": r"(?<=SLACK_CHANNEL: ).*",
    "registry.plant.test/plant/": r"(?<=newName: )registry.example.org/",
    "plant.test": r"example\.org",
}
VARIABLES = {
    "MILLWRIGHT_POSTGRES_URL": f"postgresql://u:{CANARY}@db.plant.test/plant?sslmode=require",
    "MILLWRIGHT_REDIS_URL": f"rediss://:{CANARY}@redis.plant.test:6379/0",
    "MLFLOW_TRACKING_URI": "https://mlflow.plant.test",
    "MLFLOW_TRACKING_USERNAME": "plant",
    "MLFLOW_TRACKING_PASSWORD": CANARY,
    "MILLWRIGHT_S3_BUCKET": "plant-artifacts",
    "MILLWRIGHT_IMAGE_REGISTRY": "registry.plant.test/plant",
    "MILLWRIGHT_PIPELINES_IMAGE": "registry.plant.test/plant/millwright-pipelines:v1",
    "ZENML_STORE_URL": "https://zenml.plant.test",
    "ZENML_STORE_API_KEY": CANARY,
    "MILLWRIGHT_KUBERNETES_CONTEXT": "plant",
    "SLACK_CHANNEL": "C0123456789",
}
ASK = """
import json
from millwright.check import check_environment
from millwright.settings import state
report = check_environment("production", state("production"))
print(json.dumps({**report.summary(), "rows": report.rows()}))
"""
# Each of these is wrong in a way of its own: the file, what is written anew, and as what.
STACK = "configs/environments/production/stack.yaml"
STORE = "configs/environments/production/feature_store.yaml"
FAULTS = (
    (STACK, "path: s3://", "path: /"),
    (STACK, "tracking_uri:", "tracking_insecure_tls: perhaps\n      tracking_uri:"),
    (STACK, "      environment: production\n  data_validator", "  data_validator"),
    (STACK, "flavor: evidently", "flavor: evidentli"),
    (STACK, "kubernetes_namespace:", "kubernetes_namspace:"),
    (STACK, '"{{millwright_slack.token}}"', CANARY),
    (STORE, "  sslmode:", "  ssl_mode:"),
    (STORE, "_REDIS_CONNECTION}", "_REDIS}"),
    (STORE, "_POSTGRES_PASSWORD}", f"_PW}}{CANARY}"),
    ("feature_repo/entities.py", "from feast import", "from feast import Entiti,"),
    ("pipelines/ingest.py", "import", "import nothing_of_that_name\nimport"),
    ("docker/kubernetes/overlays/production/kustomization.yaml", "newTag: v1", "newTag: latest"),
)


@dataclass(frozen=True)
class Clone:
    """A copy of the project with a plant's own names in its manifests, and its state beside it."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder.parent / "state"

    def asked(self) -> subprocess.Popen[str]:
        """A check of production that has begun, with every variable set."""
        theirs = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FEAST_", "MILLWRIGHT_", "MLFLOW_", "ZENML_"))
        }
        kubeconfig = self.folder.parent / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump({"contexts": [{"name": "plant"}]}))
        places = {
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MILLWRIGHT_HOME": str(self.home),
            "KUBECONFIG": str(kubeconfig),
            "HOME": str(self.home),
        }
        return subprocess.Popen(
            [sys.executable, "-c", ASK], cwd=self.folder, env={**theirs, **VARIABLES, **places},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def listing(self) -> dict[str, tuple[int, int]]:
        """Every file and folder of the copy and beside it, with its size and its time."""
        return {
            str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
            for path in self.folder.parent.rglob("*")
        }


@dataclass(frozen=True)
class Answer:
    """What a check has said, and what it has left behind."""

    words: str
    said: dict[str, object]
    before: dict[str, tuple[int, int]]
    after: dict[str, tuple[int, int]]

    @property
    def findings(self) -> dict[str, str]:
        """What is wrong, by place."""
        assert isinstance(self.said["findings"], list)
        return {each["place"]: each["wrong"] for each in self.said["findings"]}


def clone(folder: Path) -> Clone:
    for part in PARTS:
        shutil.copytree(
            REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    for path in (folder / "docker").rglob("*.yaml"):
        text = path.read_text()
        for own, stands in OWN.items():
            text = re.sub(stands, own, text)
        path.write_text(text)
    made = Clone(folder)
    made.home.mkdir()
    return made


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Answer]]:
    """A check of a copy that is in order and one of a copy that is not, at the same time."""
    clones = {
        name: clone(tmp_path_factory.mktemp(name) / "project") for name in ("whole", "broken")
    }
    for file, old, new in FAULTS:
        path = clones["broken"].folder / file
        assert old in path.read_text(), (file, old)
        path.write_text(path.read_text().replace(old, new, 1))
    lost = clones["broken"].folder / "slack_sdk.py"  # goes before the one that is installed
    lost.write_text("raise ModuleNotFoundError('no Slack', name='slack_sdk')")
    runs = {}
    for name, each in clones.items():
        (each.folder.parent / "kubeconfig").touch()
        runs[name] = (each.asked(), each.listing())
    found = {}
    try:
        for name, (process, before) in runs.items():
            output, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
            found[name] = Answer(
                output + errors, json.loads(output), before, clones[name].listing()
            )
        yield found
    finally:
        for process, _ in runs.values():
            process.kill()


def test_production_is_complete_when_everything_is_set(answers: dict[str, Answer]) -> None:
    assert answers["whole"].findings == {}
    assert answers["whole"].said["complete"] is True


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (
            f"{STACK}: data_validator.flavor",
            "'evidentli' is no flavor",
        ),
        (
            f"{STACK}: orchestrator.kubernetes_namspace",
            "flavor 'kubernetes' has no such key",
        ),
        (f"{STACK}: alerter.slack_token", "a secret in clear"),
        (
            f"{STORE}: offline_store.ssl_mode",
            "no key that Feast knows there",
        ),
        (STORE, "MILLWRIGHT_REDIS, which nothing"),
        ("feature_repo", "Entiti"),
        (f"{STACK}: artifact_store", "supported schemes"),
        (f"{STACK}: experiment_tracker.tracking_insecure_tls", "boolean"),
        (f"{STACK}: feature_store.environment", "required"),
        (f"{STACK}: alerter.flavor", "slack_sdk, which is not installed"),
        ("pipelines/ingest.py", "nothing_of_that_name"),
        ("docker/kubernetes/overlays/production/kustomization.yaml: images", "the tag 'latest'"),
    ],
)
def test_every_fault_of_a_broken_copy_is_named_at_once(
    answers: dict[str, Answer], place: str, wrong: str
) -> None:
    told = answers["broken"].said["findings"]
    assert isinstance(told, list)
    assert [each for each in told if each["place"] == place and wrong in each["wrong"]], told


@pytest.mark.parametrize("name", ["whole", "broken"])
def test_a_check_tells_no_secret(answers: dict[str, Answer], name: str) -> None:
    assert CANARY not in answers[name].words


@pytest.mark.parametrize("name", ["whole", "broken"])
def test_a_check_leaves_everything_as_it_was(answers: dict[str, Answer], name: str) -> None:
    assert answers[name].after == answers[name].before


def test_a_secret_that_zenml_keeps_is_found_with_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zenml = tmp_path / "production" / "zenml"
    environment = {
        **os.environ, "ZENML_CONFIG_PATH": str(zenml), "ZENML_ANALYTICS_OPT_IN": "false",
        "ZENML_LOCAL_STORES_PATH": str(zenml / "stores"), "ZENML_LOGGING_VERBOSITY": "ERROR",
    }  # fmt: skip
    make = "from zenml.client import Client; Client().create_secret('millwright_slack', {'token': "
    subprocess.run([sys.executable, "-c", f"{make}'{CANARY}'}})"], env=environment, check=True)
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(zenml))
    monkeypatch.delenv("ZENML_STORE_URL", raising=False)
    where = State(tmp_path, "production")
    stack = load(stacks.path("production"), StackFile)
    alone = {"alerter": stack.components["alerter"]}

    def asked(reference: str) -> list[str]:
        part = alone["alerter"].model_copy(update={"configuration": {"slack_token": reference}})
        one = stack.model_copy(update={"components": {"alerter": part}})
        found = stacks.check(one, load_settings("production"), where)
        assert CANARY not in str(found)
        return [each.way_out for each in found]

    assert asked("{{millwright_slack.token}}") == []
    assert asked("{{millwright_slack.tokn}}") == ["zenml secret update millwright_slack --tokn=..."]
    assert asked("{{other.token}}") == ["zenml secret create other --token=..."]
