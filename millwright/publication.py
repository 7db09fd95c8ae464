"""What a finished training run leaves behind: an MLflow run, a registered version, a release.

Everything here may be done again: the same data, code and configuration have one fingerprint, and
what is registered or released under it already is found and not made twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import xgboost

from millwright import detectors, files, plots, registry, report, traffic, training, verification
from millwright import release as releases
from millwright.configuration import Strict
from millwright.encoder import Encoder
from millwright.errors import InputError, ReleaseError
from millwright.evaluation import Evaluation
from millwright.gate import Decision
from millwright.project import Project
from millwright.recipe import Recipe
from millwright.registry import CHALLENGER, CHAMPION, Version
from millwright.release import Manifest, ServedView
from millwright.report import Pictures, ReportContext
from millwright.revision import code_version, git_revision
from millwright.search import Found
from millwright.training import TEST, VALIDATION, Judgement, score_of

# What MLflow charts of an evaluation.
METRICS = (
    "average_precision", "roc_auc", "brier", "calibration_error", "precision", "recall",
    "failures", "failures_caught", "alarms", "false_alarms", "false_alarms_per_machine_month",
    "cost", "cost_per_machine_month",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A model and all that is known about it, before it has a name."""

    project: Project
    fingerprint: str
    training_set: pd.DataFrame
    scores: pd.DataFrame
    booster: xgboost.Booster
    found: Found
    judgement: Judgement
    decision: Decision

    @property
    def rows(self) -> dict[str, int]:
        """How many rows each part of the training set has."""
        windows = training.split(self.training_set, self.project)
        learned = windows.test.training(self.training_set["event_timestamp"])
        parts = self.scores["part"].value_counts()
        return {
            "training": int(learned.sum()),
            "validation": int(parts.get(VALIDATION, 0)),
            "test": int(parts.get(TEST, 0)),
        }


class Registration(Strict):
    """A registered version, and what became of it."""

    name: str
    version: int
    run: str
    fingerprint: str
    rows: dict[str, int]
    passed: bool
    reasons: tuple[str, ...]
    report: str


class Released(Strict):
    """The alias that a version has, and its release if it passed the gate."""

    alias: str
    path: str | None


def register(candidate: Candidate) -> tuple[Registration, str, str]:
    """Record the run in MLflow, register the model, and write the report and the model card.

    Needs an active MLflow run. Returns the registration, the report as HTML and the model card as
    Markdown.
    """
    project, encoder = candidate.project, Encoder.of(candidate.project.fleet)
    version = registry.register(
        project.model_name,
        candidate.booster,
        encoder,
        training.examples(candidate.training_set, project),
        candidate.fingerprint,
        _tags(candidate),
    )
    context = _context(candidate, version)
    page, card = report.render_report(context), report.render_model_card(context)
    run = registry.log_run(
        version,
        parameters=_parameters(candidate),
        metrics=_metrics(candidate.judgement),
        tags=_tags(candidate),
        files={
            "report.html": page.encode(),
            "model_card.md": card.encode(),
            **_drawings(context.pictures),
            **{
                f"configuration/{name}": path.read_bytes()
                for name, path in project.configuration_files.items()
            },
        },
    )
    path = project.state.model_report(project.fleet.name, version.version)
    with files.file_written_whole(path) as draft:
        draft.write_text(page, encoding="utf-8")
    decision = candidate.decision
    registration = Registration(
        name=version.name,
        version=version.version,
        run=run,
        fingerprint=candidate.fingerprint,
        rows=candidate.rows,
        passed=decision.passed,
        reasons=tuple(str(failure) for failure in decision.failures),
        report=str(path),
    )
    return registration, page, card


