"""What a check says of variables, stack files and manifests."""

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from millwright.check import CheckReport, Finding, manifests, pods, stacks, variables
from millwright.check.kustomize import containers, render
from millwright.configuration import load
from millwright.settings import REPOSITORY, Settings, State, load_settings
from millwright.stack_file import StackFile

CANARY = "canary7f3a"
WHOLE = {
    "MILLWRIGHT_POSTGRES_URL": f"postgresql://plant:{CANARY}@db.plant.test:5432/plant?sslmode=require",
    "MILLWRIGHT_REDIS_URL": f"rediss://:{CANARY}@redis.plant.test:6379/0",
    "MLFLOW_TRACKING_URI": "https://mlflow.plant.test",
    "MILLWRIGHT_S3_BUCKET": "plant-artifacts",
    "MILLWRIGHT_IMAGE_REGISTRY": "registry.plant.test/plant",
    "MILLWRIGHT_PIPELINES_IMAGE": "registry.plant.test/plant/millwright-pipelines:v1",
    "ZENML_STORE_URL": "https://zenml.plant.test",
    "ZENML_STORE_API_KEY": CANARY,
    "MILLWRIGHT_KUBERNETES_CONTEXT": "plant",
    "SLACK_CHANNEL": "C0123456789",
}
PRODUCTION = load_settings("production")
STACK = REPOSITORY / "configs" / "environments" / "production" / "stack.yaml"


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """Production, on a machine where nothing is set and nothing has run."""
    for name in os.environ:
        if name.startswith(("MILLWRIGHT_", "MLFLOW_", "ZENML_", "SLACK_", "KUBECONFIG")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    return State(tmp_path / "state", "production")


@pytest.fixture
def whole(where: State, monkeypatch: pytest.MonkeyPatch) -> State:
    """Production, with every variable set."""
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    return where


@pytest.fixture
def kubernetes(tmp_path: Path) -> Path:
    """A copy of the manifests, with a plant's own names in place of those that stand for them."""
    folder = tmp_path / "kubernetes"
    shutil.copytree(REPOSITORY / "docker" / "kubernetes", folder)
    for path in folder.rglob("*.yaml"):
        text = path.read_text()
        for own, stands in {
            "plant-artifacts": r"(?<=MILLWRIGHT_S3_BUCKET: ).*",
            "registry.plant.test/plant": r"(?<=MILLWRIGHT_IMAGE_REGISTRY: ).*",
            "registry.plant.test/plant/millwright-pipelines:v1": (
                r"(?<=MILLWRIGHT_PIPELINES_IMAGE: )\S+"
            ),
            "plant": r"(?<=MILLWRIGHT_KUBERNETES_CONTEXT: ).*",
            "C0123456789": r"(?<=SLACK_CHANNEL: ).*",
            "registry.plant.test/plant/": r"(?<=newName: )registry.example.org/",
            "plant.test": r"example\.org",
        }.items():
            text = re.sub(stands, own, text)
        path.write_text(text)
    return folder


def stack_with(tmp_path: Path, old: str, new: str) -> StackFile:
    text = STACK.read_text()
    assert old in text
    path = tmp_path / "stack.yaml"
    path.write_text(text.replace(old, new))
    return load(path, StackFile)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


# Variables


def test_each_variable_that_is_not_set_is_named_with_what_it_is(where: State) -> None:
    found = variables.check(PRODUCTION, where)
    assert {each.place: each.wrong for each in found} == {
        name: f"is not set: {meaning}" for name, meaning in PRODUCTION.variables.items()
    }
    assert all(each.way_out.startswith(f"export {each.place}=") for each in found)
    assert all(each.yours for each in found)


def test_nothing_is_wrong_with_variables_that_are_all_set(whole: State) -> None:
    assert variables.check(PRODUCTION, whole) == []


def test_what_an_activated_environment_says_of_local_files_sets_nothing(
    whole: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", State(whole.home, "local").mlflow_uri)
    assert only(variables.check(PRODUCTION, whole)).wrong.startswith("is not set")


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("MILLWRIGHT_REDIS_URL", f"redis://:{CANARY}@redis.test:6379/0", "without TLS"),
        ("MILLWRIGHT_REDIS_URL", CANARY, "no URL of this server"),
        ("MILLWRIGHT_REDIS_URL", f"rediss://:{CANARY}@/0", "names no host"),
        ("MILLWRIGHT_POSTGRES_URL", f"mysql://u:{CANARY}@db.test/plant", "no URL of this server"),
        ("MILLWRIGHT_POSTGRES_URL", f"postgresql://u:{CANARY}@db.test", "names no database"),
        ("MILLWRIGHT_POSTGRES_URL", f"postgresql://u:{CANARY}@db.test:x/p", "no URL"),
        ("MILLWRIGHT_POSTGRES_URL", f"postgresql://u:1/{CANARY}@db.test/p", "ends it too early"),
        (
            "MILLWRIGHT_POSTGRES_URL",
            f"postgresql://u:{CANARY}@db.test/plant?sslmode=disable",
            "sslmode=disable",
        ),
        ("MLFLOW_TRACKING_URI", "http://mlflow.plant.test", "without TLS"),
        ("MLFLOW_TRACKING_URI", f"https://u:{CANARY}@mlflow.plant.test", "has a login in it"),
        ("MLFLOW_TRACKING_URI", f"https://{CANARY}@mlflow.plant.test", "has a login in it"),
        ("MILLWRIGHT_S3_BUCKET", "s3://plant", "of another form"),
        ("MILLWRIGHT_IMAGE_REGISTRY", "https://registry.plant.test", "of another form"),
        ("SLACK_CHANNEL", "#alerts", "of another form"),
    ],
)
def test_a_wrong_form_is_named_and_its_value_is_not_shown(
    whole: State, monkeypatch: pytest.MonkeyPatch, name: str, value: str, wrong: str
) -> None:
    monkeypatch.setenv(name, value)
    found = only(variables.check(PRODUCTION, whole))
    assert found.place == name
    assert wrong in found.wrong
    assert CANARY not in f"{found} {variables.servers(PRODUCTION, whole)}"


