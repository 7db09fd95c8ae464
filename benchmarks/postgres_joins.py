"""Training sets of random cut-offs from PostgreSQL: ours against Feast's postgres store."""

import shutil

import pyarrow.parquet as pq

from benchmarks import fleets
from benchmarks.benchmark import Benchmark, Case, Size, faster
from benchmarks.feast_stores import opened, to_frame
from benchmarks.joins import FULL, QUICK
from millwright.stores.postgres import AsofPostgresOfflineStore

OURS = "millwright postgres"


def tables(case: Case) -> None:
    """The fleet in PostgreSQL, written by our store, which makes the table and its index."""
    fleets.files(case)
    for folder, prefix in ((case.data, ""), (case.data / "tiny", "tiny_")):
        store = opened(OURS, case, case.scratch / f"load_{prefix}", prefix)
        for view in store.list_feature_views():
            for file in (folder / view.name).iterdir():
                rows = pq.read_table(file)
                AsofPostgresOfflineStore.offline_write_batch(store.config, view, rows, None)
            shutil.rmtree(folder / view.name)


BENCHMARKS = [
    Benchmark(
        "postgres joins",
        "features of random cut-offs to a frame, against Feast's postgres store",
        tables,
        [to_frame(OURS), to_frame("feast postgres", repeats=1)],
        key=["cutoff"],
        servers=["postgres"],
        sizes={
            "quick": Size({**QUICK, "cutoffs": 5_000}),
            "full": Size(
                {**FULL, "cutoffs": 100_000}, claims=[faster("feast postgres", 15, ours=OURS)]
            ),
        },
    )
]
