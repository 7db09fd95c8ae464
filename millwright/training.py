"""A training run, stage by stage, over frames: what the ZenML steps of the same names call.

A training set has one row per cut-off, by time and then machine: `machine_id`, `event_timestamp`
(UTC), `label` (bool) and the features of the failure model, float32 or text.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import xgboost

from millwright import alarms, comparison, evaluation, labels, models, search, trees
from millwright.alarms import Threshold
from millwright.configuration import Strict
from millwright.encoder import Encoder, Matrix, Scores
from millwright.errors import DataError, MillwrightError
from millwright.evaluation import Contribution, Evaluation
from millwright.models import Classifier, Logistic, Model, Rule
from millwright.project import Project
from millwright.search import Found
from millwright.splits import Fold, Mask, Split, split_by_time
from millwright.views import model_features

KEYS = ["machine_id", "event_timestamp", "label"]
BASELINES = ("rule", "logistic_regression")
TEST, VALIDATION = "test", "validation"
EXAMPLES = 200


class Judgement(Strict):
    """What the test window says of the model and of what it must beat, all on the same rows.

    `champion_note` says why there are no figures of the champion, if there is a champion.
    """

    candidate: Evaluation
    baselines: dict[str, Evaluation]
    champion: Evaluation | None
    champion_note: str = ""
    threshold: Threshold
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True)
class Columns:
    """A training set as a model sees it."""

    matrix: Matrix
    labels: models.Labels
    moments: pd.Series


def score_of(name: str) -> str:
    """The column of a model's scores; a machine may well have an attribute called `model`."""
    return f"score_{name}"


def select_cutoffs(project: Project) -> pd.DataFrame:
    """The cut-offs of all machines with their labels.

    Raises:
        DataError: there is no telemetry, too little of it, or no failure at all.
    """
    observed = project.offline.observed()
    failures = project.offline.failures()
    cutoffs = labels.select_cutoffs(observed, project.fleet, project.cutoff_distance)
    cutoffs["label"] = labels.label_cutoffs(cutoffs, failures, project.fleet.horizon)
    if not cutoffs["label"].any():
        raise DataError(
            f"no machine of fleet '{project.fleet.name}' fails within its telemetry, so there is "
            "nothing to learn; ingest failures of the same time, or a longer history"
        )
    return cutoffs


def check_training_set(found: pa.Table, cutoffs: pd.DataFrame, project: Project) -> pd.DataFrame:
    """The rows that the feature store gave, as a training set.

    Raises:
        MillwrightError: they are not exactly the cut-offs asked for, in their order, or features
            are missing, infinite, or all null.
    """
    kinds = model_features(project.fleet)
    missing = [name for name in [*KEYS, *kinds] if name not in found.column_names]
    if missing:
        raise MillwrightError(
            f"the feature store gave no {', '.join(missing)} for service '{project.service}'; "
            "publish the definitions again: python run.py --pipeline features"
        )
    frame: pd.DataFrame = found.select([*KEYS, *kinds]).to_pandas()
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_convert("UTC")
    for key in KEYS:
        if len(frame) != len(cutoffs) or not np.array_equal(frame[key], cutoffs[key]):
            raise MillwrightError(
                f"asked for {len(cutoffs):,} cut-offs, and the feature store gave {len(frame):,} "
                f"rows that differ in '{key}'; a model must not learn from those"
            )
    numbers = [name for name, kind in kinds.items() if kind == "float32"]
    infinite = [name for name in numbers if np.isinf(frame[name].to_numpy()).any()]
    if infinite:
        raise MillwrightError(f"features are infinite: {', '.join(infinite)}")
    if frame[numbers].isna().all(axis=None):
        raise MillwrightError(
            "every feature of every cut-off is null: the feature tables do not reach the "
            "cut-offs; run python run.py --pipeline features"
        )
    return frame


def split(frame: pd.DataFrame, project: Project) -> Split:
    """The test window of a training set, and those folds that can be learned from and judged by.

    Where all machines start at once and run until they fail, the first folds have no failure yet.

    Raises:
        DataError: no fold has failures on both sides.
    """
    moments, failing = frame["event_timestamp"], frame["label"].to_numpy(bool)
    end = moments.max() + project.fleet.horizon
    windows = split_by_time(moments, end, project.fleet, project.training.folds)

    def mixed(rows: Mask) -> bool:
        return bool(failing[rows].any() and not failing[rows].all())

    folds = tuple(
        fold
        for fold in windows.folds
        if mixed(fold.training(moments)) and mixed(fold.validation(moments))
    )
    if not folds:
        first, last = windows.folds[0], windows.folds[-1]
        raise DataError(
            f"fleet '{project.fleet.name}' has no validation fold with failures to learn from and "
            f"failures to be judged by, between {first.start} and {last.end}; ingest more data, "
            "or take other folds in configs/pipelines/training.yaml"
        )
    return Split(folds, windows.test)


def columns(frame: pd.DataFrame, project: Project) -> Columns:
    """Encode a training set."""
    matrix = Encoder.of(project.fleet).encode(frame)
    return Columns(matrix, frame["label"].to_numpy(bool), frame["event_timestamp"])