def test_mlflow_on_this_machine_needs_no_tls(whole: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert variables.check(PRODUCTION, whole) == []


@given(st.text(st.characters(exclude_characters="@", categories=["L", "N", "P", "S"]), min_size=9))
def test_a_place_never_has_a_password(password: str) -> None:
    url = f"postgresql://plant:{password}@db.test/plant?password={password}"
    assert variables.place(url) == "postgresql://db.test/plant"


def test_staging_says_how_each_server_is_started_or_named(where: State) -> None:
    found = variables.check(load_settings("staging"), State(where.home, "staging"))
    assert [each.place for each in found] == [
        "MILLWRIGHT_POSTGRES_URL", "MILLWRIGHT_REDIS_URL", "MLFLOW_TRACKING_URI"
    ]  # fmt: skip
    assert all("services up --stack staging" in each.way_out for each in found)


def test_servers_that_were_started_here_are_known(where: State) -> None:
    staging = State(where.home, "staging")
    staging.services.mkdir(parents=True)
    urls = {"postgres": f"postgresql://u:{CANARY}@/p?host=/tmp/s", "redis": "redis://h:1/0"}
    staging.endpoints.write_text(str({**urls, "mlflow": "http://127.0.0.1:2"}).replace("'", '"'))
    assert variables.check(load_settings("staging"), staging) == []
    assert CANARY not in str(variables.servers(load_settings("staging"), staging))


def test_local_refuses_mlflow_elsewhere(where: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.plant.test")
    found = only(variables.check(load_settings("local"), State(where.home, "local")))
    assert found.place == "MLFLOW_TRACKING_URI"


# The stack file


def kubeconfig(folder: Path, *contexts: str) -> Path:
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump({"contexts": [{"name": name} for name in contexts]}))
    return path


def test_a_stack_on_a_server_with_its_context_is_in_order(
    whole: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "plant")))
    monkeypatch.setenv("ZENML_STORE_URL", f"https://u:{CANARY}@zenml.plant.test")
    stack = load(STACK, StackFile)
    assert stacks.check(stack, PRODUCTION, whole) == []
    plan = "\n".join(stacks.plan(stack, whole))
    assert "s3 path=s3://plant-artifacts/zenml" in plan
    assert "kubernetes_context=plant" in plan
    assert "secret {{millwright_slack.token}}: in ZenML at https://zenml.plant.test" in plan
    assert CANARY not in plan


def test_a_stack_without_a_zenml_server_is_told_to_have_one(
    whole: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZENML_STORE_URL")
    found = stacks.check(load(STACK, StackFile), PRODUCTION, whole)
    remote = only([each for each in found if each.place.endswith("orchestrator.flavor")])
    assert "ZENML_STORE_URL" in remote.way_out
    assert remote.yours


def test_a_context_is_looked_for_in_the_kubeconfig(
    whole: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZENML_STORE_URL", "https://zenml.plant.test")
    stack = load(STACK, StackFile)
    found = only(stacks.check(stack, PRODUCTION, whole))
    assert (found.place, "no kubeconfig" in found.wrong) == ("MILLWRIGHT_KUBERNETES_CONTEXT", True)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "plants", "other")))
    found = only(stacks.check(stack, PRODUCTION, whole))
    assert found.way_out == "did you mean 'plants'?"
    assert found.yours


