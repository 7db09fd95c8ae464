"""A day of the target fleet, every machine at every minute, to parquet: ours against Feast's.

Feast's store may not finish. So that the result of ours is compared with another's, plain DuckDB
does the bare join besides.
"""

from benchmarks import fleets
from benchmarks.benchmark import Benchmark, Size, under
from benchmarks.feast_stores import to_parquet
from benchmarks.plain import duckdb_to_parquet

OURS = "millwright"
SENSORS = {"features": 100, "minutes": 1, "hours_to_live": 24}
FULL = {"seed": 3, "machines": 1000, "days": 1, "views": {"sensors": SENSORS}, "cutoffs": "grid"}
# Every ten minutes: what Feast's store pairs grows with the square of the rows of a machine.
QUICK = {**FULL, "machines": 40, "views": {"sensors": {**SENSORS, "minutes": 10}}}

BENCHMARKS = [
    Benchmark(
        "target day",
        "every minute of every machine to parquet, 100 features",
        fleets.files,
        [to_parquet(OURS), duckdb_to_parquet(), to_parquet("feast duckdb", repeats=1)],
        key=["cutoff"],
        sizes={
            "quick": Size(QUICK),
            # 1,000 machines: 1.44 M rows, and as many cut-offs.
            "full": Size(FULL, claims=[under(OURS, seconds=30, memory_mb=3000)]),
        },
    )
]
