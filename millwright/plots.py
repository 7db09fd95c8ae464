"""The pictures of an evaluation. Each function returns a figure and leaves no state behind.

Colours are from the colour-blind safe palette of Okabe and Ito (jfly.uni-koeln.de/color): the model
is blue and failures are red wherever they stand.
"""

import io
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from sklearn.metrics import average_precision_score, precision_recall_curve

from millwright.alarms import (
    Booleans,
    Floats,
    Threshold,
    judge_alarms,
    judge_failures,
    raise_alarms,
)
from millwright.evaluation import CalibrationBin, Contribution
from millwright.fleet import Costs, Fleet

INK, MUTED, GRID = "#1f2328", "#6b7280", "#e3e6ea"
BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
LINES = {"model": BLUE, "champion": GREEN, "logistic_regression": ORANGE, "rule": MUTED}
DASHES, DOTS = (0, (4, 3)), (0, (2, 3))
WIDTH = 7.2  # inches
POINTS = 600  # more than a screen shows, and a small file all the same


def precision_recall(label: Booleans, scores: Mapping[str, Floats]) -> Figure:
    """Precision over recall of each named contender, with its average precision.

    The names `model`, `champion`, `logistic_regression` and `rule` have colours of their own.
    `label` must hold both classes.
    """
    figure, axes = _figure(height=4.2)
    average = {name: float(average_precision_score(label, each)) for name, each in scores.items()}
    ranked = sorted(scores, key=lambda name: (-average[name], name))
    for name in reversed(ranked):
        precision, recall, _ = precision_recall_curve(label, scores[name], drop_intermediate=True)
        kept = _thinned(len(recall))
        axes.plot(
            recall[kept],
            precision[kept],
            color=LINES.get(name, INK),
            linewidth=2.2 if name == "model" else 1.4,
            drawstyle="steps-post",
            label=name,
        )
    rate = float(np.mean(label))
    axes.axhline(rate, color=MUTED, linewidth=1, linestyle=DOTS)
    axes.text(1, rate + 0.015, f"chance {rate:.1%}", color=MUTED, ha="right", va="bottom")
    # Beside the axes, where no curve can run through them.
    axes.text(1.03, 0.96, "average precision", color=MUTED, transform=axes.transAxes)
    for place, name in enumerate(ranked, start=1):
        axes.text(
            1.03,
            0.96 - 0.075 * place,
            f"{average[name]:.2f}  {name.replace('_', ' ')}",
            color=LINES.get(name, INK),
            fontweight="bold" if name == "model" else "normal",
            transform=axes.transAxes,
        )
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    return figure


def calibration(bins: Sequence[CalibrationBin]) -> Figure:
    """The share of failures that came over the share that was promised, one point per bin."""
    figure, axes = _figure(height=4.2, width=5.2)
    predicted = [each.mean_predicted for each in bins]
    observed = [each.observed for each in bins]
    limit = min(1.0, 1.08 * max(*predicted, *observed, 0.01))
    axes.plot([0, limit], [0, limit], color=MUTED, linewidth=1, linestyle=DOTS)
    axes.text(
        0.97 * limit, 0.93 * limit, "as promised", color=MUTED, ha="right", va="top",
        rotation=45, rotation_mode="anchor", transform_rotates_text=True,
    )  # fmt: skip
    axes.plot(predicted, observed, color=BLUE, linewidth=1, alpha=0.5)
    axes.scatter(predicted, observed, color=BLUE, s=26, zorder=3)
    axes.set(xlim=(-0.02 * limit, limit), ylim=(-0.02 * limit, limit), aspect="equal")
    axes.set(xlabel="mean score of the bin", ylabel="share that failed within the horizon")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(PercentFormatter(1, decimals=None))
    return figure