@pytest.mark.parametrize(
    ("old", "new", "place", "wrong"),
    [
        ("0.98.0", "0.1.0", "zenml_version", "is 0.1.0"),
        ("stack_name: production", "stack_name: other", "stack_name", "'other'"),
        ("${MILLWRIGHT_S3_BUCKET}", "${MILLWRIGHT_S3_BUKET}", "artifact_store.path", "S3_BUKET"),
        ("${SLACK_CHANNEL}", "$-", "alerter.slack_channel_id", "begins no variable"),
        ('"{{millwright_slack.token}}"', CANARY, "alerter.slack_token", "a secret in clear"),
        ('"{{millwright_slack.token}}"', "${TOKEN}", "alerter.slack_token", "a secret in clear"),
        (
            "uri: ${MILLWRIGHT_IMAGE_REGISTRY}", f"uri: https://u:{CANARY}@h",
            "container_registry.uri", "a secret in clear",
        ),
    ],
)  # fmt: skip
def test_a_fault_of_the_stack_file_is_named_by_file_and_key(
    whole: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    old: str, new: str, place: str, wrong: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "plant")))
    monkeypatch.setenv("ZENML_STORE_URL", "https://zenml.plant.test")
    stack = stack_with(tmp_path, old, new)
    found = stacks.check(stack, PRODUCTION, whole)
    where = f"configs/environments/production/stack.yaml: {place}"
    assert [(each.place, each.yours) for each in found if wrong in each.wrong] == [(where, False)]
    assert CANARY not in f"{found} {stacks.plan(stack, whole)}"


# Manifests


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_manifests_of_the_project_are_in_order(
    whole: State, kubernetes: Path, environment: str
) -> None:
    settings = load_settings(environment)
    assert manifests.check(settings, State(whole.home, environment), kubernetes) == []
    plan = manifests.plan(settings, kubernetes)
    assert "image registry.plant.test/plant/millwright-service:v1" in plan
    assert any(line.startswith("schedule millwright-training: ") for line in plan)


def test_an_environment_without_manifests_has_nothing_wrong_with_them(where: State) -> None:
    assert manifests.check(load_settings("local"), where) == []
    assert manifests.plan(load_settings("local")) == []


def test_what_stands_for_something_of_ones_own_has_to_go(whole: State) -> None:
    found = manifests.check(PRODUCTION, whole)
    assert all(each.yours for each in found)
    told = [each for each in found if "stands for" in each.wrong]
    assert any("data.MILLWRIGHT_S3_BUCKET" in each.wrong for each in told)
    assert any(
        each.place.endswith("overlays/production/kustomization.yaml: images") for each in told
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "place", "wrong"),
    [
        ("release/deployment.yaml", "  replicas: 2", "  replikas: 2",
         "Deployment millwright-service", "unknown key 'replikas', did you mean 'replicas'?"),
        ("release/deployment.yaml", "  replicas: 2", "  replicas: two",
         "Deployment millwright-service", "spec.replicas is not valid"),
        ("release/service.yaml", "kind: Service", "kind: Servise", "Servise", "is of no kind"),
        ("release/service.yaml", "apiVersion: v1", "api: v1", "Service", "has no 'apiVersion'"),
        ("base/network.yaml", "spec:", "spec: [", "base/network.yaml:", "is not valid YAML"),
        ("overlays/production/traffic.yaml", "name: millwright", "name: milwright",
         "overlays/production/traffic.yaml", "changes Service milwright, which no resource is"),
        ("overlays/production/traffic.yaml", "selector:", "selektor:",
         "Service millwright", "unknown key 'selektor'"),
        ("overlays/production/kustomization.yaml", "newTag: v1", "newTag: latest",
         "overlays/production/kustomization.yaml: images", "the tag 'latest'"),
        ("overlays/production/kustomization.yaml", "newTag: v1", "newTag: try",
         "overlays/production/kustomization.yaml: images", "neither of a release nor"),
        ("overlays/production/kustomization.yaml", "    newTag: v1", "    # v1",
         "overlays/production/kustomization.yaml: images", "neither a tag nor a digest"),
        ("overlays/production/kustomization.yaml", "registry.plant.test/plant", "other.test",
         "overlays/production/kustomization.yaml: images", "not in the registry"),
        ("overlays/production/kustomization.yaml", "name: millwright-pipelines", "name: pipeline",
         "overlays/production/kustomization.yaml: images", "which no container uses"),
        ("overlays/production/kustomization.yaml", "  - ingress.yaml\n", "",
         "overlays/production/ingress.yaml", "is not named by kustomization.yaml"),
        ("overlays/production/kustomization.yaml", "- ingress.yaml", "- gate.yaml",
         "overlays/production/kustomization.yaml: resources", "gate.yaml, which is not there"),
        ("base/configuration.yaml", "data:", f"data:\n  MILLWRIGHT_REDIS_URL: rediss://:{CANARY}@h",
         "ConfigMap millwright: MILLWRIGHT_REDIS_URL", "a secret in clear"),
        ("overlays/production/configuration.yaml", "plant-artifacts", "other",
         "MILLWRIGHT_S3_BUCKET", "another value"),
        ("overlays/production/configuration.yaml", "  SLACK_CHANNEL: C0123456789\n", "",
         "CronJob millwright-training: training", "is not given SLACK_CHANNEL"),
        ("release/deployment.yaml", "key: MILLWRIGHT_REDIS_URL", "key: REDIS_URL",
         "service.MILLWRIGHT_REDIS_URL", "gives MILLWRIGHT_REDIS_URL the key 'REDIS_URL'"),
        ("base/training.yaml", "                - secretRef: {name: millwright-secrets}\n", "",
         "CronJob millwright-training: training", "is not given ZENML_STORE_API_KEY"),
        ("base/training.yaml", "            runAsNonRoot: true\n", "",
         "CronJob millwright-training", "container training has no runAsNonRoot: true"),
        ("base/configuration.yaml", "kind: ConfigMap", "kind: Secret", "Secret millwright",
         "a secret in clear"),
    ],
)  # fmt: skip
def test_a_fault_of_a_manifest_is_named_by_its_place(
    whole: State, kubernetes: Path, file: str, old: str, new: str, place: str, wrong: str
) -> None:
    change(kubernetes / file, old, new)
    found = manifests.check(PRODUCTION, whole, kubernetes)
    assert [each for each in found if wrong in str(each.wrong) and place in each.place], found
    assert CANARY not in str(found)


