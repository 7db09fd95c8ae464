"""Training sets of random cut-offs from parquet: ours against Feast's duckdb and dask stores."""

from benchmarks import fleets
from benchmarks.benchmark import Benchmark, Size, faster, leaner
from benchmarks.feast_stores import to_frame

OURS = "millwright"
VIEWS = {
    "sensors": {"features": 20, "minutes": 60, "hours_to_live": 24},
    "days": {"features": 10, "minutes": 1440, "hours_to_live": 48},
}
# 1,000 machines over 90 days: 2.16 M rows hourly and 90 k daily.
FULL = {"seed": 1, "machines": 1000, "days": 90, "views": VIEWS}
QUICK = {"seed": 1, "machines": 100, "days": 30, "views": VIEWS}

BENCHMARKS = [
    Benchmark(
        "joins",
        "features of random cut-offs to a frame, against Feast's duckdb store",
        fleets.files,
        [to_frame(OURS), to_frame("feast duckdb")],
        key=["cutoff"],
        sizes={
            "quick": Size({**QUICK, "cutoffs": 50_000}),
            "full": Size(
                {**FULL, "cutoffs": 1_000_000},
                claims=[
                    faster("feast duckdb", 8, ours=OURS),
                    leaner("feast duckdb", 4, ours=OURS),
                ],
            ),
        },
    ),
    Benchmark(
        "joins dask",
        "features of random cut-offs to a frame, against Feast's dask store",
        fleets.files,
        [to_frame(OURS), to_frame("feast dask", repeats=1)],
        key=["cutoff"],
        sizes={
            "quick": Size({**QUICK, "cutoffs": 1_000}),
            "full": Size({**FULL, "cutoffs": 10_000}, claims=[faster("feast dask", 30, ours=OURS)]),
        },
    ),
]
