"""Figures as a table, as a plot and for machines."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.benchmark import Figure
from benchmarks.harness import Outcome, file_name
from millwright.files import file_written_whole
from millwright.terminal import show_table

LIBRARIES = ("feast", "duckdb", "polars", "pyarrow", "pandas")
COLOURS = ("#2f6f9f", "#b0b7bf")  # ours, and whom it is held against
HOLDS = {True: "holds", False: "DOES NOT HOLD", None: "no figure to tell by"}


def show(outcome: Outcome) -> None:
    """The figures of a benchmark as a table on stdout."""
    benchmark = outcome.benchmark
    details = list(dict.fromkeys(name for f in outcome.figures for d in f.details for name in d))
    further = "".join(f"  {name.replace('_', ' '):>{_width(name)}}" for name in details)
    rows = {"contender": f"{'seconds':>9}  {'memory':>10}  {'times':>6}{further}"}
    rows |= {each.contender: _line(each, details) for each in outcome.figures}
    if outcome.difference:
        rows["results"] = f"differ, so there are no figures: {outcome.difference}"
    elif outcome.remark:
        rows["remark"] = outcome.remark
    rows |= {f"claim {n}": f"{text}: {HOLDS[holds]}" for n, (text, holds) in _claims(outcome)}
    show_table(f"{benchmark.name}, {outcome.size}: {benchmark.title}", rows)


def plot(outcome: Outcome, folder: Path) -> list[Path]:
    """Seconds and memory of each contender as bars, `NAME-SIZE.png` and `.svg` in `folder`."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot, ticker

    figures = list(reversed(outcome.figures))
    colours = [COLOURS[0] if each is outcome.ours else COLOURS[1] for each in figures]
    drawing, panels = pyplot.subplots(
        1, 2, figsize=(10, 1.2 + 0.45 * len(figures)), sharey=True, layout="constrained"
    )
    for panel, unit, form, values in (
        (panels[0], "seconds", ",.2f", [each.seconds for each in figures]),
        (panels[1], "peak memory in MB", ",.0f", [each.peak_memory_mb for each in figures]),
    ):
        there = [value for value in values if value] or [1.0]
        least = min(there) / 3
        panel.set_xscale("log")
        panel.set_xlim(least, max(there) * 4)
        panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
        panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        panel.xaxis.set_minor_locator(ticker.NullLocator())
        panel.barh([each.contender for each in figures], [v or 0 for v in values], color=colours)
        for place, (value, figure) in enumerate(zip(values, figures, strict=True)):
            text = figure.ended if value is None else f"{value:{form}}"
            panel.text(value or least, place, f"  {text[:50]}", va="center", size=9)
        panel.set_xlabel(unit)
        panel.spines[["top", "right"]].set_visible(False)
    drawing.suptitle(
        f"{outcome.benchmark.name}, {outcome.size}: {outcome.benchmark.title}", size=10
    )
    paths = []
    for ending in ("png", "svg"):
        path = folder / f"{file_name(outcome.benchmark.name)}-{outcome.size}.{ending}"
        with file_written_whole(path) as draft:
            drawing.savefig(draft, format=ending, dpi=150)
        paths.append(path)
    pyplot.close(drawing)
    return paths


def records(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One record for each contender, with the machine that its figure is of."""
    here = machine()
    return [each.record() | {"machine": here} for o in outcomes for each in o.figures]


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def _line(figure: Figure, details: Sequence[str]) -> str:
    if figure.seconds is None or figure.peak_memory_mb is None:
        return "no figure" if figure.ended == "ok" else figure.ended
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    line = f"{figure.seconds:>7.2f} s  {figure.peak_memory_mb:>7,.0f} MB  {ratio:>6}"
    for name in details:
        value = figure.detail(name)
        line += f"  {'' if value is None else _short(value):>{_width(name)}}"
    return line


def _short(value: float) -> str:
    return f"{value:,.2f}" if value < 100 and value % 1 else f"{value:,.0f}"


def _width(name: str) -> int:
    return max(len(name), 8)


def _claims(outcome: Outcome) -> list[tuple[int, tuple[str, bool | None]]]:
    return list(enumerate(outcome.claims.items(), 1))
