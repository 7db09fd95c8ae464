"""What `kubectl kustomize` would make of a folder, as far as this project uses it.

Resources, patches, images and the suffix of names: enough to check every object as the cluster
gets it, on a machine without kubectl. Of each object it is known which file it comes from.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from millwright.check.report import Finding, shown

FILE = "kustomization.yaml"
_KEYS = {
    "apiVersion", "kind", "namespace", "nameSuffix", "namePrefix", "labels", "resources",
    "images", "patches", "replicas", "commonAnnotations", "components",
}  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """One object of the cluster, and the file that it is written in."""

    file: Path
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        """What kind of object it is."""
        return str(self.content.get("kind"))

    @property
    def name(self) -> str:
        """What it is called in its file."""
        metadata = self.content.get("metadata")
        return str(metadata.get("name")) if isinstance(metadata, dict) else "None"

    @property
    def place(self) -> str:
        """File, kind and name, as a finding names them."""
        return f"{shown(self.file)}: {self.kind} {self.name}"


@dataclass
class Rendered:
    """The objects of a folder, the images that it gives other names, and what is wrong with it."""

    manifests: list[Manifest] = field(default_factory=list)
    images: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: "Rendered") -> None:
        """Take in what a folder below has."""
        self.manifests += other.manifests
        self.images += other.images
        self.files |= other.files
        self.findings += other.findings


def render(folder: Path) -> Rendered:
    """Read `kustomization.yaml` of a folder, and everything that it leads to."""
    file = folder / FILE
    made = Rendered(files={file})
    documents = list(_documents(file, made))
    if len(documents) != 1:
        if not made.findings:
            made.findings.append(Finding(shown(file), "is no single object", "write one"))
        return made
    said = documents[0]
    for key in sorted(set(said) - _KEYS):
        wrong = "is a key that the check does not follow"
        made.findings.append(Finding(f"{shown(file)}: {key}", wrong, f"use {', '.join(_KEYS)}"))
    for name in said.get("resources") or []:
        _resource(folder / str(name), file, made)
    for patch in said.get("patches") or []:
        _patch(folder, patch if isinstance(patch, dict) else {}, made)
    _images(said, file, made)
    _unlisted(folder, made)
    return made


def _resource(path: Path, file: Path, made: Rendered) -> None:
    if path.is_dir():
        made.add(render(path.resolve()))
    elif not path.is_file():
        wrong = f"names {path.name}, which is not there"
        made.findings.append(Finding(f"{shown(file)}: resources", wrong, "name what is there"))
    else:
        made.files.add(path)
        made.manifests += [Manifest(path, each) for each in _documents(path, made)]


def _patch(folder: Path, patch: dict[str, Any], made: Rendered) -> None:
    file = folder / str(patch.get("path", FILE))
    if "path" not in patch or not file.is_file():
        wrong = f"names {file.name}, which is not there" if "path" in patch else "has no path"
        place = f"{shown(folder / FILE)}: patches"
        made.findings.append(Finding(place, wrong, "name the file of the patch"))
        return
    made.files.add(file)
    for change in _documents(file, made):
        target = {"kind": change.get("kind"), **patch.get("target", {})}
        name = target.get("name", Manifest(file, change).name)
        hit = False
        for index, each in enumerate(made.manifests):
            if (each.kind, each.name) == (target["kind"], name):
                hit = True
                made.manifests[index] = Manifest(each.file, _merged(each.content, change))
        if not hit:
            names = ", ".join(sorted({f"{each.kind} {each.name}" for each in made.manifests}))
            wrong = f"changes {target['kind']} {name}, which no resource is"
            made.findings.append(Finding(shown(file), wrong, f"there are: {names}"))


def _images(said: dict[str, Any], file: Path, made: Rendered) -> None:
    used = {container.get("image") for _, container in containers(made.manifests)}
    for image in said.get("images") or []:
        if image.get("name") not in used:
            wrong = f"names '{image.get('name')}', which no container uses"
            way_out = f"there are: {', '.join(sorted(map(str, used)))}"
            made.findings.append(Finding(f"{shown(file)}: images", wrong, way_out))
            continue
        made.images.append((shown(file), image))
        renamed = full_name(image)
        for _, container in containers(made.manifests):
            if container.get("image") == image["name"]:
                container["image"] = renamed


def full_name(image: dict[str, Any]) -> str:
    """What an entry of `images` makes of the name of an image."""
    name = str(image.get("newName", image["name"]))
    if image.get("digest"):
        return f"{name}@{image['digest']}"
    return f"{name}:{image['newTag']}" if "newTag" in image else name


def _unlisted(folder: Path, made: Rendered) -> None:
    for path in sorted(folder.glob("*.y*ml")):
        if path not in made.files:
            wrong = f"is not named by {FILE}, so no cluster gets it"
            made.findings.append(Finding(shown(path), wrong, "list it there, or remove it"))


def containers(manifests: list[Manifest]) -> Iterator[tuple[Manifest, dict[str, Any]]]:
    """Every container of every object, with the object that it belongs to."""
    for manifest, pod in pods(manifests):
        for kind in ("initContainers", "containers"):
            for container in pod.get(kind) or []:
                if isinstance(container, dict):
                    yield manifest, container


def pods(manifests: list[Manifest]) -> Iterator[tuple[Manifest, dict[str, Any]]]:
    """The `spec` of every pod, with the object that it belongs to."""
    for manifest in manifests:
        for pod in _pods(manifest.content):
            yield manifest, pod


def _pods(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict):
        if isinstance(content.get("containers"), list):
            yield content
        for value in content.values():
            yield from _pods(value)


def _documents(path: Path, made: Rendered) -> Iterator[dict[str, Any]]:
    try:
        found = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        place = f"{shown(path)}:{mark.line + 1}" if mark else shown(path)
        wrong = f"is not valid YAML: {getattr(err, 'problem', None) or type(err).__name__}"
        made.findings.append(Finding(place, wrong, "correct it"))
        return
    except (OSError, UnicodeDecodeError) as err:
        made.findings.append(Finding(shown(path), f"cannot be read: {err}", "put it there"))
        return
    for each in found:
        if isinstance(each, dict):
            yield each
        elif each is not None:
            made.findings.append(Finding(shown(path), "is no object", "correct it"))


def _merged(whole: Any, change: Any) -> Any:
    """A strategic merge: maps key by key, lists of named things by their names."""
    if isinstance(whole, dict) and isinstance(change, dict):
        kept = {key: value for key, value in whole.items() if change.get(key, ...) is not None}
        more = {key: value for key, value in change.items() if value is not None}
        return kept | {key: _merged(kept.get(key), value) for key, value in more.items()}
    if _named(whole) and _named(change):
        changes = {each["name"]: each for each in change}
        merged = [_merged(each, changes.pop(each["name"], {})) for each in whole]
        return merged + list(changes.values())
    return change


def _named(values: Any) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(each, dict) and "name" in each for each in values)
    )
