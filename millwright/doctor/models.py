"""Models: MLflow's register of them, and the releases."""

import re
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from millwright import registry, release
from millwright.doctor.databases import damage
from millwright.doctor.findings import LEFT_OUT, Check, Finding, Patient, moved
from millwright.errors import ReleaseError
from millwright.fleet import Fleet


def mlflow(patient: Patient) -> Iterator[Finding]:
    """The file in which MLflow keeps runs and models, where there is no server of it."""
    if patient.has_servers:
        return
    path = patient.state.root / "mlflow.db"
    if not path.is_file():
        yield Finding("mlflow", "ok", "none yet; the first run makes it")
    elif problem := damage(path):
        said = (
            f"{path} {problem}. Restore it from a backup, or move it away; lost are then the "
            "record of training runs and the register of models, whose versions begin anew, so "
            "the releases have to be moved as well. Services go on with what they have loaded"
        )
        folders = [patient.state.releases(fleet.name) for fleet in patient.fleets()]
        mend = " && ".join(moved(each) for each in (path, *folders) if each.exists())
        yield Finding("mlflow", "fault", said, mend)
    else:
        registry.find_alias("none", registry.CHAMPION)  # it says so if it is of another version
        yield Finding("mlflow", "ok", str(path))


def releases(patient: Patient) -> Iterator[Finding]:
    """The champions: their files, and whether MLflow means the same."""
    for fleet in patient.fleets():
        folder, title = patient.state.releases(fleet.name), f"champion of {fleet.name}"
        try:
            found = release.champion(folder)
            if found is None:
                yield Finding(title, "ok", "no model was released yet")
                continue
            manifest = release.load(found).manifest
        except ReleaseError as err:
            yield Finding(title, "fault", str(err), _way_back(patient, fleet, folder))
            continue
        yield Finding(title, "ok", f"{found.name} is whole, trained on {manifest.dataset_version}")
        yield from _alias(patient, fleet, manifest)


def _way_back(patient: Patient, fleet: Fleet, folder: Path) -> str:
    """The command that makes the newest whole release the champion, or trains one."""
    names = [path.name for path in folder.glob("v*") if re.fullmatch(r"v\d+", path.name)]
    for name in sorted(names, key=lambda name: int(name[1:]), reverse=True):
        try:
            release.load(folder / name)
        except ReleaseError:
            continue
        return f"echo {name} > {quote(str(folder / release.POINTER))}"
    return patient.run("training", fleet.name)


def _alias(patient: Patient, fleet: Fleet, manifest: release.Manifest) -> Iterator[Finding]:
    title, path = f"MLflow alias of {fleet.name}", patient.state.root / "mlflow.db"
    patient.needs("mlflow")
    if not patient.has_servers and (not path.is_file() or damage(path)):
        said = f"{LEFT_OUT}, because MLflow's file is not there or cannot be opened"
        yield Finding(title, "warning", said, patient.run("training", fleet.name))
        return
    known = registry.find_alias(manifest.name, registry.CHAMPION)
    if known and known.version == manifest.version:
        yield Finding(title, "ok", f"champion is version {known.version}, as released")
        return
    there = f"version {known.version}" if known else "no version"
    said = f"champion is {there} in MLflow, and v{manifest.version} is released"
    yield Finding(title, "warning", said, patient.run("training", fleet.name))


CHECKS = (
    Check("mlflow", mlflow, "mlflow db upgrade $MLFLOW_TRACKING_URI"),
    Check("releases", releases, "python -m millwright releases list", server="mlflow"),
)