def release(
    project: Project,
    registration: Registration,
    training_set: pd.DataFrame,
    booster: xgboost.Booster,
    threshold: float,
) -> Released:
    """Write and prove the release of a version that passed the gate; leave another as challenger.

    Raises:
        ReleaseError: the release cannot be written, would replace that of another model, or does
            not prove itself; the former champion stays.
    """
    version = Version(registration.name, registration.version, registration.run, {})
    if not registration.passed:
        champion = registry.find_alias(registration.name, CHAMPION)
        if champion and champion.version == registration.version:
            return Released(alias=CHAMPION, path=None)  # the gate rose above the model in service
        reasons = "\n".join(registration.reasons)[:4000]
        registry.set_alias(version, CHALLENGER, {"gate": "refused", "gate_reasons": reasons})
        return Released(alias=CHALLENGER, path=None)
    folder = project.state.releases(project.fleet.name)
    path = folder / f"v{registration.version}"
    if not _is_released(folder, registration):
        manifest = _manifest(project, registration, training_set, threshold)
        examples = training.examples(training_set, project)
        kept = _detector(project)
        recipe = Recipe.of(project.fleet, detectors.load(kept) if kept else None)
        path = releases.write(folder, manifest, booster, examples, recipe, kept)
    verification.verify_in_fresh_process(path)
    return Released(alias=CHAMPION, path=str(path))


def released(project: Project, version: int | None) -> Released:
    """The release of a version, or without one the latest that there is.

    Raises:
        InputError: there is none.
        ReleaseError: it is broken.
    """
    folder = project.state.releases(project.fleet.name)
    if version is None:
        there = traffic.versions(folder)
        if not there:
            raise InputError(
                f"fleet '{project.fleet.name}' has no release in environment "
                f"'{project.state.environment}' yet; train a model: python run.py --pipeline "
                f"training --fleet {project.fleet.name} --stack {project.state.environment}"
            )
        version = there[-1]
    path = traffic.named(folder, version)
    verification.verify_in_fresh_process(path)
    return Released(alias=CHAMPION, path=str(path))


def links(project: Project, registration: Registration, released: Released) -> dict[str, str]:
    """The way from ZenML's model version to the same model in MLflow, to its data and features."""
    return {
        "mlflow_model": f"models:/{registration.name}/{registration.version}",
        "mlflow_run": registration.run,
        "alias": released.alias,
        "release": released.path or "none",
        "dataset_version": project.raw.dataset_version,
        "feature_service": project.service,
        "git_revision": git_revision() or "unknown",
    }


def _is_released(folder: Path, registration: Registration) -> bool:
    """Whether the release of this very model is there and whole."""
    try:
        found = releases.load(folder / f"v{registration.version}")
    except ReleaseError:
        return False
    return found.manifest.fingerprint == registration.fingerprint


def _detector(project: Project) -> Path | None:
    """The folder of the detector whose scores the model has learned from."""
    version = project.offline.detector_version()
    return project.state.detectors(project.fleet.name) / version if version else None


def _manifest(
    project: Project, registration: Registration, training_set: pd.DataFrame, threshold: float
) -> Manifest:
    return Manifest(
        name=registration.name,
        version=registration.version,
        fleet=project.fleet.name,
        fingerprint=registration.fingerprint,
        feature_service=project.service,
        views=ServedView.all_of(project.fleet),
        encoder=Encoder.of(project.fleet),
        threshold=threshold,
        costs=project.fleet.costs,
        horizon=project.fleet.label(project.fleet.horizon),
        lead_time=project.fleet.label(project.fleet.lead_time),
        learned_until=training.learned_until(training_set, project),
        dataset_version=project.raw.dataset_version,
        detector_version=project.offline.detector_version(),
        code_version=code_version(),
        git_revision=git_revision(),
        mlflow_run=registration.run,
        environment=project.state.environment,
        libraries=registry.libraries(),
    )


def _tags(candidate: Candidate) -> dict[str, str]:
    """The way back from a model to the data, the code and the features that it came from."""
    project = candidate.project
    return {
        "fleet": project.fleet.name,
        "environment": project.state.environment,
        "dataset_version": project.raw.dataset_version,
        "detector_version": project.offline.detector_version() or "none",
        "feature_service": project.service,
        "code_version": code_version(),
        "git_revision": git_revision() or "unknown",
        "fingerprint": candidate.fingerprint,
    }