def cost_over_threshold(threshold: Threshold, costs: Costs) -> Figure:
    """The cost at each candidate threshold, in its three parts, with the chosen one marked."""
    figure, axes = _figure(height=3.8)
    at = [point.threshold for point in threshold.curve]
    caught = np.array([point.failures_caught for point in threshold.curve])
    false = np.array([point.false_alarms for point in threshold.curve])
    parts = [
        ("missed failures", RED, (threshold.failures - caught) * costs.failure),
        ("planned repairs", GREEN, caught * costs.planned_repair),
        ("needless inspections", ORANGE, false * costs.inspection),
    ]
    total = [point.cost for point in threshold.curve]
    axes.plot(at, total, color=BLUE, linewidth=2.2, label="all together")
    for name, colour, cost in parts:
        axes.plot(at, cost, color=colour, linewidth=1.4, label=name)
    axes.axvline(threshold.value, color=INK, linewidth=1, linestyle=DASHES)
    axes.plot([threshold.value], [threshold.cost], "o", color=INK, markersize=7)
    if at[0] > 0 and at[-1] / at[0] > 20:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1.25 * max(threshold.failures * costs.failure, threshold.cost))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set(xlabel="threshold", ylabel=f"cost on the validation rows, {costs.currency}")
    axes.annotate(
        f"chosen: {threshold.value:.3g}, {costs.currency} {threshold.cost:,.0f}",
        (threshold.value, axes.get_ylim()[1]),
        xytext=(5, -4), textcoords="offset points", va="top", color=INK,
    )  # fmt: skip
    ends = [
        ("all together", BLUE, total[-1]),
        *((name, colour, c[-1]) for name, colour, c in parts),
    ]
    _label_ends(axes, at[-1], ends)
    return figure


