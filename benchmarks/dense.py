"""Every machine at every step, as training asks: ours against Feast's duckdb store."""

from benchmarks import fleets
from benchmarks.benchmark import Benchmark, Size, under
from benchmarks.feast_stores import to_frame

OURS = "millwright"
VIEWS = {"sensors": {"features": 40, "minutes": 60, "hours_to_live": 24}}

BENCHMARKS = [
    Benchmark(
        "dense",
        "every hour of every machine to a frame, 40 features",
        fleets.files,
        [to_frame(OURS), to_frame("feast duckdb", repeats=1)],
        key=["cutoff"],
        sizes={
            "quick": Size(
                {"seed": 2, "machines": 20, "days": 60, "views": VIEWS, "cutoffs": "grid"}
            ),
            # 100 machines: 876,000 rows, and as many cut-offs.
            "full": Size(
                {"seed": 2, "machines": 100, "days": 365, "views": VIEWS, "cutoffs": "grid"},
                claims=[under(OURS, seconds=10)],
            ),
        },
    )
]