RIGHTS = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def test_a_restricted_namespace_lets_in_a_pod_without_rights() -> None:
    common = {key: RIGHTS[key] for key in ("runAsNonRoot", "seccompProfile")}
    own = {key: RIGHTS[key] for key in ("allowPrivilegeEscalation", "capabilities")}
    volumes = [{"name": "state", "persistentVolumeClaim": {}, "hostPath": None}]
    container = {"name": "one", "securityContext": own}
    pod = {"securityContext": common, "volumes": volumes, "containers": [container]}
    assert list(pods.refused(pod)) == []


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        *(({key: None}, f"no {key}") for key in ("runAsNonRoot", "seccompProfile")),
        ({"allowPrivilegeEscalation": None}, "no allowPrivilegeEscalation"),
        ({"capabilities": None}, "more than capabilities"),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, "more than capabilities"),
        ({"seccompProfile": {"type": "Unconfined"}}, "no seccompProfile"),
        ({"runAsUser": 0}, "runAsUser: 0"),
        ({"privileged": True}, "is privileged"),
    ],
)
def test_each_right_too_many_of_a_container_is_named(more: dict[str, object], wrong: str) -> None:
    container = {"name": "one", "securityContext": {**RIGHTS, **more}}
    told = list(pods.refused({"initContainers": [container], "containers": []}))
    assert len(told) == 1
    assert told[0].startswith("container one ")
    assert wrong in told[0]


def test_what_a_pod_has_of_its_node_is_named() -> None:
    pod = {"hostNetwork": True, "volumes": [{"name": "disk", "hostPath": {"path": "/"}}]}
    assert list(pods.refused(pod)) == ["has hostNetwork", "has the volume disk of kind hostPath"]


def test_a_patch_of_a_named_thing_in_a_list_changes_that_one(kubernetes: Path) -> None:
    overlay = kubernetes / "overlays" / "staging"
    (overlay / "more.yaml").write_text(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: millwright-service}, spec: {"
        "template: {spec: {containers: [{name: service, workingDir: /app}]}}}}"
    )
    change(
        overlay / "kustomization.yaml",
        "- path: traffic.yaml",
        "- path: traffic.yaml\n  - path: more.yaml",
    )
    made = render(overlay)
    changed = only_one([each for _, each in containers(made.manifests) if "workingDir" in each])
    assert changed["image"].endswith("/millwright-service:v1")
    assert made.findings == []


def only_one(values: list[dict[str, str]]) -> dict[str, str]:
    assert len(values) == 1
    return values[0]


# The report


def test_a_report_has_all_findings_in_each_of_its_forms() -> None:
    found = (Finding("A", "is not set", "set it"), Finding("B", "is wrong", "mend it"))
    report = CheckReport("production", ("alerter: slack",), found)
    assert not report.complete
    assert report.summary()["findings"] == [vars(each) for each in found]
    assert report.rows() == {
        "would use": "alerter: slack",
        "1": "A\nis not set; set it",
        "2": "B\nis wrong; mend it",
        "complete": "no: 2 things to mend",
    }
    assert CheckReport("local", (), ()).rows()["complete"] == "yes"


def test_settings_that_need_nothing_are_checked_too(where: State) -> None:
    settings: Settings = load_settings("local")
    assert variables.check(settings, State(where.home, "local")) == []
