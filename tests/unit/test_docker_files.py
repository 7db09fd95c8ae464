"""The files by which Millwright is built, put together and deployed, held against each other."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from millwright.check import manifests, pods
from millwright.check.kustomize import Rendered, containers, render
from millwright.check.kustomize import pods as kustomize_pods
from millwright.doctor import machine
from millwright.keys.file import VARIABLE
from millwright.serving import access
from millwright.settings import REPOSITORY, Serving, State, load_settings

DOCKER = REPOSITORY / "docker"
KUBERNETES = DOCKER / "kubernetes"
MANIFESTS = sorted(KUBERNETES.rglob("*.yaml"))
WORKFLOWS = REPOSITORY / ".github" / "workflows"
IMAGES = ("pipelines", "service")
OVERLAYS = ("staging", "production")
LOCKS = {"pipelines": "runtime.txt", "service": "service.txt"}
DOCUMENT = (REPOSITORY / "docs" / "deployment.md").read_text(encoding="utf-8")
COMPOSE = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]


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


def rendered(overlay: str) -> Rendered:
    """The objects of an overlay, as the cluster gets them."""
    return render(KUBERNETES / "overlays" / overlay)


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


def test_the_pipelines_image_has_the_lock_that_the_doctor_holds_it_against(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word, rest in final_stage("pipelines"):
        if word == "COPY" and rest.endswith(" requirements/"):
            for source in rest.split()[:-1]:
                shutil.copy(REPOSITORY / source, tmp_path)
    monkeypatch.setattr(machine, "LOCKS", tmp_path)
    monkeypatch.setattr(machine, "installed", dict(pins("runtime.txt")).get)
    assert machine.lock_file() == tmp_path / "runtime.txt"
    assert machine.locked(machine.lock_file())


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


def test_pipelines_are_given_zenml_s_server_if_one_is_set_and_none_else() -> None:
    environment = SERVICES["pipelines"]["environment"]
    optional = {name for name, value in environment.items() if value is None}
    assert optional == {"ZENML_STORE_URL", "ZENML_STORE_API_KEY"}
    # Everything that a run in staging needs is there beside them.
    assert SERVICES["service"]["environment"].items() <= environment.items()


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


def test_alerts_ask_only_for_metrics_that_are_documented() -> None:
    documented = set(re.findall(r"`(millwright_[a-z_]+)`", DOCUMENT))
    folder = DOCKER / "prometheus"
    config = yaml.safe_load((folder / "prometheus.yaml").read_text("utf-8"))
    rules = [
        rule
        for name in config["rule_files"]
        for group in yaml.safe_load((folder / name).read_text("utf-8"))["groups"]
        for rule in group["rules"]
    ]
    used = {name for rule in rules for name in re.findall(r"millwright_[a-z_]+", rule["expr"])}
    assert {"millwright_log_lost", "millwright_release_refused"} <= used <= documented
    assert all(rule["annotations"]["summary"] for rule in rules)


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
    labels = {label for query in queries for label in re.findall(r"(\w+)=~?'", query)}
    assert labels
    assert labels <= set(re.findall(r"`([a-z_]+)`", DOCUMENT))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_manifests_of_an_overlay_are_in_order(overlay: str, tmp_path: Path) -> None:
    found = manifests.check(load_settings(overlay), State(tmp_path, overlay))
    assert [each for each in found if not each.yours] == []


def test_no_manifest_is_left_out_of_all_overlays() -> None:
    files = {path.resolve() for overlay in OVERLAYS for path in rendered(overlay).files}
    assert files == set(KUBERNETES.rglob("*.yaml"))


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
    written = set(re.findall(r"image: (.*)", "".join(p.read_text() for p in MANIFESTS)))
    assert written == {"millwright-pipelines", "millwright-service"}
    for overlay in OVERLAYS:
        named = [image for _, image in rendered(overlay).images]
        assert {image["name"] for image in named} == written
        assert all(image.get("digest") or re.fullmatch(r"v\d+", image["newTag"]) for image in named)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_writes_to_its_own_files_or_takes_all_memory(overlay: str) -> None:
    found = [container for _, container in containers(rendered(overlay).manifests)]
    assert len(found) == 3
    assert all(one["securityContext"]["readOnlyRootFilesystem"] is True for one in found)
    assert all(one["resources"]["limits"]["memory"] for one in found)


def test_namespaces_let_in_no_pod_with_rights() -> None:
    for overlay in OVERLAYS:
        kinds = {one.kind: one.content for one in rendered(overlay).manifests}
        assert kinds["Namespace"]["metadata"]["labels"][pods.LABEL] == "restricted"


def test_every_secret_of_the_cluster_is_documented_and_none_is_in_the_repository() -> None:
    text = "".join(path.read_text() for path in MANIFESTS)
    assert "kind: Secret" not in text
    keys = re.findall(r"secretKeyRef: \{name: millwright-secrets, key: (\w+)", text)
    named = re.findall(r"(?:secretRef: \{name: |auth-secret: |secretName: )([\w-]+)", text)
    assert set(named) == {"millwright-secrets", "millwright-keys", "millwright-tls"}
    assert "MILLWRIGHT_POSTGRES_URL" in keys
    assert all(f"`{name}`" in DOCUMENT for name in (*keys, *named))


def test_from_outside_the_service_is_reached_with_a_key_alone() -> None:
    found = [each for each in rendered("production").manifests if each.kind == "Ingress"]
    assert found
    for ingress in found:
        spec = ingress.content["spec"]
        assert spec["tls"]
        paths = [path["path"] for rule in spec["rules"] for path in rule["http"]["paths"]]
        assert paths == ["/v1"]
    assert not [path for path in access.OPEN if path.startswith("/v1")]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_follows_its_keys_in_a_folder_that_is_mounted_whole(overlay: str) -> None:
    (pod,) = [each for one, each in kustomize_pods(rendered(overlay).manifests)
              if one.kind == "Deployment"]  # fmt: skip
    (container,) = pod["containers"]
    (named,) = [each["value"] for each in container["env"] if each["name"] == VARIABLE]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "keys"]
    assert Path(named).parent == Path(mount["mountPath"])
    assert mount["readOnly"] is True
    assert "subPath" not in mount  # the kubelet would never change the file
    (volume,) = [each for each in pod["volumes"] if each["name"] == "keys"]
    secret = volume["secret"]
    assert (secret["secretName"], secret["defaultMode"]) == ("millwright-keys", 0o440)
    assert not secret.get("optional")
    assert f"--from-file={Path(named).name}" in DOCUMENT


def test_the_proxy_takes_what_the_service_takes_and_leads_to_what_needs_a_key() -> None:
    text = (DOCKER / "nginx" / "millwright.conf").read_text(encoding="utf-8")
    bodies = re.findall(r"client_max_body_size (\d+)m;", text)
    assert all(int(most) * 2**20 >= Serving().most_bytes for most in bodies)
    assert len(bodies) == 1
    led = re.findall(r"location (?:= )?(\S+) \{\n        proxy_pass", text)
    assert led == ["/v1/", "/openapi.json"]
    assert re.findall(r"ssl_protocols (.*);", text) == ["TLSv1.2 TLSv1.3"]
    assert "Strict-Transport-Security" in text
    assert not re.search(r"listen \S*\b80\b", text)


@pytest.mark.parametrize(("ended", "told"), [(0, 0), (1, 1), (2, 2), (3, 0)])
def test_features_are_done_once_an_hour_although_rows_are_in_quarantine(
    tmp_path: Path, ended: int, told: int
) -> None:
    (job,) = [
        one for each, one in containers(rendered("production").manifests)
        if each.name == "millwright-features"
    ]  # fmt: skip
    asked = tmp_path / "asked"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {asked}\nexit {ended}\n')
    python.chmod(0o755)
    values = {"DATA": "/incoming", "FLEET": "pumps", "ENVIRONMENT": "production"}
    known = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    known |= {f"MILLWRIGHT_{name}": value for name, value in values.items()}
    done = subprocess.run([*job["command"], *job["args"]], env=known, check=False)
    assert done.returncode == told
    words = "run.py --pipeline features --data /incoming --fleet pumps --stack production\n"
    assert asked.read_text() == words


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
