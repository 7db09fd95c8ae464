"""Putting a release into service, and taking it back unless it answers as it should.

As it should means: the service predicts real machines, by what it reads online, just as the release
does by what the offline store knew at the same time.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from millwright import manifests, terminal, traffic
from millwright import release as releases
from millwright.configuration import Strict
from millwright.errors import MillwrightError, ReleaseError
from millwright.project import Project
from millwright.release import TOLERANCE
from millwright.serving import background

MACHINES = 50  # that are asked about
CONTEXT = "MILLWRIGHT_KUBERNETES_CONTEXT"
APPLY = "MILLWRIGHT_KUBERNETES_APPLY"  # `true` has a deployment apply its manifests itself

Predictions = Mapping[str, float | None]
Features = Callable[[pd.DataFrame, str], pd.DataFrame]


class Deployment(Strict):
    """What became of a deployment: of how many machines the predictions were compared, and where.

    `manifests` is what to apply in a cluster, with `kubectl apply --kustomize`.
    """

    status: Literal["deployed", "not deployed"]
    version: int | None = None
    url: str | None = None
    compared: int = 0
    largest_difference: float | None = None
    manifests: str | None = None


@dataclass(frozen=True)
class Surroundings:
    """What a deployment needs of others: to make a release the champion, and offline features.

    `features` gives those of a feature service for a frame of machines and times.
    """

    put: Callable[[Path], object]
    features: Features


def deploy(project: Project, version: int, around: Surroundings) -> Deployment:
    """Make a release the champion, have the service answer by it, and compare its answers.

    Raises:
        InputError: there is no such release.
        ReleaseError: it does not answer as it should; the former champion is back in service.
    """
    folder = project.state.releases(project.fleet.name)
    path, before = traffic.named(folder, version), releases.champion(folder)
    around.put(path)
    try:
        url = _served(project, version)
        compared, worst = _compare(project, path, url, around.features)
    except MillwrightError as err:
        raise ReleaseError(f"{err}\n{_taken_back(project, version, before)}") from err
    return Deployment(
        status="deployed",
        version=version,
        url=url,
        compared=compared,
        largest_difference=worst,
        manifests=_manifests(project, version),
    )


def _served(project: Project, version: int) -> str | None:
    """Where the service answers by that version, if it is to run on this machine."""
    if not project.settings.serving.start:
        return None
    url = background.ensure(project.state, project.fleet.name, terminal.say)
    background.await_release(url, version)
    return url


def _compare(
    project: Project, path: Path, url: str | None, features: Features
) -> tuple[int, float]:
    """How many machines were compared, and the largest difference of their probabilities."""
    observed = project.offline.observed()["machine_id"].sort_values().tolist()
    spread = np.unique(np.linspace(0, len(observed) - 1, min(MACHINES, len(observed))).astype(int))
    machines, as_of = [observed[place] for place in spread], project.offline.known_until()
    online = _asked(url, machines, as_of) if url else _scored_here(project, path, machines, as_of)
    offline = _offline(path, machines, as_of, features)
    known = {machine: each for machine, each in online.items() if each is not None}
    if not known:
        raise ReleaseError(
            f"the service predicts not one of {len(machines)} machines as of {as_of.isoformat()}; "
            f"bring their features online: python run.py --pipeline features --fleet "
            f"{project.fleet.name} --stack {project.state.environment}"
        )
    differences = {machine: abs(each - offline[machine]) for machine, each in known.items()}
    machine = max(differences, key=lambda each: differences[each])
    if not differences[machine] <= TOLERANCE:
        raise ReleaseError(
            f"the service predicts {known[machine]:.6g} for machine {machine} as of "
            f"{as_of.isoformat()}, and the offline features give {offline[machine]:.6g}"
        )
    return len(known), differences[machine]


def _asked(url: str, machines: Sequence[str], as_of: datetime) -> Predictions:
    body = {"machines": list(machines), "as_of": as_of.isoformat()}
    status, said = background.ask(url, "/v1/predict", body)
    if status != 200:
        raise ReleaseError(f"the service at {url} answers {status}: {said.get('error', 'nothing')}")
    return {each["machine"]: each["probability"] for each in said["predictions"]}


def _scored_here(
    project: Project, path: Path, machines: Sequence[str], as_of: datetime
) -> Predictions:
    """The same without the service, where it runs elsewhere: by its code, in this process."""
    from millwright.serving.answers import micros
    from millwright.serving.features import open_reader
    from millwright.serving.policy import Policy
    from millwright.serving.releases import Releases
    from millwright.serving.scoring import Question, Scoring

    serving = project.settings.serving
    used = Releases(project.state.environment, project.fleet.name, path.parent, path)
    used.refresh()
    reader = open_reader(project.state, background.ANSWER)
    scoring = Scoring(used, reader, Policy(serving.stale, serving.missing), lambda _: None)
    (answer,) = scoring.score([Question(machines, micros(as_of))])
    found = [float(part.scored.probabilities[part.row]) for part in answer]
    return {
        machine: None if np.isnan(each) else each
        for machine, each in zip(machines, found, strict=True)
    }


def _offline(
    path: Path, machines: Sequence[str], as_of: datetime, features: Features
) -> Mapping[str, float]:
    release = releases.load(path)
    cutoffs = pd.DataFrame({"machine_id": list(machines)}, dtype="object")
    cutoffs["event_timestamp"] = pd.Timestamp(as_of)
    frame = features(cutoffs, release.manifest.feature_service)
    scores = release.score(release.manifest.encoder.encode(frame))
    return dict(zip(machines, scores.tolist(), strict=True))


def _taken_back(project: Project, version: int, before: Path | None) -> str:
    """Have the former champion answer again; what became of it, in a sentence."""
    folder, fleet = project.state.releases(project.fleet.name), project.fleet.name
    if before is None:
        (folder / releases.POINTER).unlink(missing_ok=True)
        return f"v{version} is not in service, and there was no champion before it"
    if before.name == f"v{version}":
        return f"v{version} was the champion before, and stays"
    traffic.promote(folder, int(before.name[1:]))
    url = background.address(project.state, fleet)
    if url:
        background.await_release(url, int(before.name[1:]))
    return f"rolled back: {before.name} is the champion again"


def _manifests(project: Project, version: int) -> str | None:
    """The manifests that name the release, where the service runs in a cluster."""
    if project.settings.servers != "elsewhere":
        return None
    where, context = project.state, os.environ.get(CONTEXT)
    target = where.root / project.fleet.name / "manifests" / f"v{version}"
    folder = manifests.write(target, where.environment, version)
    if os.environ.get(APPLY) == "true":
        terminal.say(manifests.apply(folder, context).rstrip())
    else:
        terminal.say(f"to apply: {' '.join(manifests.command(folder, context))}")
    return str(folder)
