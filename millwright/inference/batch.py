"""A release's predictions for all machines of a fleet, and why it says so of the foremost.

Features are read and scored some machines at a time: only the predictions are kept, and of those
machines that may come to stand on the work list also what the model saw. Read, judged and scored
by the same functions as in the service, a machine gets here what it gets there.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millwright import release as releases
from millwright import traffic, verification
from millwright.encoder import Matrix, Scores
from millwright.errors import InputError, ReleaseError
from millwright.inference.fleets import Features, FleetNow, FleetThen, WholeFleet
from millwright.inference.settings import Inference, load_inference
from millwright.inference.table import PREDICTIONS
from millwright.project import Project
from millwright.release import Manifest, Release
from millwright.serving.answers import expected_cost, reasons
from millwright.serving.plan import MistypedError, Plan
from millwright.serving.predictions import OUTCOMES, micros
from millwright.serving.routes import Loaded
from millwright.serving.rows import NEVER, FeatureRows
from millwright.serving.scoring import predicted
from millwright.serving.unreadable import readable

LOG = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
Columns = dict[str, Any]


def choose_release(project: Project, version: int | None) -> Path:
    """The release of a version, or without one the champion, after it has proved itself.

    Raises:
        InputError: there is none.
        ReleaseError: it is broken, or another fleet's or environment's.
    """
    folder, fleet = project.state.releases(project.fleet.name), project.fleet.name
    where = project.state.environment
    found = releases.champion(folder) if version is None else traffic.named(folder, version)
    if found is None:
        raise InputError(
            f"fleet '{fleet}' has no champion in environment '{where}' yet; train a model: python "
            f"run.py --pipeline training --fleet {fleet} --stack {where}"
        )
    manifest = releases.read_manifest(found)
    if (manifest.fleet, manifest.environment) != (fleet, where):
        raise ReleaseError(
            f"the release {found} is of fleet '{manifest.fleet}' in environment "
            f"'{manifest.environment}', and not of '{fleet}' in '{where}'; name another: --release"
        )
    verification.verify_in_fresh_process(found)
    return found


def predict_fleet(
    project: Project,
    folder: Path,
    as_of: str | None,
    run: str,
    features: Features,
    progress: Progress,
) -> tuple[pa.Table, int]:
    """The predictions of a project's machines by the release in `folder`, as `predict` gives them.

    They are as of a time in ISO form, with `features` from the offline store, or as of now.

    Raises:
        DataError: there is no machine.
        MillwrightError: the release or the features cannot be read.
    """
    release = releases.load(folder)
    fleet: WholeFleet
    if as_of is None:
        fleet = FleetNow(project, release.manifest, datetime.now(UTC))
    else:
        moment = datetime.fromisoformat(as_of)
        fleet = FleetThen(project, release.manifest, moment, features)
    return predict(release, fleet, load_inference(), run, progress)


def predict(
    release: Release, fleet: WholeFleet, decided: Inference, run: str, progress: Progress
) -> tuple[pa.Table, int]:
    """The predictions of a whole fleet by rank, a table of PREDICTIONS; `run` is whose they are.

    With them comes how many machines were left out, for what the store has of them is no features.

    Raises:
        DataError: there is no machine.
        MistypedError: not one of them can be read.
        MillwrightError: the features cannot be read.
    """
    loaded, machines = Loaded(release, ""), fleet.machines()
    parts: list[pa.Table] = []
    foremost = Foremost(decided.work_list)
    for some, rows in _read(fleet, machines, progress):
        outcomes, matrix, probabilities = predicted(loaded, rows, fleet.policy)
        decisions = _decisions(probabilities, release.manifest)
        foremost.add(sum(map(len, parts)), decisions, matrix)
        told = {
            "machine_id": some,
            "status": [OUTCOMES[outcome] for outcome in outcomes],
            **decisions,
            **_ages(rows, loaded.plan, fleet),
        }
        parts.append(pa.table({name: pa.array(told[name], from_pandas=True) for name in told}))
    same = {
        "as_of": fleet.as_of,
        "release": loaded.version,
        "feature_service": release.manifest.feature_service,
        "source": fleet.source,
        "computed_at": datetime.now(UTC),
        "run": run,
    }
    found = pa.concat_tables(parts)
    why = pa.array(foremost.reasons(loaded, decided.reasons, len(found)))
    return _by_rank(found.append_column("reasons", why), same), len(machines) - len(found)


def _read(
    fleet: WholeFleet, machines: Sequence[str], progress: Progress
) -> Iterator[tuple[Sequence[str], FeatureRows]]:
    """The machines of a fleet with their features, some at a time, but for those that are odd.

    Raises:
        MistypedError: all of them are.
    """
    read, odd = 0, list[MistypedError]()
    for start in range(0, len(machines), fleet.together):
        progress("machines", start, len(machines))
        some = machines[start : start + fleet.together]
        parts, fault = readable(some, lambda those: (those, fleet.rows(those)))
        read += sum(len(those) for those, _ in parts)
        odd += [fault] if fault else []
        yield from parts
    progress("machines", len(machines), len(machines))
    if not odd:
        return
    if not read:
        raise odd[0]
    LOG.warning(
        "%d of %d machines are left out, for they cannot be read; of the first: %s",
        len(machines) - read, len(machines), odd[0],
    )  # fmt: skip


class Foremost:
    """The machines with an alarm that promise to save most, and what the model saw of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.places: NDArray[np.intp] = np.empty(0, np.intp)
        self._savings = np.empty(0)
        self._matrix: Matrix = np.empty((0, 0), np.float32)

    def add(self, start: int, decisions: Columns, matrix: Matrix) -> None:
        """Look at some more machines, whose first one is the machine number `start`."""
        alarms = np.flatnonzero(decisions["alarm"].filled(fill_value=False))
        savings = np.concatenate([self._savings, decisions["expected_saving"][alarms]])
        kept = np.argsort(-savings, kind="stable")[: self.most]
        self.places = np.concatenate([self.places, alarms + start])[kept]
        self._savings = savings[kept]
        self._matrix = np.vstack([self._matrix.reshape(-1, matrix.shape[1]), matrix[alarms]])[kept]

    def reasons(self, loaded: Loaded, most: int, machines: int) -> list[str | None]:
        """Why, as JSON, for each of so many machines; None for those that are not foremost."""
        told: list[str | None] = [None] * machines
        if len(self.places):
            found = reasons(loaded, self._matrix, most)
            for place, each in zip(self.places, found, strict=True):
                told[place] = json.dumps(each)
        return told


