"""Ours against what does nothing but the join: plain DuckDB and plain polars, on the same files.

Polars has to be given rows in order of time, and the one that is held against ours sorts them. A
store cannot know that its files are in order; what polars gains by being told is shown besides.
"""

from benchmarks import fleets
from benchmarks.benchmark import Benchmark, Size, faster
from benchmarks.feast_stores import to_frame
from benchmarks.joins import FULL, QUICK
from benchmarks.plain import (
    duckdb_to_frame,
    polars_to_frame,
    polars_to_its_frame,
    polars_told_the_order,
)

OURS = "millwright"

BENCHMARKS = [
    Benchmark(
        "floor",
        "features of random cut-offs to a frame, against the bare join",
        fleets.files,
        [
            to_frame(OURS),
            duckdb_to_frame(),
            polars_to_frame(),
            polars_told_the_order(),
            polars_to_its_frame(),
        ],
        key=["cutoff"],
        sizes={
            "quick": Size({**QUICK, "cutoffs": 50_000}),
            "full": Size(
                {**FULL, "cutoffs": 1_000_000},
                claims=[
                    faster("plain duckdb", 0.5, ours=OURS),
                    faster("plain polars", 0.5, ours=OURS),
                ],
            ),
        },
    )
]
