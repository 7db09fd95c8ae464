"""What a model is worth on rows that it has not seen: as a classifier, and to a planner.

The rules for alarms, failures caught and costs are those of `millwright.alarms`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from millwright.alarms import (
    Booleans,
    Floats,
    expected_cost,
    judge_alarms,
    judge_failures,
    machine_months,
    raise_alarms,
)
from millwright.configuration import Strict
from millwright.errors import DataError
from millwright.fleet import Attribute, Fleet

SCORES = (
    "average_precision",
    "roc_auc",
    "failures",
    "failures_caught",
    "false_alarms_per_machine_month",
    "cost",
)


class Figures(Strict):
    """The figures of one set of rows. None where a figure is not defined on them.

    `precision` and `recall` are of rows at the threshold; `brier` is the mean squared error of
    the probabilities. `failures_caught` were flagged at least the lead time ahead, and
    `failures_flagged_late` only after that. `median_warning_hours` is how long before a caught
    failure its flag first stood. `cost_without_alarms` is what the failures cost unforeseen.
    """

    rows: int
    machines: int
    machine_months: float
    base_rate: float
    average_precision: float | None
    roc_auc: float | None
    brier: float
    precision: float | None
    recall: float | None
    failures: int
    failures_caught: int
    failures_flagged_late: int
    median_warning_hours: float | None
    alarms: int
    false_alarms: int
    false_alarms_per_machine_month: float
    cost: float
    cost_per_machine_month: float
    cost_without_alarms: float


class Segment(Strict):
    """The figures of the rows with one value of an attribute: `model=model3`, `age=5-10`."""

    name: str
    figures: Figures


class CalibrationBin(Strict):
    """Rows of similar score: the failures that they promise and those that came, as shares."""

    mean_predicted: float
    observed: float
    count: int


class Evaluation(Figures):
    """All that is known about one model at one threshold on one set of rows."""

    threshold: float
    calibration_error: float
    calibration: tuple[CalibrationBin, ...]
    segments: tuple[Segment, ...]

    @property
    def share_caught(self) -> float | None:
        """The share of the failures that were caught."""
        return self.failures_caught / self.failures if self.failures else None


class Contribution(Strict):
    """How much a feature moves the prediction: the mean of its absolute SHAP value, in log-odds."""

    feature: str
    mean_absolute: float


def evaluate(
    rows: pd.DataFrame, scores: Floats, failures: pd.DataFrame, threshold: float, fleet: Fleet
) -> Evaluation:
    """Judge `scores` of `rows` at `threshold`.

    Raises:
        DataError: there are no rows, or the scores do not fit them.
    """
    if rows.empty:
        raise DataError(f"fleet '{fleet.name}': there are no rows to judge a model on")
    figures = measure(rows, scores, failures, threshold, fleet)
    bins = calibrate(rows["label"].to_numpy(dtype=bool), scores)
    segments = [
        Segment(
            name=name,
            figures=measure(rows[members], scores[members], failures, threshold, fleet),
        )
        for name, members in segment(rows, fleet)
    ]
    return Evaluation(
        **figures.model_dump(),
        threshold=threshold,
        calibration_error=calibration_error(bins),
        calibration=bins,
        segments=tuple(segments),
    )


def measure(
    rows: pd.DataFrame, scores: Floats, failures: pd.DataFrame, threshold: float, fleet: Fleet
) -> Figures:
    """The figures of `rows`, which must not be empty."""
    alarms = judge_alarms(raise_alarms(rows, scores, threshold, fleet), failures, fleet)
    fates = judge_failures(rows, scores, threshold, failures, fleet)
    caught = int(fates["caught"].sum())
    false_alarms = int((~alarms["is_true"]).sum())
    warning = (fates["timestamp"] - fates["flagged_from"])[fates["caught"]].dt.total_seconds()
    months = machine_months(rows, fleet)
    cost = expected_cost(len(fates), caught, false_alarms, fleet.costs)

    label = rows["label"].to_numpy(dtype=bool)
    flagged = np.asarray(scores) >= threshold
    both_classes = label.any() and not label.all()
    return Figures(
        rows=len(rows),
        machines=rows["machine_id"].nunique(),
        machine_months=months,
        base_rate=float(label.mean()),
        average_precision=float(average_precision_score(label, scores)) if both_classes else None,
        roc_auc=float(roc_auc_score(label, scores)) if both_classes else None,
        brier=float(np.mean((np.asarray(scores, dtype=np.float64) - label) ** 2)),
        precision=float(label[flagged].mean()) if flagged.any() else None,
        recall=float(flagged[label].mean()) if label.any() else None,
        failures=len(fates),
        failures_caught=caught,
        failures_flagged_late=int(fates["flagged_late"].sum()),
        median_warning_hours=float(warning.median()) / 3600 if caught else None,
        alarms=len(alarms),
        false_alarms=false_alarms,
        false_alarms_per_machine_month=false_alarms / months,
        cost=cost,
        cost_per_machine_month=cost / months,
        cost_without_alarms=expected_cost(len(fates), 0, 0, fleet.costs),
    )


def segment(rows: pd.DataFrame, fleet: Fleet) -> Iterator[tuple[str, Booleans]]:
    """The names and the members of the segments of `rows`, without empty ones."""
    for name, attribute in fleet.attributes.items():
        if name not in rows:
            continue
        if attribute.type == "category":
            groups = rows[name].fillna("unknown").map(lambda value, name=name: f"{name}={value}")
            names = sorted(groups.unique())
        elif attribute.bands:
            names = _band_names(name, attribute)
            groups = _in_bands(rows[name], attribute, names)
        else:
            continue
        for group in names:
            members: Booleans = (groups == group).to_numpy(dtype=bool)
            if members.any():
                yield group, members


def _band_names(name: str, attribute: Attribute) -> list[str]:
    bounds = [f"{bound:g}" for bound in attribute.bands]
    inner = [f"{name}={low}-{high}" for low, high in pairwise(bounds)]
    return [f"{name}<{bounds[0]}", *inner, f"{name}>={bounds[-1]}", f"{name}=unknown"]


def _in_bands(numbers: pd.Series, attribute: Attribute, names: Sequence[str]) -> pd.Series:
    """The band of each number. A band holds its lower bound and not its upper one."""
    values = numbers.to_numpy(dtype=float)
    band = np.searchsorted(attribute.bands, values, side="right")
    band[np.isnan(values)] = len(names) - 1
    return pd.Series(np.asarray(names, dtype=object)[band], index=numbers.index)


def calibrate(label: Booleans, scores: Floats) -> tuple[CalibrationBin, ...]:
    """Sort the rows by score into ten bins of equal count, and the top one into ten again.

    Failures are rare, so that one row in ten or fewer has a score worth looking at: bins of one
    size would show it as a single point. Rows of equal score share a bin, because their order
    means nothing; so there may be fewer bins.
    """
    shares = [*np.arange(1, 10) / 10, *np.arange(91, 100) / 100]
    edges = np.unique(np.quantile(scores, shares, method="higher"))
    places = np.searchsorted(edges, scores, side="right")
    counts = np.bincount(places, minlength=len(edges) + 1)
    filled = counts > 0
    predicted = np.bincount(places, weights=scores, minlength=len(counts))[filled] / counts[filled]
    observed = np.bincount(places, weights=label, minlength=len(counts))[filled] / counts[filled]
    return tuple(
        CalibrationBin(mean_predicted=float(mean), observed=float(share), count=int(count))
        for mean, share, count in zip(predicted, observed, counts[filled], strict=True)
    )


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """The expected calibration error (Naeini et al., AAAI 2015), over `bins`."""
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.mean_predicted - each.observed) for each in bins) / total


def compare(evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """One row of figures for each named evaluation, in the order given.

    Raises:
        DataError: they were not made on the same rows.
    """
    table = pd.DataFrame(
        [each.model_dump(exclude={"calibration", "segments"}) for each in evaluations.values()],
        index=pd.Index(evaluations, name="name"),
    )
    for figure in ("rows", "machines", "base_rate", "failures"):
        if table[figure].nunique() > 1:
            seen = ", ".join(f"{name}: {value:g}" for name, value in table[figure].items())
            raise DataError(
                f"cannot compare what was judged on different rows; '{figure}' is {seen}"
            )
    return table


def summarise_contributions(
    contributions: Floats, feature_names: Sequence[str]
) -> tuple[Contribution, ...]:
    """Rank features by the mean absolute value of their contributions, largest first.

    `contributions` is of shape (rows, features + 1), as `Booster.predict(pred_contribs=True)`
    gives it; the last column is the bias and is left out.
    """
    if contributions.shape[1] != len(feature_names) + 1:
        raise DataError(
            f"{contributions.shape[1]} columns of contributions do not fit {len(feature_names)} "
            "features and a bias; pass the features that the model was trained on"
        )
    means = np.abs(contributions[:, :-1]).mean(axis=0, dtype=np.float64)
    ranked = sorted(zip(feature_names, means, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return tuple(Contribution(feature=name, mean_absolute=float(mean)) for name, mean in ranked)


def scores_summary(evaluation: Evaluation) -> dict[str, float | int | None]:
    """The `scores` of a run's summary for machines."""
    return evaluation.model_dump(include=set(SCORES))