def _decisions(probabilities: Scores, manifest: Manifest) -> Columns:
    """What follows from probabilities, shape (n,); NaN or masked where nothing is predicted."""
    scores, costs = probabilities.tolist(), manifest.costs
    acting = np.array([expected_cost(each, alarm=True, costs=costs) for each in scores])
    waiting = np.array([expected_cost(each, alarm=False, costs=costs) for each in scores])
    alarms = probabilities >= manifest.threshold
    return {
        "probability": probabilities,
        "alarm": np.ma.masked_array(alarms, np.isnan(probabilities)),
        "expected_cost": np.where(alarms, acting, waiting),
        "expected_saving": waiting - acting,
    }


def _ages(rows: FeatureRows, plan: Plan, fleet: WholeFleet) -> Columns:
    """How old the features are that time can make stale; null where that is not told."""
    events, moment = rows.events[:, plan.timed], micros(fleet.moment)
    told = (events != NEVER) & (events <= moment) & (fleet.source == "online")
    none = ~told.any(axis=1)
    newest = np.where(told, events, NEVER).max(axis=1)
    oldest = np.where(told, events, moment).min(axis=1)
    return {
        "readings_at": np.ma.masked_array(newest, none),
        "feature_age": np.where(none, np.nan, (moment - oldest) / 1e6),
    }


def _by_rank(found: pa.Table, same: Columns) -> pa.Table:
    """The table of all machines, those that promise to save most first; equal ones by name.

    `same` is what is the same of all of them.
    """
    savings = found["expected_saving"].to_numpy()
    order = np.argsort(-savings, kind="stable")  # what is no number comes last
    found = found.take(order)
    known = ~np.isnan(savings[order])
    ranks = pa.array(np.arange(1, len(found) + 1), mask=~known)
    columns = [
        pa.repeat(pa.scalar(same[field.name], field.type), len(found))
        if field.name in same
        else (ranks if field.name == "rank" else found[field.name]).cast(field.type)
        for field in PREDICTIONS
    ]
    return pa.table(columns, schema=PREDICTIONS)