def _parameters(candidate: Candidate) -> dict[str, object]:
    found = candidate.found
    return {
        **found.parameters,
        "rounds": found.rounds,
        "trials": found.trials,
        "search_ended_by": found.ended_by,
        "seed": candidate.project.training.seed,
        "threshold": candidate.judgement.threshold.value,
        "horizon": candidate.project.fleet.label(candidate.project.fleet.horizon),
        "cutoff_distance": candidate.project.fleet.label(candidate.project.cutoff_distance),
        **{f"rows_{part}": rows for part, rows in candidate.rows.items()},
    }


def _metrics(judgement: Judgement) -> dict[str, float]:
    judged: dict[str, Evaluation] = {"": judgement.candidate, **judgement.baselines}
    if judgement.champion:
        judged["champion"] = judgement.champion
    return {
        f"{name}.{metric}".lstrip("."): float(value)
        for name, evaluation in judged.items()
        for metric in METRICS
        if (value := getattr(evaluation, metric)) is not None
    }


def _context(candidate: Candidate, version: Version) -> ReportContext:
    project, judgement = candidate.project, candidate.judgement
    return ReportContext(
        title=f"Failure model of fleet {project.fleet.name}",
        fleet=project.fleet,
        environment=project.state.environment,
        created_at=datetime.now(UTC),
        dataset_version=project.raw.dataset_version,
        code_version=code_version(),
        feature_service=project.service,
        detector_version=project.offline.detector_version() or "none yet",
        splits=_splits(candidate),
        parameters=_parameters(candidate),
        candidate=judgement.candidate,
        baselines=judgement.baselines,
        champion=judgement.champion,
        champion_note=judgement.champion_note,
        decision=candidate.decision,
        contributions=judgement.contributions,
        pictures=_pictures(candidate),
        model_name=version.name,
        model_version=version.version,
        git_revision=git_revision(),
        mlflow_run_id=version.run,
    )


def _splits(candidate: Candidate) -> tuple[report.Split, ...]:
    moments, labels = (candidate.training_set[name] for name in ("event_timestamp", "label"))
    windows = training.split(candidate.training_set, candidate.project)
    masks = {
        "development": windows.test.training(moments),
        "validation folds, of it": windows.validation(moments),
        "test": windows.test.validation(moments),
    }
    return tuple(
        report.Split(
            name,
            int(mask.sum()),
            int(labels[mask].sum()),
            moments[mask].min().to_pydatetime(),
            moments[mask].max().to_pydatetime(),
        )
        for name, mask in masks.items()
    )


def _pictures(candidate: Candidate) -> Pictures:
    project, judgement = candidate.project, candidate.judgement
    test = candidate.scores[candidate.scores["part"] == TEST].reset_index(drop=True)
    failures, fleet = project.offline.failures(), project.fleet
    label, scores = test["label"].to_numpy(bool), test[score_of("model")].to_numpy()
    curves = {name: test[score_of(name)].to_numpy() for name in ("model", *training.BASELINES)}
    limit = judgement.threshold.value
    machine = plots.pick_machine(test, scores, limit, failures, fleet)
    readings = project.offline.readings(machine, test["event_timestamp"].min())
    return Pictures(
        precision_recall=plots.precision_recall(label, curves) if label.any() else None,
        calibration=plots.calibration(judgement.candidate.calibration),
        cost=plots.cost_over_threshold(judgement.threshold, fleet.costs),
        contributions=plots.top_contributions(judgement.contributions),
        timeline=plots.timeline(machine, test, scores, limit, failures, fleet, readings),
    )


def _drawings(pictures: Pictures) -> Mapping[str, bytes]:
    """Each figure as a PNG file for MLflow."""
    return {
        f"plots/{name}.png": plots.as_png(figure)
        for name, figure in vars(pictures).items()
        if figure is not None
    }
