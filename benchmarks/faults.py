"""What breaks around the service while it is asked steadily, and what the service makes of it.

Redis, PostgreSQL, MLflow, the disk, the releases and the service's own process: each fault happens
some times, in an order and for a time that follow from a seed. See `fault_kinds` for what happens,
`suffering` for what is held against it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import fault_scene, suffering
from benchmarks.fault_kinds import FAULTS
from benchmarks.presentation import COLOURS
from benchmarks.trial import Extent, Figures, Said, Trial
from millwright.files import file_written_whole

SLOWEST = 0.5  # seconds that an answer or a refusal may take


def run(options: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each fault in turn, to one service that is never started anew."""
    times, seed, rate = options["times"], options["seed"], options["rate"]
    with fault_scene.set_up(folder, seed) as scene:
        for number, fault in enumerate(FAULTS):
            suffered = asdict(suffering.suffer(scene, fault, times, seed + number, rate))
            wrong = Counter(suffered["wrong"])
            yield (
                fault.name,
                {
                    **suffered,
                    "wrong": sum(wrong.values()),
                    "wrongs": dict(wrong),
                    "lost": scene.service.gauge("log_lost"),
                    "mlflow_visits": scene.mlflow.visits,
                    "marker": scene.marker.exists(),
                },
            )


def draw(figures: Figures, name: str, folder: Path) -> list[Path]:
    """The slowest answer and the worst recovery of each fault as bars."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    names = list(figures)[::-1]
    drawing, panels = pyplot.subplots(
        1, 2, figsize=(10, 1.2 + 0.35 * len(names)), sharey=True, layout="constrained"
    )
    for panel, key, scale, text in (
        (panels[0], "slowest", 1000, "slowest answer or refusal, ms"),
        (panels[1], "worst", 1, "until all was well again, at worst, s"),
    ):
        values = [min(figures[each][key], 999.0) * scale for each in names]  # that never was: 999
        panel.barh(names, values, color=COLOURS[0])
        for place, value in enumerate(values):
            panel.text(value, place, f"  {value:,.0f}" if scale > 1 else f"  {value:,.2f}",
                       va="center", size=9)  # fmt: skip
        panel.set_xlim(0, max(values) * 1.2 or 1)
        panel.set_xlabel(text)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].axvline(SLOWEST * 1000, color=COLOURS[1], linestyle="--")
    paths = []
    for ending in ("png", "svg"):
        path = folder / f"{name}.{ending}"
        with file_written_whole(path) as draft:
            drawing.savefig(draft, format=ending, dpi=150)
        paths.append(path)
    pyplot.close(drawing)
    return paths


def _none(key: str) -> Said:
    text = {
        "wrong": "no wrong answer: right, or 503 with Retry-After where something is broken",
        "unlogged": "every answer that was given is in the log once",
        "lost": "the log says that it lost nothing",
        "mlflow_visits": "the service asks MLflow for nothing",
        "marker": "no pickle is loaded",
    }[key]
    return Said(text, lambda figures: not any(each[key] for each in figures.values()))


CORRECT = [_none(key) for key in ("wrong", "unlogged", "lost", "mlflow_visits", "marker")]
IN_TIME = Said(
    f"no answer and no refusal takes more than {SLOWEST * 1000:.0f} ms",
    lambda figures: all(each["slowest"] <= SLOWEST for each in figures.values()),
)
RECOVERS = Said(
    "all is well again after each, without a start of the service",
    lambda figures: all(each["worst"] < float("inf") for each in figures.values()),
)

BENCHMARKS = [
    Trial(
        "faults",
        "what breaks around the service under a steady load",
        run,
        sizes={
            "quick": Extent({"times": 2, "seed": 1, "rate": 50}, [*CORRECT, RECOVERS]),
            "full": Extent({"times": 20, "seed": 1, "rate": 100}, [*CORRECT, RECOVERS, IN_TIME]),
        },
        columns={
            "times": lambda f: f"{f['rounds']}",
            "requests": lambda f: f"{f['requests']:,}",
            "answered": lambda f: f"{f['answered']:,}",
            "503": lambda f: f"{f['refused']:,}",
            "resets": lambda f: f"{f['resets']:,}",
            "wrong": lambda f: f"{f['wrong']:,}",
            "slowest": lambda f: f"{f['slowest'] * 1000:,.0f} ms",
            "well after": lambda f: f"{f['recovery']:.2f} s",
            "at worst": lambda f: f"{f['worst']:.2f} s",
            "logged": lambda f: f"{f['predictions'] - f['unlogged']:,}",
            "unlogged": lambda f: f"{f['unlogged']:,}",
        },
        draw=draw,
    )
]
