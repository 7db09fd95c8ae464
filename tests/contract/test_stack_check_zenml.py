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

from millwright.check import pods, stacks
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
import json, sys
from millwright.check import check_environment
from millwright.settings import state
form_only = sys.argv[1] == "form"
report = check_environment("production", state("production"), form_only=form_only)
print(json.dumps({**report.summary(), "rows": report.rows()}))
"""
# What becomes of the pod settings, in a process of its own: importing ZenML warns of much.
PODS = """
import json, sys
from pathlib import Path
from millwright.check import components, stacks
from millwright.configuration import load
from millwright.stack_file import StackFile
file = "configs/environments/production/stack.yaml"
stack = load(stacks.path("production"), StackFile)
part = stack.components["orchestrator"]
one = stack.model_copy(update={"components": {"orchestrator": part}})
keys = ("pod_settings", "orchestrator_pod_settings")
said = {"pods": [components.pod_of(part.configuration[key]) for key in keys]}
said["right"] = [(each.place, each.wrong) for each in components.check(one, file)]
settings = dict(part.configuration["pod_settings"], container_security_context={})
part.configuration["pod_settings"] = settings
said["wrong"] = [(each.place, each.wrong) for each in components.check(one, file)]
Path(sys.argv[1]).write_text(json.dumps(said))
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
    """A copy of the project with its state beside it.

    `clean` is as it was checked out; else its manifests have a plant's own names.
    """

    folder: Path
    clean: bool = False

    @property
    def home(self) -> Path:
        return self.folder.parent / "state"

    def asked(self) -> subprocess.Popen[str]:
        """A check of production that has begun: with every variable set, or of its form alone."""
        theirs = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FEAST_", "MILLWRIGHT_", "MLFLOW_", "SLACK_", "ZENML_"))
        }
        kubeconfig = self.folder.parent / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump({"contexts": [{"name": "plant"}]}))
        places = {
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MILLWRIGHT_HOME": str(self.home),
            "HOME": str(self.home),
        }
        own = {} if self.clean else {**VARIABLES, "KUBECONFIG": str(kubeconfig)}
        form = "form" if self.clean else "all"
        return subprocess.Popen(
            [sys.executable, "-c", ASK, form], cwd=self.folder, env={**theirs, **own, **places},
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


def clone(folder: Path, *, clean: bool) -> Clone:
    for part in PARTS:
        shutil.copytree(
            REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    for path in () if clean else (folder / "docker").rglob("*.yaml"):
        text = path.read_text()
        for own, stands in OWN.items():
            text = re.sub(stands, own, text)
        path.write_text(text)
    made = Clone(folder, clean)
    made.home.mkdir()
    return made


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Answer]]:
    """Checks of a copy that is in order, one that is not, and a clean one, at the same time."""
    clones = {
        name: clone(tmp_path_factory.mktemp(name) / "project", clean=name == "clean")
        for name in ("whole", "broken", "clean")
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


def test_the_form_of_a_clean_checkout_is_complete_without_anything_of_ones_own(
    answers: dict[str, Answer],
) -> None:
    assert answers["clean"].findings == {}
    assert answers["clean"].said["complete"] is True


def test_pods_that_zenml_makes_are_let_into_the_namespace_and_may_write_to_the_volume(
    tmp_path: Path,
) -> None:
    told = tmp_path / "told.json"
    environment = {
        **os.environ, "ZENML_CONFIG_PATH": str(tmp_path), "ZENML_ANALYTICS_OPT_IN": "false",
        "ZENML_LOGGING_VERBOSITY": "CRITICAL", "MILLWRIGHT_HOME": str(tmp_path),
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", PODS, str(told)], env=environment, check=True)
    said = json.loads(told.read_text())
    assert len(said["pods"]) == 2
    for pod in said["pods"]:
        assert list(pods.refused(pod)) == []
        assert pod["securityContext"]["fsGroup"] == 10001
        assert pod["containers"][0]["securityContext"]["runAsUser"] == 10001
    assert said["right"] == []
    assert {place for place, _ in said["wrong"]} == {f"{STACK}: orchestrator.pod_settings"}
    assert "a pod's container main has no runAsNonRoot: true" in [each for _, each in said["wrong"]]


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
    here = [each for each in told if each["place"] == place and wrong in each["wrong"]]
    assert here, told
    assert not any(each["yours"] for each in here)


@pytest.mark.parametrize("name", ["whole", "broken"])
def test_a_check_tells_no_secret(answers: dict[str, Answer], name: str) -> None:
    assert CANARY not in answers[name].words


@pytest.mark.parametrize("name", ["whole", "broken", "clean"])
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