def search_hyperparameters(
    frame: pd.DataFrame, project: Project, progress: search.Progress | None = None
) -> Found:
    """Look for good hyperparameters on the validation folds."""
    data = columns(frame, project)
    return search.search(
        data.matrix,
        data.labels,
        data.moments,
        split(frame, project),
        project.settings.search,
        project.training.seed,
        project.settings.engine.threads,
        progress,
    )


def train_models(
    frame: pd.DataFrame,
    found: Found,
    project: Project,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[xgboost.Booster, pd.DataFrame]:
    """Fit the classifier and the baselines on the development window, and score what judges them.

    Returns:
        The classifier, and the scores: the rows of the validation folds, scored by models that had
        not seen them, and those of the test window, with `part` and a column for each model.
    """
    data, windows = columns(frame, project), split(frame, project)
    parts = {
        VALIDATION: windows.validation(data.moments),
        TEST: windows.test.validation(data.moments),
    }
    scores = pd.concat(
        [frame.loc[mask, KEYS].assign(part=part) for part, mask in parts.items()], ignore_index=True
    )
    makers = _makers(found, project)
    fitted: dict[str, Model] = {}
    for done, (name, make) in enumerate(makers.items()):
        if progress:
            progress(done, len(makers))
        fitted[name], judged = _fit_and_score(make, data, windows, project)
        scores[score_of(name)] = np.concatenate([judged[mask] for mask in parts.values()])
    if progress:
        progress(len(makers), len(makers))
    classifier = fitted["model"]
    if not isinstance(classifier, Classifier) or classifier.booster is None:
        raise TypeError("the model is no classifier of ours")
    return classifier.booster, scores


def judge(
    frame: pd.DataFrame, scores: pd.DataFrame, booster: xgboost.Booster, project: Project
) -> Judgement:
    """Choose thresholds on the validation rows and judge everything on the test window."""
    failures, fleet = project.offline.failures(), project.fleet
    attributes = [name for name in fleet.attributes if name in frame]
    described = scores.merge(frame[[*KEYS[:2], *attributes]], on=KEYS[:2], how="left")
    validation = described[described["part"] == VALIDATION].reset_index(drop=True)
    test = described[described["part"] == TEST].reset_index(drop=True)

    def threshold(name: str) -> Threshold:
        return alarms.choose_threshold(
            validation, validation[score_of(name)].to_numpy(), failures, fleet
        )

    def judged(name: str, limit: float) -> Evaluation:
        return evaluation.evaluate(test, test[score_of(name)].to_numpy(), failures, limit, fleet)

    chosen = threshold("model")
    window = split(frame, project).test
    test_rows = frame[window.validation(frame["event_timestamp"])]
    champion, note = comparison.find_champion(test_rows.columns, window.start, project)
    rival = None
    if champion:
        manifest = champion.manifest
        test[score_of("champion")] = champion.score(manifest.encoder.encode(test_rows))
        rival = judged("champion", manifest.threshold)
    return Judgement(
        candidate=judged("model", chosen.value),
        baselines={name: judged(name, threshold(name).value) for name in BASELINES},
        champion=rival,
        champion_note=note,
        threshold=chosen,
        contributions=_contributions(test_rows, booster, project),
    )


def learned_until(frame: pd.DataFrame, project: Project) -> datetime:
    """The end of what the model of the test window learned from (UTC).

    The label of its last cut-off tells of failures up to a horizon later.
    """
    moments = frame["event_timestamp"]
    learned: pd.Series = moments[split(frame, project).test.training(moments)]
    end: pd.Timestamp = learned.max() + project.fleet.horizon
    return end.to_pydatetime()


def examples(frame: pd.DataFrame, project: Project) -> Matrix:
    """Held-out rows, encoded, for a release to prove itself by."""
    rows = frame[split(frame, project).test.validation(frame["event_timestamp"])]
    return Encoder.of(project.fleet).encode(_sample(rows, EXAMPLES))


def _makers(found: Found, project: Project) -> dict[str, Callable[[], Model]]:
    seed = project.training.seed
    return {
        "rule": lambda: Rule(project.fleet),
        "logistic_regression": lambda: Logistic(seed),
        "model": lambda: Classifier(found.parameters, found.rounds, seed),
    }


def _fit_and_score(
    make: Callable[[], Model], data: Columns, windows: Split, project: Project
) -> tuple[Model, Scores]:
    """Fit a model for each window, on what came before it, and score the window's rows.

    Returns:
        The model of the test window, which has learned from all of the development window, and
        the scores, shape (n,), NaN outside the windows.
    """
    scores = np.full(len(data.labels), np.nan)

    def fit(window: Fold) -> Model:
        learned, judged = window.training(data.moments), window.validation(data.moments)
        model = make().fit(data.matrix[learned], data.labels[learned])
        scores[judged] = model.score(data.matrix[judged])
        return model

    with ThreadPoolExecutor(project.settings.engine.threads) as pool:
        *_, last = pool.map(fit, (*windows.folds, windows.test))
    return last, scores


def _contributions(
    rows: pd.DataFrame, booster: xgboost.Booster, project: Project
) -> tuple[Contribution, ...]:
    encoder = Encoder.of(project.fleet)
    matrix = encoder.encode(_sample(rows, project.training.contribution_rows))
    return evaluation.summarise_contributions(trees.contributions(booster, matrix), encoder.columns)


def _sample(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many of `rows`, evenly spread."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))
    return rows.iloc[chosen]