def top_contributions(contributions: Sequence[Contribution], count: int = 15) -> Figure:
    """The features that move the score the most, longest bar on top."""
    shown = contributions[:count]
    figure, axes = _figure(height=1.0 + 0.27 * len(shown))
    lengths = [each.mean_absolute for each in shown]
    bars = axes.barh([each.feature for each in shown], lengths, color=BLUE, height=0.65)
    axes.bar_label(bars, fmt="%.2f", padding=4, color=MUTED, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("mean distance that it moves the log-odds of a failure")
    return figure


def pick_machine(
    rows: pd.DataFrame, scores: Floats, threshold: float, failures: pd.DataFrame, fleet: Fleet
) -> str:
    """The machine whose timeline shows most.

    Of the machines with a caught failure, or of all if none was caught, it is the one with the
    most failures and alarms together, and of equal ones the first by name.
    """
    fates = judge_failures(rows, scores, threshold, failures, fleet)
    alarms = raise_alarms(rows, scores, threshold, fleet)
    happened = pd.concat([fates["machine_id"], alarms["machine_id"]]).value_counts()
    caught = fates.loc[fates["caught"], "machine_id"]
    eligible = rows["machine_id"] if caught.empty else caught
    return str(min(eligible.unique(), key=lambda machine: (-happened.get(machine, 0), machine)))


def timeline(
    machine: str,
    rows: pd.DataFrame,
    scores: Floats,
    threshold: float,
    failures: pd.DataFrame,
    fleet: Fleet,
    readings: pd.DataFrame | None = None,
) -> Figure:
    """The score of one machine over time, with its failures and alarms.

    Below it stand up to four sensors from `readings`, which have `machine_id` and `timestamp`.
    """
    own = (rows["machine_id"] == machine).to_numpy()
    rows, scores = rows[own], np.asarray(scores)[own]
    first, last = rows["event_timestamp"].min(), rows["event_timestamp"].max()
    happened = pd.to_datetime(
        failures.loc[failures["machine_id"] == machine, "timestamp"], utc=True
    )
    happened = happened[happened.between(first, last + fleet.horizon)]
    alarms = judge_alarms(raise_alarms(rows, scores, threshold, fleet), failures, fleet)
    sensors = [name for name in fleet.sensors if readings is not None and name in readings][:4]
    figure = Figure(figsize=(WIDTH, 2.8 + 0.95 * len(sensors)), layout="constrained")
    heights = [2.4, *[1.0] * len(sensors)]
    panels = figure.subplots(
        len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes in panels:
        _dress(axes)
        for when in happened:
            axes.axvline(date2num(when), color=RED, linewidth=1.2, gid="failure")
            # The stretch in which a warning is neither too early nor too late.
            since, until = date2num(when - fleet.horizon), date2num(when - fleet.lead_time)
            axes.axvspan(since, until, color=RED, alpha=0.12, linewidth=0)
    _draw_scores(panels[0], rows, scores, threshold, alarms)
    panels[0].set_title(f"machine {machine}", loc="left", color=INK, fontsize=11, pad=24)
    if readings is not None:
        shown = readings["timestamp"].between(first, last) & (readings["machine_id"] == machine)
        for axes, name in zip(panels[1:], sensors, strict=True):
            values = readings.loc[shown, ["timestamp", name]].sort_values("timestamp")
            times, means = _condensed(values["timestamp"], values[name].to_numpy(float), np.add)
            axes.plot(times, means, color=BLUE, linewidth=0.9)
            unit = fleet.sensors[name].unit
            axes.set_ylabel(
                f"{name}\n{unit}" if unit else name, rotation=0, ha="right", va="center"
            )
            axes.yaxis.set_major_locator(MaxNLocator(3))
    locator = AutoDateLocator(tz=UTC)
    panels[-1].xaxis.set_major_locator(locator)
    panels[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
    figure.align_ylabels()
    return figure


def _draw_scores(
    axes: Axes, rows: pd.DataFrame, scores: Floats, threshold: float, alarms: pd.DataFrame
) -> None:
    order = np.argsort(rows["event_timestamp"].to_numpy())
    times, highest = _condensed(rows["event_timestamp"].iloc[order], scores[order], np.maximum)
    axes.plot(times, highest, color=BLUE, linewidth=1.2, label="score")
    axes.axhline(
        threshold, color=INK, linewidth=1, linestyle=DASHES, label=f"threshold {threshold:.3g}"
    )
    for is_true, name, filling in ((True, "true alarm", INK), (False, "false alarm", "white")):
        some = alarms[alarms["is_true"] == is_true]
        axes.plot(
            date2num(some["event_timestamp"]), some["score"], "v", color=INK, markersize=7,
            markerfacecolor=filling, linestyle="none", label=name, zorder=4, clip_on=False,
        )  # fmt: skip
    axes.plot([], [], color=RED, linewidth=1.2, label="failure, and the time to warn of it")
    axes.set(ylim=(0, 1.05), ylabel="score")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=5, frameon=False, fontsize=8.5,
        labelcolor=INK, handlelength=1.3, columnspacing=1.3, handletextpad=0.5, borderpad=0,
    )  # fmt: skip


def _figure(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _dress(axes)
    return figure, axes


def _dress(axes: Axes) -> None:
    """The same light frame for every picture."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def _label_ends(axes: Axes, at: float, ends: Sequence[tuple[str, str, float]]) -> None:
    """Name lines at their right ends, far enough apart to be read."""
    apart = 0.065 * axes.get_ylim()[1]
    height = -apart / 2
    for name, colour, end in sorted(ends, key=lambda each: each[2]):
        height = max(end, height + apart)
        axes.annotate(
            name, (at, height), xytext=(6, 0), textcoords="offset points",
            color=colour, va="center", annotation_clip=False,
        )  # fmt: skip


def _thinned(length: int) -> slice:
    """About `POINTS` of `length` points, evenly spread."""
    return slice(None, None, max(1, length // POINTS))


def _condensed(times: pd.Series, values: Floats, combine: np.ufunc) -> tuple[Any, Floats]:
    """At most about `POINTS` points: neighbours become their highest value, or their mean."""
    starts = np.arange(0, len(values), max(1, len(values) // POINTS))
    condensed: Floats = combine.reduceat(values, starts)
    if combine is np.add:
        condensed = condensed / np.diff(np.append(starts, len(values)))
    return date2num(times.iloc[starts]), condensed


def as_png(figure: Figure) -> bytes:
    """`figure` as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()
