"""The Kubernetes manifests of an environment: `docker/kubernetes/overlays/<name>` and below."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate

from millwright.check import kustomize, pods
from millwright.check.kustomize import Manifest, Rendered
from millwright.check.report import Finding
from millwright.check.stacks import SECRET_KEY, SECRET_VALUE
from millwright.check.variables import value_of
from millwright.configuration import nearest
from millwright.endpoints import VARIABLES
from millwright.settings import REPOSITORY, Settings, State

KUBERNETES = REPOSITORY / "docker" / "kubernetes"
_VERSION = "1.34"  # of the cluster whose schemas count
_RELEASE = re.compile(r"v?\d+(\.\d+)*([.-][0-9A-Za-z.-]+)?")
_STAND_IN = re.compile(
    r"REPLACE_?ME|replace-me|CHANGE_?ME|\bTODO\b|<[A-Za-z_ -]+>"
    r"|\bexample\.(org|com|net)\b|\bC0{6,}\b"
)
# What servers read that have their password in their URL.
_SECRET_VARIABLES = (VARIABLES["postgres"], VARIABLES["redis"])


def check(settings: Settings, state: State, root: Path = KUBERNETES) -> list[Finding]:
    """What is wrong with the manifests; nothing where the environment has none."""
    folder = root / "overlays" / settings.environment
    if not folder.is_dir():
        return []
    made = kustomize.render(folder)
    found = list(made.findings)
    restricted = any(_restricts(manifest) for manifest in made.manifests)
    for manifest in made.manifests:
        invalid = list(_schema(manifest))
        found += [*invalid, *_secrets(manifest)]
        if restricted and not invalid:
            found += _pods(manifest)
    found += [*_images(made, settings, state), *_keys(made, settings, state)]
    if settings.servers == "elsewhere":
        found += _stand_ins(made)
    return found


def plan(settings: Settings, root: Path = KUBERNETES) -> list[str]:
    """The images and the schedules of the cluster."""
    folder = root / "overlays" / settings.environment
    if not folder.is_dir():
        return []
    made = kustomize.render(folder)
    images = {str(container.get("image")) for _, container in kustomize.containers(made.manifests)}
    schedules = [
        f"schedule {each.name}: {each.content['spec'].get('schedule')}"
        for each in made.manifests
        if each.kind == "CronJob" and isinstance(each.content.get("spec"), dict)
    ]
    return [*(f"image {image}" for image in sorted(images)), *schedules]


def _schema(manifest: Manifest) -> Iterator[Finding]:
    try:
        kubernetes_validate.validate(manifest.content, _VERSION, strict=True)
    except kubernetes_validate.ValidationError as err:
        key = ".".join(str(part) for part in err.path)
        wrong = f"{key or 'it'} is not valid: {_short(err)}"
        yield Finding(manifest.place, wrong, f"see kubectl explain {manifest.kind.lower()}")
    except kubernetes_validate.SchemaNotFoundError:
        wrong = f"is of no kind that Kubernetes {_VERSION} has"
        yield Finding(manifest.place, wrong, "correct 'apiVersion' and 'kind'")
    except KeyError as err:
        yield Finding(manifest.place, f"has no {err}", "add it")


def _restricts(manifest: Manifest) -> bool:
    labels = (manifest.content.get("metadata") or {}).get("labels") or {}
    return manifest.kind == "Namespace" and labels.get(pods.LABEL) == "restricted"


def _pods(manifest: Manifest) -> Iterator[Finding]:
    for _, pod in kustomize.pods([manifest]):
        for wrong in pods.refused(pod):
            way_out = "its namespace lets in no such pod; say so in its securityContext"
            yield Finding(manifest.place, wrong, way_out)


def _short(err: Any) -> str:
    """What a schema says, without the value, which can be long or secret."""
    if err.validator == "additionalProperties":
        known = sorted(err.schema.get("properties", {}))
        extra = [key for key in err.instance if key not in known]
        return "; ".join(f"unknown key '{key}', {nearest(key, known)}" for key in extra)
    if err.validator == "required":
        return str(err.message)
    return f"it has to be of {err.validator} {err.validator_value}"[:160]


def _secrets(manifest: Manifest) -> Iterator[Finding]:
    way_out = "name a key of a Secret that is made outside the repository: secretKeyRef"
    if manifest.kind == "Secret" and (
        "data" in manifest.content or "stringData" in manifest.content
    ):
        wrong = "has a secret in clear"
        yield Finding(manifest.place, wrong, "make it by hand or by an operator, not by a file")
    if manifest.kind == "ConfigMap":
        for key, value in (manifest.content.get("data") or {}).items():
            if _in_clear(key, str(value)):
                yield Finding(f"{manifest.place}: {key}", "has a secret in clear", way_out)
    for _, container in kustomize.containers([manifest]):
        for each in container.get("env") or []:
            if _in_clear(str(each.get("name")), str(each.get("value") or "")):
                place = f"{manifest.place}: {container.get('name')}.{each.get('name')}"
                yield Finding(place, "has a secret in clear", way_out)


def _in_clear(key: str, value: str) -> bool:
    return bool(value and (_is_secret(key) or SECRET_VALUE.search(value)))


def _is_secret(key: str) -> bool:
    return key in _SECRET_VARIABLES or bool(SECRET_KEY.search(key))


def _images(made: Rendered, settings: Settings, state: State) -> Iterator[Finding]:
    renamed = {kustomize.full_name(image): file for file, image in made.images}
    registry = value_of("MILLWRIGHT_IMAGE_REGISTRY", state)
    for manifest, container in kustomize.containers(made.manifests):
        image = str(container.get("image"))
        file = renamed.get(image)
        place = f"{file}: images" if file else f"{manifest.place}: {container.get('name')}"
        name, at, digest = image.partition("@")
        path, _, last = name.rpartition("/")
        tag = last.partition(":")[2]
        if not (at and re.fullmatch(r"sha256:[0-9a-f]{64}", digest)):
            if not tag:
                way_out = "give it a newTag in the overlay, or a digest"
                yield Finding(place, f"image {image} has neither a tag nor a digest", way_out)
            elif tag == "latest":
                wrong = f"image {image} is of the tag 'latest', which is another one tomorrow"
                yield Finding(place, wrong, "name a release, or a digest")
            elif last.startswith("millwright-") and not _is_release(tag):
                wrong = f"image {image} is neither of a release nor of version {_version()}"
                yield Finding(place, wrong, "name the tag of a release, such as v1")
        if registry and last.startswith("millwright-") and path != registry.rstrip("/"):
            wrong = f"image {image} is not in the registry that MILLWRIGHT_IMAGE_REGISTRY names"
            if "MILLWRIGHT_IMAGE_REGISTRY" in settings.variables:
                way_out = f"name it {registry.rstrip('/')}/{last}"
                yield Finding(place, wrong, way_out, yours=True)


def _is_release(tag: str) -> bool:
    return tag == _version() or bool(_RELEASE.fullmatch(tag) and tag.startswith("v"))


def _version() -> str:
    try:
        text = Path(REPOSITORY, "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    return str(tomllib.loads(text)["project"]["version"])


def _keys(made: Rendered, settings: Settings, state: State) -> Iterator[Finding]:
    """Whether the pipelines are given what the settings say that they need, by its right name."""
    configured = {
        manifest.name: manifest.content.get("data") or {}
        for manifest in made.manifests
        if manifest.kind == "ConfigMap"
    }
    needed = {*settings.variables, *VARIABLES.values()}
    for manifest, container in kustomize.containers(made.manifests):
        place = f"{manifest.place}: {container.get('name')}"
        given = {str(each.get("name")) for each in container.get("env") or []}
        for source in container.get("envFrom") or []:
            given |= set(configured.get(source.get("configMapRef", {}).get("name"), {}))
            if "secretRef" in source:  # it has what may stand nowhere else
                given |= {name for name in needed if _is_secret(name)}
        for each in container.get("env") or []:
            yield from _reference(each, place, needed)
        if "millwright-pipelines" in str(container.get("image")):
            for name in sorted(needed - given):
                meaning = settings.variables.get(name, "the URL of a server")
                wrong = f"is not given {name}, {meaning}"
                way_out = "add it to the ConfigMap, or a secretRef if it is a secret"
                yield Finding(place, wrong, way_out)
    yield from _agreement(made, settings, state)


def _reference(variable: dict[str, Any], place: str, needed: set[str]) -> Iterator[Finding]:
    reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
    if not isinstance(reference, dict):
        return
    name, key = str(variable.get("name")), str(reference.get("key"))
    if name != key:
        wrong = f"gives {name} the key '{key}' of the secret '{reference.get('name')}'"
        yield Finding(f"{place}.{name}", wrong, "name both the same")
    ours = name.startswith(("MILLWRIGHT_", "MLFLOW_TRACKING_URI"))
    if ours and name not in needed and not reference.get("optional"):
        wrong = "is a variable that settings.yaml does not name"
        yield Finding(f"{place}.{name}", wrong, nearest(name, sorted(needed)))


def _agreement(made: Rendered, settings: Settings, state: State) -> Iterator[Finding]:
    """What the cluster is told must be what is set here: one environment has one bucket."""
    for manifest in made.manifests:
        for key, value in (manifest.content.get("data") or {}).items():
            # A server may be called otherwise within the cluster.
            named = key in settings.variables and key not in VARIABLES.values()
            here = value_of(key, state) if named else None
            if manifest.kind == "ConfigMap" and here is not None and here != str(value):
                wrong = "is another value than the variable of that name has here"
                place = f"{manifest.place}: {key}"
                yield Finding(place, wrong, "bring the two together", yours=True)


def _stand_ins(made: Rendered) -> Iterator[Finding]:
    """What is in the repository only to show where something of one's own has to stand."""
    way_out = "write your own in the overlay"
    for manifest in made.manifests:
        keys = [key for key, value in _texts(manifest.content) if _STAND_IN.search(value)]
        if keys:
            wrong = f"has what stands for something of yours, in {', '.join(keys)}"
            yield Finding(manifest.place, wrong, way_out, yours=True)
    for file, image in made.images:
        name = kustomize.full_name(image)
        if _STAND_IN.search(name):
            wrong = f"image {name} stands for one of yours"
            yield Finding(f"{file}: images", wrong, way_out, yours=True)


def _texts(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of an object and its key, images apart."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key != "image":
                yield from _texts(value, f"{place}.{key}" if place else str(key))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _texts(value, f"{place}[{number}]")
    elif isinstance(content, str):
        yield place, content
