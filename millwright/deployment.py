"""Putting a release into service, when it has shown that it answers as it should.

As it should means: by what is online, it predicts real machines just as it does by what the offline
store knew at the same time. That is compared by the service's own code before anything is changed,
and with the service itself afterwards; whatever goes wrong then, the former champion is back.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from millwright import asked_service, manifests, terminal, traffic, trial
from millwright import release as releases
from millwright.asked_service import Predictions
from millwright.configuration import Strict
from millwright.errors import MillwrightError, ReleaseError, first_line
from millwright.project import Project
from millwright.serving import background
from millwright.verification import TOLERANCE

MACHINES = 50  # that are asked about
CONTEXT = "MILLWRIGHT_KUBERNETES_CONTEXT"
APPLY = "MILLWRIGHT_KUBERNETES_APPLY"  # `true` has a deployment apply its manifests itself

Features = Callable[[pd.DataFrame, str], pd.DataFrame]


class Deployment(Strict):
    """What became of a deployment: of how many machines the predictions were compared, and where.

    `asked` says whether the service at `url` was; it is not where it wants a key that this process
    has not, or where the canary answers for every machine. `before` is the release that was the
    champion. `manifests` is what to apply in a cluster, with `kubectl apply --kustomize`.
    """

    status: Literal["deployed", "not deployed"]
    version: int | None = None
    before: int | None = None
    url: str | None = None
    asked: bool = False
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


@dataclass(frozen=True)
class Sample:
    """Some machines, a time, and what a release makes of what was known of them then."""

    machines: Sequence[str]
    as_of: datetime
    expected: Mapping[str, float]


def deploy(project: Project, version: int, around: Surroundings) -> Deployment:
    """Compare a release, make it the champion, and have the service answer by it.

    Raises:
        InputError: there is no such release, or the service is named by no URL.
        ReleaseError: it does not answer as it should; the former champion is in service.
    """
    elsewhere = asked_service.elsewhere()
    folder = project.state.releases(project.fleet.name)
    path = traffic.named(folder, version)
    sample = _sample(project, path, around.features)
    compared, worst = _compare(project, _scored_here(project, path, sample), sample)
    on_trial = trial.begin(folder, version)
    try:
        around.put(path)
        url = _served(project, version, elsewhere)
        asked = (folder, version, sample.machines, sample.as_of)
        online = asked_service.predicted(url, *asked) if url else None
        if online:
            compared, worst = _compare(project, online, sample)
        trial.passed(folder)
    except Exception as err:
        said = str(err) if isinstance(err, MillwrightError) else first_line(err)
        back = trial.undo(folder, on_trial, _ways_out(project))
        raise ReleaseError(f"{said}\n{back}") from err
    return Deployment(
        status="deployed",
        version=version,
        before=on_trial.before,
        url=url,
        asked=bool(online),
        compared=compared,
        largest_difference=worst,
        manifests=_manifests(project, version, on_trial.before),
    )


def _served(project: Project, version: int, elsewhere: str | None) -> str | None:
    """Where the service answers by that version, if it is known where it runs."""
    if not elsewhere and not project.settings.serving.start:
        return None
    url = elsewhere or background.ensure(project.state, project.fleet.name, terminal.say)
    background.await_release(url, version)
    return url


def _ways_out(project: Project) -> dict[str, str]:
    """What a person can do about the champion."""
    place = f"--fleet {project.fleet.name} --stack {project.state.environment}"
    releases = "python -m millwright releases"
    return {
        "rollback": f"to have the one before it: {releases} rollback {place}",
        "promote": f"to have another: {releases} list {place}, and releases promote VERSION",
    }


def _sample(project: Project, path: Path, features: Features) -> Sample:
    """Machines from all over the fleet, as of the newest features, by the offline store."""
    observed = project.offline.observed()["machine_id"].sort_values().tolist()
    spread = np.unique(np.linspace(0, len(observed) - 1, min(MACHINES, len(observed))).astype(int))
    machines, as_of = [observed[place] for place in spread], project.offline.known_until()
    release = releases.load(path)
    cutoffs = pd.DataFrame({"machine_id": machines}, dtype="object")
    cutoffs["event_timestamp"] = pd.Timestamp(as_of)
    frame = features(cutoffs, release.manifest.feature_service)
    timed = [
        name
        for view in release.manifest.views
        for name in view.features
        if view.time_to_live is not None
    ]
    known = frame[timed].notna().any(axis=1).tolist()
    scores = release.score(release.manifest.encoder.encode(frame)).tolist()
    expected = {m: each for m, each, knows in zip(machines, scores, known, strict=True) if knows}
    return Sample(machines, as_of, expected)


def _compare(project: Project, online: Predictions, sample: Sample) -> tuple[int, float]:
    """How many machines were compared, and the largest difference of their probabilities.

    A machine that the settings refuse for its old or missing features counts for nothing.
    """
    serving = project.settings.serving
    refuses = "refuse" in (serving.stale, serving.missing)
    known = {m: each for m, each in online.items() if each is not None and m in sample.expected}
    left_out = [m for m in sample.expected if m not in known and m in online]
    if not known or (left_out and not refuses):
        missing = left_out[0] if left_out else "of the sample"
        raise ReleaseError(
            f"machine {missing} is not predicted by what is online as of "
            f"{sample.as_of.isoformat()}, though the offline store has its features; bring them "
            f"online: python run.py --pipeline features --fleet {project.fleet.name} --stack "
            f"{project.state.environment}"
        )
    differences = {machine: abs(each - sample.expected[machine]) for machine, each in known.items()}
    machine = max(differences, key=lambda each: differences[each])
    if not differences[machine] <= TOLERANCE:
        raise ReleaseError(
            f"{known[machine]:.6g} is predicted online for machine {machine} as of "
            f"{sample.as_of.isoformat()}, and the offline features give "
            f"{sample.expected[machine]:.6g}"
        )
    return len(known), differences[machine]


def _scored_here(project: Project, path: Path, sample: Sample) -> Predictions:
    """What the service will predict, by its code in this process."""
    from millwright.serving.features import open_reader
    from millwright.serving.policy import Policy
    from millwright.serving.predictions import micros
    from millwright.serving.releases import Releases
    from millwright.serving.scoring import Question, Scoring

    serving = project.settings.serving
    used = Releases(
        project.state.environment, project.fleet.name, path.parent, path, prove=releases.check
    )
    used.refresh()
    if used.refused:
        raise ReleaseError(used.refused)
    reader = open_reader(project.state, background.ANSWER)
    scoring = Scoring(used, reader, Policy(serving.stale, serving.missing), lambda _: None)
    (answer,) = scoring.score([Question(sample.machines, micros(sample.as_of))])
    found = [float(part.scored.probabilities[part.row]) for part in answer]
    return {
        machine: None if np.isnan(each) else each
        for machine, each in zip(sample.machines, found, strict=True)
    }


def _manifests(project: Project, version: int, before: int | None) -> str | None:
    """The manifests that name the release, where the service runs in a cluster.

    The release is in service by then, as far as this machine can say so: what is wrong with the
    manifests is told, and undoes nothing.
    """
    if project.settings.servers != "elsewhere":
        return None
    where, context = project.state, os.environ.get(CONTEXT)
    target = where.root / project.fleet.name / "manifests" / f"v{version}"
    serving = version if before is None else before
    try:
        folder = manifests.write(target, where.environment, version, serving)
        steps = manifests.steps(folder, version, context)
        if os.environ.get(APPLY) == "true":
            for words in steps:
                terminal.say(manifests.run(words).rstrip())
        else:
            terminal.say("to apply:\n" + "\n".join(" ".join(words) for words in steps))
    except (OSError, MillwrightError) as err:
        terminal.warn(f"the manifests of v{version} are not applied: {err}")
        return None
    return str(folder)
