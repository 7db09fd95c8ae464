"""The service under a steady load for minutes: whether its memory and its handles stay as they are.

Of the process that serves, once a second: its resident memory and how many files it has open, its
clients' connections aside, which are as many as they want. What it takes to warm up is left out;
growth is the slope of a line through the rest, over its length.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks import fault_scene, steady
from benchmarks.fault_plant import MACHINES
from benchmarks.presentation import COLOURS
from benchmarks.steady import Order
from benchmarks.trial import Extent, Figures, Said, Trial
from millwright.files import file_written_whole

GROWTH = 8.0  # MB
PAUSE = 1.0  # seconds between two looks


def run(options: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """One service, asked for so many seconds, with its log on."""
    with fault_scene.set_up(folder, options["seed"]) as scene:
        notes = folder / "answers"
        notes.unlink(missing_ok=True)
        order = Order(scene.service.url, MACHINES, options["rate"], options["seed"])
        process, port = scene.service.serving, urlsplit(scene.service.url).port
        with steady.asking(order, notes):
            looks = list(_looks(process, port, options["seconds"]))
        answers = steady.read(notes)
        scene.idle()
        ids = [each.id for answer in answers for each in answer.predictions]
        logged = scene.logged(ids)
    after = np.array([look for look in looks if look[0] >= options["warm_up"]])
    slope = float(np.polyfit(after[:, 0], after[:, 1], 1)[0])
    yield (
        "service",
        {
            "requests": len(answers),
            "unanswered": sum(answer.status != 200 for answer in answers),
            "unlogged": len(ids) - sum(count == 1 for count in logged.values()),
            "memory_mb": float(after[-1, 1]),
            "growth_mb": slope * float(after[-1, 0] - after[0, 0]),
            "handles": int(after[-1, 2]),
            "more_handles": int(np.median(after[-10:, 2]) - np.median(after[:10, 2])),
            "warm_up": options["warm_up"],
            "looks": looks,
        },
    )


def _looks(
    process: psutil.Process, port: int | None, seconds: float
) -> Iterator[tuple[float, float, int]]:
    """Seconds since the beginning, memory in MB and open files, again and again."""
    began = time.monotonic()
    while (since := time.monotonic() - began) < seconds:
        lines = process.net_connections("tcp")
        clients = sum(bool(line.raddr) and line.laddr.port == port for line in lines)
        yield since, process.memory_info().rss / 1e6, process.num_fds() - clients
        time.sleep(PAUSE)


def draw(figures: Figures, name: str, folder: Path) -> list[Path]:
    """Memory and handles over time."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    looks = np.array(figures["service"]["looks"])
    drawing, panels = pyplot.subplots(2, 1, figsize=(10, 5), sharex=True, layout="constrained")
    for panel, column, text in ((panels[0], 1, "memory, MB"), (panels[1], 2, "open files")):
        panel.plot(looks[:, 0], looks[:, column], color=COLOURS[0])
        panel.axvline(figures["service"]["warm_up"], color=COLOURS[1], linestyle="--")
        panel.set_ylim(0, looks[:, column].max() * 1.2)
        panel.set_ylabel(text)
        panel.spines[["top", "right"]].set_visible(False)
    panels[1].set_xlabel("seconds")
    paths = []
    for ending in ("png", "svg"):
        path = folder / f"{name}.{ending}"
        with file_written_whole(path) as draft:
            drawing.savefig(draft, format=ending, dpi=150)
        paths.append(path)
    pyplot.close(drawing)
    return paths


def _service(figures: Figures) -> Mapping[str, Any]:
    return figures["service"]


WHOLE = [
    Said("every request is answered", lambda figures: not _service(figures)["unanswered"]),
    Said("every answer is in the log once", lambda figures: not _service(figures)["unlogged"]),
]
FLAT = [
    Said(
        f"memory grows by less than {GROWTH:g} MB once the service is warm",
        lambda figures: bool(_service(figures)["growth_mb"] < GROWTH),
    ),
    Said(
        "open files are as many at the end as once the service is warm",
        lambda figures: _service(figures)["more_handles"] <= 0,
    ),
]

BENCHMARKS = [
    Trial(
        "endurance",
        "memory and open files of the service under a steady load",
        run,
        sizes={
            "quick": Extent({"seconds": 20, "warm_up": 8, "seed": 1, "rate": 50}, WHOLE),
            "full": Extent(
                {"seconds": 600, "warm_up": 120, "seed": 1, "rate": 100}, [*WHOLE, *FLAT]
            ),
        },
        columns={
            "requests": lambda f: f"{f['requests']:,}",
            "unanswered": lambda f: f"{f['unanswered']:,}",
            "unlogged": lambda f: f"{f['unlogged']:,}",
            "memory": lambda f: f"{f['memory_mb']:,.0f} MB",
            "growth": lambda f: f"{f['growth_mb']:+.1f} MB",
            "open files": lambda f: f"{f['handles']}",
            "more of them": lambda f: f"{f['more_handles']:+d}",
        },
        draw=draw,
    )
]
