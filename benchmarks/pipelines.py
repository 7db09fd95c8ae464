"""The pipelines ingest and features on a day of a fleet's readings, against a plain script.

`millwright` is the library that the steps of the two pipelines call; `millwright, as typed` is the
two commands, with ZenML, Feast's apply, the data report and the online store. The anomaly score is
on neither side: a day is shorter than the window that its detector is fitted to. No reading is
late, because the script knows no versions.
"""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import simulated
from benchmarks.benchmark import Benchmark, Case, Contender, Size, faster, under
from millwright.fleet import load_fleet
from millwright.settings import REPOSITORY

OURS, TYPED, PLAIN = "millwright", "millwright, as typed", "plain polars"
FLEET, TINY = "target", "tiny"
RANGES = ([0, 400], [0, 1000], [0, 300], [0, 150])
# What the plain script makes, and all that ours does on such a day.
VIEWS = (
    "sensor_step", "sensor_window_3h", "sensor_window_24h", "error_counts_24h", "component_age",
    "machine_attributes",
)  # fmt: skip
TABLES = {
    "telemetry": ["machine_id", "timestamp"],
    "errors": ["machine_id", "timestamp", "code"],
    "maintenance": ["machine_id", "timestamp", "component"],
    "failures": ["machine_id", "timestamp", "component"],
    "machines": ["machine_id"],
}


def make(case: Case) -> None:
    """A day of a fleet of many sensors, and a month of a small one to warm up with."""
    sensors = range(case.options["sensors"])
    large = {
        "machines": case.options["machines"],
        "days": 1,
        "reading_interval": case.options["every"],
    }
    small = {"machines": 10, "days": 30, "reading_interval": "1h"}  # long enough for a failure
    for name, partition, size in ((FLEET, "day", large), (TINY, "month", small)):
        said = {
            **simulated.description(),
            "partition": partition,
            "sensors": {f"s{n:03}": {"range": RANGES[n % len(RANGES)]} for n in sensors},
            "simulation": {
                **size,
                "start": "2025-01-01",
                "seed": case.options["seed"],
                "gap_share": 0.002,
            },
        }
        simulated.make(case, name, said)


def _ours(case: Case) -> Callable[[], object]:
    from millwright.ingest import ingest
    from millwright.project import open_project
    from millwright.sources import open_source

    def run(name: str) -> None:
        project = open_project(name, "local")
        ingest(
            project.fleet,
            open_source(case.data / name, project.fleet),
            project.raw,
            project.state.quarantine(name),
            project.settings.engine,
            now=datetime.now(UTC),
        )
        project.offline.update()

    simulated.at_home(case)
    run(TINY)

    def work() -> object:
        run(FLEET)
        return lambda: _made(case)

    return work


def _typed(case: Case) -> Callable[[], object]:
    simulated.at_home(case)

    def typed(*words: str) -> None:
        subprocess.run(
            [sys.executable, str(REPOSITORY / "run.py"), "--fleet", FLEET, *words], check=True
        )

    def work() -> object:
        typed("--pipeline", "ingest", "--data", str(case.data / FLEET))
        typed("--pipeline", "features")
        return lambda: _made(case)

    return work


def _plain(case: Case) -> Callable[[], object]:
    from benchmarks.plain_pipelines import ingest_and_features

    simulated.at_home(case)
    ingest_and_features(load_fleet(TINY), case.data / TINY, case.scratch / TINY)
    folder = case.scratch / FLEET

    def work() -> object:
        ingest_and_features(load_fleet(FLEET), case.data / FLEET, folder)
        tables = {table: folder / "raw" / table for table in TABLES}
        return {**tables, **{view: folder / f"{view}.parquet" for view in VIEWS}}

    return work


def _made(case: Case) -> dict[str, Path]:
    """The raw rows and the features that ours has made."""
    folder = case.scratch / "home" / "local" / FLEET
    views = {view: folder / "offline" / view for view in VIEWS}
    return {**{table: folder / "raw" / table for table in TABLES}, **views}


_FULL: dict[str, Any] = {"seed": 7, "sensors": 100, "machines": 1000, "every": "1min"}

BENCHMARKS = [
    Benchmark(
        "pipelines",
        "a day of readings of every minute to raw store and features, 100 sensors",
        make,
        [
            Contender(OURS, _ours),
            Contender(PLAIN, _plain),
            Contender(TYPED, _typed, repeats=1),
        ],
        sizes={
            "quick": Size({**_FULL, "machines": 30}, repeats=1),
            # 1.44 M rows of 100 readings.
            "full": Size(
                _FULL,
                claims=[faster(PLAIN, 0.5, ours=OURS), under(OURS, memory_mb=3000)],
            ),
        },
        key={**TABLES, **{view: ["machine_id", "event_timestamp"] for view in VIEWS}},
        tolerance=1e-5,
    )
]
