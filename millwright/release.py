"""Releases: what a service needs to answer, in a folder that proves that it is whole.

    releases/v3/model.ubj        the trees, in XGBoost's own format: data, not code
    releases/v3/manifest.json    features in order, threshold, versions, where it all came from
    releases/v3/examples.json    held-out rows and what the model says of them
    releases/v3/recipe.json      how features follow from readings that are sent
    releases/v3/detector.*       the anomaly detector that this takes, if there was one
    releases/v3/SHA256SUMS       of them all, checked before any of them is read
    releases/champion            the name of the release in use

Nothing here imports MLflow, ZenML or Feast, so a service can load a release without them.
"""

import hashlib
import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import AwareDatetime, FiniteFloat, ValidationError

from millwright.configuration import Strict
from millwright.detectors import FACTS, PIPELINE
from millwright.encoder import Encoder, Matrix, Scores
from millwright.errors import InputError, ReleaseError, first_line
from millwright.files import file_written_whole, folder_written_whole
from millwright.fleet import Costs, Fleet
from millwright.recipe import Recipe
from millwright.views import Type, feature_views, published

# XGBoost takes a second to import, and many ask only which release is the champion.
if TYPE_CHECKING:
    import xgboost

MODEL, MANIFEST, EXAMPLES, SUMS = "model.ubj", "manifest.json", "examples.json", "SHA256SUMS"
RECIPE = "recipe.json"
POINTER = "champion"
Part = TypeVar("Part", bound=Strict)
_NAME = re.compile(r"v[0-9]+")
# Before a fault, XGBoost says when it was found and in which line of its own code.
_CODE = re.compile(r"^\[[0-9:]+\] \S+: ")


class ServedView(Strict):
    """A feature view as the model has learned from it; `time_to_live` in seconds, None for ever.

    It is part of the release, so that a service and the model mean the same by stale.
    """

    name: str
    features: dict[str, Type]
    time_to_live: FiniteFloat | None

    @classmethod
    def all_of(cls, fleet: Fleet) -> "tuple[ServedView, ...]":
        """The views of a fleet, under the names by which Feast knows them."""
        return tuple(
            cls(
                name=published(fleet, view.name),
                features=view.features,
                time_to_live=view.time_to_live and view.time_to_live.total_seconds(),
            )
            for view in feature_views(fleet)
        )


class Manifest(Strict):
    """What a release is: everything a service must know, and the way back to where it came from.

    `horizon` and `lead_time` are written as in the names of features: `24h`, `30c`. The model has
    learned nothing of what happened after `learned_until`.
    """

    name: str
    version: int
    fleet: str
    fingerprint: str
    feature_service: str
    views: tuple[ServedView, ...]
    encoder: Encoder
    threshold: FiniteFloat
    costs: Costs
    horizon: str
    lead_time: str
    learned_until: AwareDatetime
    dataset_version: str
    detector_version: str | None
    code_version: str
    git_revision: str | None
    mlflow_run: str
    environment: str
    libraries: dict[str, str]


@dataclass(frozen=True)
class Release:
    """A release that was checked and loaded."""

    folder: Path
    manifest: Manifest
    booster: "xgboost.Booster"

    def score(self, matrix: Matrix) -> Scores:
        """Probabilities for rows encoded by the manifest's encoder."""
        from millwright.trees import predict

        return predict(self.booster, matrix)


def write(
    folder: Path,
    manifest: Manifest,
    booster: "xgboost.Booster",
    examples: Matrix,
    recipe: Recipe | None = None,
    detector: Path | None = None,
) -> Path:
    """Write a release to `folder/v<version>`, whole or not at all, and give its path.

    Args:
        folder: the fleet's releases.
        manifest: what the release is.
        booster: the model.
        examples: held-out rows, shape (n, columns), that `verify` predicts again.
        recipe: how features follow from readings; without it none can be sent.
        detector: the folder of the anomaly detector that the recipe names.

    Raises:
        ReleaseError: the folder cannot be written, or holds the release of another model.
    """
    from millwright.trees import predict

    target = folder / f"v{manifest.version}"
    _refuse_another(target, manifest)
    try:
        with folder_written_whole(target) as draft:
            booster.save_model(draft / MODEL)
            _write_json(draft / MANIFEST, manifest.model_dump(mode="json"))
            rows = [[None if math.isnan(v) else float(v) for v in row] for row in examples]
            expected = predict(booster, examples).tolist()
            _write_json(draft / EXAMPLES, {"rows": rows, "expected": expected})
            if recipe:
                (draft / RECIPE).write_text(recipe.model_dump_json(indent=1) + "\n", "utf-8")
            if detector:
                for name in (FACTS, PIPELINE):
                    shutil.copyfile(detector / name, draft / name)
            (draft / SUMS).write_bytes(b"".join(_sums(draft).values()))
    except OSError as err:
        raise ReleaseError(
            f"cannot write the release {target}: {err.strerror}; give it a folder that may be "
            "written, with MILLWRIGHT_HOME"
        ) from err
    return target


