"""The files by which Millwright is built, put together and deployed, held against each other."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from millwright.settings import REPOSITORY

DOCKER = REPOSITORY / "docker"
KUBERNETES = DOCKER / "kubernetes"
WORKFLOWS = REPOSITORY / ".github" / "workflows"
IMAGES = ("pipelines", "service")
OVERLAYS = ("staging", "production")
LOCKS = {"pipelines": "runtime.txt", "service": "service.txt"}
DOCUMENT = (REPOSITORY / "docs" / "deployment.md").read_text(encoding="utf-8")
COMPOSE = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
Object = dict[str, Any]


def pins(name: str) -> set[tuple[str, str]]:
    """The packages of a lock and their versions."""
    text = (REPOSITORY / "requirements" / name).read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9._-]+)(?:\[.*\])?==([^ ;\\]+)", text, re.M))


def instructions(image: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each on one line."""
    text = (DOCKER / f"{image}.Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.M))
    lines = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(word, rest) for word, rest in lines]


def final_stage(image: str) -> list[tuple[str, str]]:
    """What becomes of the image itself."""
    found = instructions(image)
    last = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return found[last:]


def documents(folder: Path) -> Iterator[tuple[Path, Object]]:
    """Every object below `folder`, whole or a patch, with its file."""
    for path in sorted(folder.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
                yield path, document


def kustomizations() -> Iterator[tuple[Path, Object]]:
    for path in sorted(KUBERNETES.rglob("kustomization.yaml")):
        yield path, yaml.safe_load(path.read_text(encoding="utf-8"))


def patches() -> list[Path]:
    return [
        path.parent / patch["path"]
        for path, content in kustomizations()
        for patch in content.get("patches", ())
    ]


def containers(workload: Object) -> list[Object]:
    spec = workload["spec"]
    if workload["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    pod = spec["template"]["spec"]
    return [*pod.get("initContainers", ()), *pod["containers"]]


def workloads() -> list[Object]:
    found = [one for _, one in documents(KUBERNETES) if one["kind"] in ("Deployment", "CronJob")]
    assert len(found) >= 3
    return found


def objects() -> list[Any]:
    partial = patches()
    return [
        pytest.param(document, id=f"{path.relative_to(KUBERNETES)}:{document['kind']}")
        for path, document in documents(KUBERNETES)
        if path not in partial
    ]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_numbered_user_who_is_not_root(image: str) -> None:
    users = [rest for word, rest in final_stage(image) if word == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_installs_exactly_its_lock_and_checks_every_hash(image: str) -> None:
    builder = " ".join(rest for word, rest in instructions(image) if word == "RUN")
    assert f"uv pip sync --quiet --python /opt/venv/bin/python --compile-bytecode "\
        f"--require-hashes /requirements/{LOCKS[image]}" in builder  # fmt: skip
    for install in re.findall(r"pip (?:install|sync)[^&]*", builder):
        assert "--require-hashes" in install
    assert not re.search(r"(pip|uv|apt-get) (install|sync|pip)", str(final_stage(image)))


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_says_how_it_is_and_where_it_comes_from(image: str) -> None:
    words = dict(final_stage(image))
    assert words["VOLUME"] == "/var/lib/millwright"
    assert "HEALTHCHECK" in words
    assert "org.opencontainers.image.revision" in words["LABEL"]
    assert "PYTHONDONTWRITEBYTECODE=1" in " ".join(
        rest for word, rest in final_stage(image) if word == "ENV"
    )


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_starts_from_a_tag_that_can_be_overridden(image: str) -> None:
    first = instructions(image)[0]
    assert first[0] == "ARG"
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", first[1])
    stages = [rest.split()[0] for word, rest in instructions(image) if word == "FROM"]
    assert set(stages) == {"${BASE}"}


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_copies_is_there_and_let_through(image: str) -> None:
    let_through = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for word, rest in instructions(image):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (REPOSITORY / source).exists()
                assert f"!{source.split('/')[0]}" in let_through


@pytest.mark.parametrize("lock", LOCKS.values())
def test_a_lock_of_an_image_has_the_versions_that_the_tests_ran_and_names_no_host(
    lock: str,
) -> None:
    assert pins(lock)
    assert pins(lock) <= pins("dev.txt")
    text = (REPOSITORY / "requirements" / lock).read_text(encoding="utf-8")
    assert "--index-url" not in text
    assert "://" not in text
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]
    assert all("--hash=sha256:" in package for package in packages)


def test_the_service_has_neither_zenml_nor_mlflow_nor_tools_for_development() -> None:
    names = {name for name, _ in pins("service.txt")}
    refused = {"zenml", "mlflow", "mlflow-skinny", "evidently", "optuna", "pytest", "ruff", "uv"}
    assert not names & refused
    assert {"starlette", "uvicorn", "prometheus-client", "xgboost", "redis"} <= names


@pytest.mark.parametrize("name", SERVICES)
def test_a_composed_service_is_checked_limited_and_of_a_named_version(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"]
    assert service["cap_drop"] == ["ALL"]
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["networks"]
    tag = service["image"].partition(":")[2]
    assert tag
    assert not tag.startswith("latest")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_a_composed_service_waits_until_what_it_needs_is_healthy() -> None:
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES
            assert how == {"condition": "service_healthy"}


def test_no_store_is_published() -> None:
    for name in ("postgres", "redis", "mysql"):
        assert "ports" not in SERVICES[name]
        assert SERVICES[name]["networks"] == ["stores"]


def test_every_value_that_the_composition_needs_is_asked_for_and_none_has_a_default() -> None:
    asked = re.findall(r"\$\{([^}]*)\}", COMPOSE)
    assert asked
    assert all(":?" in words for words in asked)
    example = (DOCKER / ".env.example").read_text(encoding="utf-8")
    offered = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.M))
    assert set(offered) == {words.partition(":")[0] for words in asked}
    assert set(offered.values()) == {""}


def test_no_password_of_the_composition_is_an_argument_of_a_command() -> None:
    for service in SERVICES.values():
        assert "${" not in json.dumps(service.get("command", ""))
        assert "${" not in json.dumps(service["healthcheck"]["test"])


def test_what_the_composition_mounts_is_there() -> None:
    volumes = [volume for one in SERVICES.values() for volume in one.get("volumes", ())]
    mounted = [volume.split(":")[0] for volume in volumes if volume.startswith("./")]
    assert len(mounted) >= 4
    assert all((DOCKER / path).exists() for path in mounted)


def test_prometheus_asks_the_composed_service_at_its_port() -> None:
    asked = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yaml").read_text("utf-8"))
    targets = [
        t for job in asked["scrape_configs"] for s in job["static_configs"] for t in s["targets"]
    ]
    assert "service:8000" in targets


def test_dashboards_ask_only_for_metrics_that_are_documented() -> None:
    documented = set(re.findall(r"`(millwright_[a-z_]+)`", DOCUMENT))
    panels = [
        panel
        for path in sorted((DOCKER / "grafana" / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
    ]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    used = {name for query in queries for name in re.findall(r"millwright_[a-z_]+", query)}
    assert used
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= documented


@pytest.mark.parametrize("document", objects())
def test_every_kubernetes_object_is_valid(document: Object) -> None:
    newest = kubernetes_validate.latest_version()
    assert kubernetes_validate.validate(document, newest, strict=True)


def test_every_patch_is_of_an_object_that_is_there() -> None:
    partial = patches()
    whole = {
        (one["kind"], one["metadata"]["name"])
        for path, one in documents(KUBERNETES)
        if path not in partial
    }
    named = {
        (one["kind"], one["metadata"]["name"]) for p, one in documents(KUBERNETES) if p in partial
    }
    assert named
    assert named <= whole


def test_kustomizations_name_files_that_are_there_and_leave_none_out() -> None:
    named = set(patches())
    for path, content in kustomizations():
        for resource in content["resources"]:
            target = (path.parent / resource).resolve()
            assert target.is_file() or (target / "kustomization.yaml").is_file()
            named.add(target)
    assert {path for path, _ in documents(KUBERNETES)} <= named


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_names_one_release_everywhere(overlay: str) -> None:
    folder = KUBERNETES / "overlays" / overlay
    lines = [
        line
        for path in folder.rglob("*.yaml")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.endswith("# release")
    ]
    names = [re.findall(r"\bv\d+\b", line) for line in lines]
    assert len(names) == {"staging": 5, "production": 6}[overlay]
    assert all(name == names[0] and len(name) == 1 for name in names)
    release = yaml.safe_load((folder / "release" / "kustomization.yaml").read_text("utf-8"))
    label = release["labels"][0]["pairs"]["release"]
    assert release["nameSuffix"] == f"-{label}"


def test_images_are_named_in_kustomizations_alone_and_by_a_tag() -> None:
    used = {container["image"] for one in workloads() for container in containers(one)}
    assert used == {"millwright-pipelines", "millwright-service"}
    for overlay in OVERLAYS:
        named = [
            image
            for path, content in kustomizations()
            if path.is_relative_to(KUBERNETES / "overlays" / overlay)
            for image in content.get("images", ())
        ]
        assert {image["name"] for image in named} == used
        assert all(image.get("digest") or re.fullmatch(r"v\d+", image["newTag"]) for image in named)


def test_no_container_has_rights_or_writes_to_its_own_files() -> None:
    for workload in workloads():
        for container in containers(workload):
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_every_secret_of_the_cluster_is_documented_and_none_is_in_the_repository() -> None:
    assert not [one for _, one in documents(KUBERNETES) if one["kind"] == "Secret"]
    references = [
        variable["valueFrom"]["secretKeyRef"]
        for workload in workloads()
        for container in containers(workload)
        for variable in container["env"]
        if "secretKeyRef" in variable["valueFrom"]
    ]
    assert {reference["name"] for reference in references} == {"millwright-secrets"}
    for reference in references:
        assert f"`{reference['key']}`" in DOCUMENT


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_calls_make_and_actions_of_a_named_version(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})", step["uses"])
            else:
                assert re.fullmatch(r"make [a-z-]+( [A-Z]+=\S.*)?", step["run"])


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_calls_targets_that_there_are(path: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    called = set(re.findall(r"run: make ([a-z-]+)", path.read_text(encoding="utf-8")))
    assert called
    assert called <= targets
