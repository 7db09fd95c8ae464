"""The same store with more and more history: how the cost of the same cut-offs grows.

The history grows into the past, so the results of all contenders are the same, and are compared.
"""

from itertools import pairwise
from math import log

from benchmarks import fleets
from benchmarks.benchmark import Benchmark, Claim, Figures, Size
from benchmarks.feast_stores import to_frame
from benchmarks.joins import VIEWS

STORE = "millwright"
TIMES = (1, 3, 10)
NAMES = {times: f"history x {times}" for times in TIMES}


FULL, QUICK = (1000, 90), (100, 30)  # machines, and days of the shortest history


def _claim(rows: int) -> Claim:
    """From each history to the next, seconds grow at most as n log n does."""

    def holds(figures: Figures) -> bool | None:
        seconds = [figures[NAMES[times]].seconds for times in TIMES]
        costs = [times * rows * log(times * rows) for times in TIMES]
        pairs = list(zip(seconds, costs, strict=True))
        if None in seconds:
            return None
        return all(
            (later or 0) / (sooner or 1) <= more / less
            for (sooner, less), (later, more) in pairwise(pairs)
        )

    return Claim("seconds grow no faster than n log n", holds)


def _remark(figures: Figures, rows: int) -> str:
    first, last = (figures[NAMES[times]].seconds or 0.0 for times in (1, TIMES[-1]))
    reference = 1 + log(1 + log(TIMES[-1]) / log(rows)) / log(TIMES[-1])
    return (
        f"seconds grow with the {log(last / first) / log(TIMES[-1]):.2f}th power of the rows; "
        f"n log n would be {reference:.2f}"
    )


def _size(machines: int, days: int, cutoffs: int, *, claimed: bool) -> Size:
    rows = sum(machines * days * 1440 // view["minutes"] for view in VIEWS.values())
    return Size(
        {
            "seed": 4, "machines": machines, "days": days, "views": VIEWS, "cutoffs": cutoffs,
            "history": TIMES[-1],
        },
        claims=[_claim(rows)] if claimed else [],
        remark=lambda figures: _remark(figures, rows),
    )  # fmt: skip


BENCHMARKS = [
    Benchmark(
        "growth",
        "the same cut-offs with 1, 3 and 10 times the history, to a frame",
        fleets.files,
        [to_frame(STORE, NAMES[times], newest=times) for times in TIMES],
        sizes={
            "quick": _size(*QUICK, 50_000, claimed=False),
            "full": _size(*FULL, 1_000_000, claimed=True),
        },
    )
]