def existing(folder: Path) -> Path:
    """`folder`, which somebody names as that of a release.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder; name that of a release, such as {folder.parent / 'v1'}"
        )
    return folder


def load(folder: Path) -> Release:
    """Check every file of a release against its sum, and only then read them.

    Raises:
        ReleaseError: a file is missing, changed or not what it should be.
    """
    import xgboost

    manifest = read_manifest(folder)
    try:
        booster = xgboost.Booster()
        booster.load_model(folder / MODEL)
    except (ValueError, xgboost.core.XGBoostError) as err:
        raise _unreadable(folder / MODEL, _CODE.sub("", first_line(err))) from err
    lacking = {*manifest.encoder.features} - {f for v in manifest.views for f in v.features}
    if lacking:
        raise ReleaseError(
            f"the release {folder} has a model that needs '{min(lacking)}', which no view of its "
            "manifest has; train again"
        )
    if booster.num_features() != len(manifest.encoder.columns):
        raise ReleaseError(
            f"the release {folder} has a model of {booster.num_features()} columns and a manifest "
            f"of {len(manifest.encoder.columns)}; train again"
        )
    return Release(folder, manifest, booster)


def read_manifest(folder: Path) -> Manifest:
    """What a release is, after every file of it was checked against its sum.

    Raises:
        ReleaseError: a file is missing, changed or not what it should be, or the folder has the
            name of another release.
    """
    check(folder)
    manifest = read(folder / MANIFEST, Manifest)
    if _NAME.fullmatch(folder.name) and folder.name != f"v{manifest.version}":
        raise ReleaseError(
            f"the release {folder} is version {manifest.version} by its manifest; give the folder "
            f"its name back, v{manifest.version}, or train again"
        )
    return manifest


def read_recipe(folder: Path) -> Recipe | None:
    """How features follow from readings; None where the release does not say.

    Raises:
        ReleaseError: the file is not what it should be.
    """
    path = folder / RECIPE
    return read(path, Recipe) if path.exists() else None


def read(path: Path, form: type[Part]) -> Part:
    """One of a release's JSON files.

    Raises:
        ReleaseError: it is not what it should be.
    """
    try:
        return form.model_validate_json(path.read_bytes())
    except ValidationError as err:
        fault = err.errors(include_url=False)[0]
        raise _unreadable(path, ": ".join([*map(str, fault["loc"]), fault["msg"]])) from err
    except OSError as err:
        raise _unreadable(path, first_line(err)) from err


def check(folder: Path) -> None:
    """Hold every file of a release against its sum, and read none of them as anything.

    Raises:
        ReleaseError: a file is missing or was changed.
    """
    try:
        written, sums = (folder / SUMS).read_bytes(), _sums(folder)
    except OSError as err:
        raise ReleaseError(f"{folder} is not a whole release: {err}; train again") from err
    if written != b"".join(sums.values()):
        apart = [*(name for name, line in sums.items() if line not in written), SUMS]
        raise ReleaseError(
            f"the release {folder} was changed after it was written: {', '.join(apart)} do not "
            "agree; restore it from a copy or train again"
        )


def set_champion(folder: Path, release: Path) -> None:
    """Make `release` the one in use among the releases in `folder`."""
    with file_written_whole(folder / POINTER) as draft:
        draft.write_text(release.name + "\n", encoding="utf-8")


def champion(folder: Path) -> Path | None:
    """The release in use; None if there is none yet."""
    pointer = folder / POINTER
    if not pointer.is_file():
        return None
    name = pointer.read_text(encoding="utf-8", errors="replace").strip()
    if not _NAME.fullmatch(name):
        raise ReleaseError(f"{pointer} names no release; write v1 or another folder's name into it")
    return folder / name


def _refuse_another(target: Path, manifest: Manifest) -> None:
    """See to it that no release is lost to another model that was given the same version."""
    try:
        found = json.loads((target / MANIFEST).read_bytes())["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError):
        return  # there is none, or what is left of one
    if found != manifest.fingerprint:
        raise ReleaseError(
            f"{target} is the release of another model, of fingerprint {found} and not "
            f"{manifest.fingerprint}: MLflow has lost its register and counts its versions anew. "
            f"Move the folder {target.parent} away, and train again"
        )


def _unreadable(path: Path, fault: str) -> ReleaseError:
    return ReleaseError(
        f"the release {path.parent} is whole but not readable by this version: {path.name}: "
        f"{fault}; train again"
    )


def _sums(folder: Path) -> dict[str, bytes]:
    """The line of each file in `SHA256SUMS`, in their order."""
    sums = {}
    others = [name for name in (FACTS, PIPELINE, RECIPE) if (folder / name).exists()]
    for name in sorted([EXAMPLES, MANIFEST, MODEL, *others]):
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sums[name] = f"{digest}  {name}\n".encode()
    return sums


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
