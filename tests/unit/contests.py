"""Benchmarks that take no time, for the tests of the harness."""

import subprocess
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.benchmark import Begin, Benchmark, Case, Contender, Measured, Size, faster, under


def rows() -> pa.Table:
    """Made when asked for: pyarrow imports pandas with it, which most processes can do without."""
    return pa.table({"key": [1, 2, 3, 4], "value": [0.5, None, 1.5, 2.5]})


def made(case: Case) -> None:
    pq.write_table(rows(), case.data / "rows.parquet")


def gives(result: Callable[[pa.Table], object], seconds: float = 0.0) -> Begin:
    def begin(case: Case) -> Callable[[], object]:
        rows = pq.read_table(case.data / "rows.parquet")

        def work() -> object:
            time.sleep(seconds)
            return result(rows)

        return work

    return begin


def dies(_: Case) -> Callable[[], object]:
    def work() -> None:
        raise MemoryError("no room for 5 GB")

    return work


def grows(_: Case) -> Callable[[], object]:
    def work() -> None:
        kept = []
        while True:
            kept.append(np.ones(5_000_000))

    return work


def waits(case: Case) -> Callable[[], object]:
    """Wait for a process of its own, whose id it leaves with the data."""

    def work() -> None:
        with subprocess.Popen(["sleep", "300"]) as child:
            (case.data / "sleeper").write_text(str(child.pid))

    return work


def checks_types(_: Case) -> Callable[[], object]:
    """Whether Feast minds what it is called with."""
    from feast import Entity
    from typeguard import TypeCheckError

    def work() -> pa.Table:
        try:
            Entity(name="machine", tags=["no dictionary"])
            checked = False
        except (TypeCheckError, ValueError) as err:
            checked = isinstance(err, TypeCheckError)
        return pa.table({"checked": [checked]})

    return work


OURS = Contender("ours", gives(lambda rows: rows))
BENCHMARKS = [
    Benchmark(
        "equal",
        "the same rows in another order, another frame, and later",
        made,
        [
            OURS,
            Contender("pandas", gives(lambda rows: rows.take([3, 2, 1, 0]).to_pandas(), 0.3)),
            Contender("afterwards", gives(lambda rows: lambda: rows), repeats=1),
        ],
        {
            "quick": Size(
                {},
                repeats=2,
                claims=[
                    faster("pandas", 2, ours="ours"),
                    faster("ours", 2, ours="pandas"),
                    under("ours", seconds=60),
                ],
            )
        },
        key=["key"],
    ),
    Benchmark(
        "unequal",
        "one value is another",
        made,
        [OURS, Contender("other", gives(lambda rows: rows.take([0, 1, 2, 2])))],
        {"quick": Size({}, repeats=1)},
    ),
    Benchmark(
        "endings",
        "none of them comes to its end",
        made,
        [
            Contender("fails", dies),
            Contender("grows", grows),
            Contender("waits", waits),
            Contender("ours", gives(lambda rows: rows)),
        ],
        {
            "quick": Size(
                {},
                repeats=1,
                seconds=3,
                memory_gb=0.4,
                claims=[faster("fails", 2, ours="ours")],
            )
        },
    ),
    Benchmark(
        "shipped",
        "one of two has Feast as it is shipped",
        lambda _: None,
        [
            Contender("shipped", checks_types, as_shipped=True),
            Contender("ours", checks_types),
        ],
        {"quick": Size({}, repeats=1)},
    ),
    Benchmark(
        "measured",
        "some have a clock of their own, and one has no result",
        made,
        [
            Contender("ours", gives(lambda rows: Measured(2.0, {"p99_ms": 1.5}, lambda: rows))),
            Contender("other", gives(lambda rows: Measured(8.0, {"p99_ms": 250.0}, rows))),
            Contender("nothing", gives(lambda _: Measured(1.0, {"p99_ms": 1.0}))),
        ],
        {"quick": Size({}, repeats=1)},
    ),
    Benchmark(
        "waiting",
        "its process and its server wait",
        made,
        [Contender("waits", waits)],
        {"quick": Size({})},
        servers=["redis"],
    ),
]
