"""A fleet of another shape, from a new YAML file and CSV files alone: no code knows it.

Turbines that run until they fail: 21 sensors, cycles in place of a clock, ids that are text, and
neither errors nor maintenance nor anything known about a machine.
"""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from commands import Ended, ForkedClone

TURBINES, SENSORS = 60, 21
FLEET = {
    "name": "turbines",
    "step": "1 cycle",
    "horizon": "20 cycles",
    "lead_time": "5 cycles",
    "test_window": "60 cycles",
    "tables": {
        "telemetry": {"source": "flights", "machine": "tail", "timestamp": "flight"},
        "failures": {"source": "removals", "machine": "tail", "timestamp": "flight"},
    },
    "sensors": {f"s{number}": {} for number in range(1, SENSORS + 1)},
    "features": {
        "windows": ["5 cycles", "30 cycles"],
        "statistics": ["mean", "std", "slope"],
        "time_to_live": "10 cycles",
    },
    "anomaly": {"fit_window": "50 cycles"},
    "costs": {"failure": 20000, "planned_repair": 4000, "inspection": 500},
}


@pytest.fixture(scope="module")
def run(forked: ForkedClone, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A training run of the turbines."""
    folder = tmp_path_factory.mktemp("turbines")
    write_tables(folder / "data", np.random.default_rng(11))
    (folder / "fleets").mkdir()
    text = yaml.safe_dump(FLEET, sort_keys=False)
    (folder / "fleets" / "turbines.yaml").write_text(text, encoding="utf-8")
    settled = forked.with_fleets(folder / "fleets")
    words = ("--pipeline", "training", "--fleet", "turbines", "--data", str(folder / "data"))
    return settled.run(folder / "home", *words)


def write_tables(folder: Path, rng: np.random.Generator) -> None:
    """Turbines that fail after 150 to 300 flights; a third of the sensors show the last 40."""
    folder.mkdir()
    lives = {f"N{100 + number}-QX": int(rng.integers(150, 301)) for number in range(TURBINES)}
    with (folder / "flights.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["tail", "flight", *FLEET["sensors"]])
        for tail, life in lives.items():
            wear = np.exp(-(life - np.arange(1, life + 1)) / 15)[:, None]
            shown = np.where(np.arange(SENSORS) % 3 == 0, rng.uniform(2, 4, SENSORS), 0)
            readings = 100 + rng.normal(size=(life, SENSORS)) + wear * shown
            for flight, row in enumerate(readings.round(4).tolist(), start=1):
                writer.writerow([tail, flight, *row])
    with (folder / "removals.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["tail", "flight"], *lives.items()])


def test_training_ends_with_a_judgement_on_the_model(run: Ended) -> None:
    assert run.code == {"promoted": 0, "refused": 3}[run.summary["status"]], run.stderr
    assert run.summary["scores"]["failures"] >= 5
    assert run.summary["scores"]["average_precision"] > 0.3
    assert run.summary["model"]["name"] == "turbines_failure"


def test_no_row_is_lost_on_the_way(run: Ended) -> None:
    rows = {view["view"]: view["rows"] for view in run.summary["views"]}
    assert set(rows) == {"sensor_step", "sensor_window_5c", "sensor_window_30c", "anomaly"}
    batches = Path(run.home, "local", "turbines", "raw", "batches").glob("*.json")
    (batch,) = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in batches]
    telemetry = sum(piece["rows"] for piece in batch["files"] if piece["table"] == "telemetry")
    assert rows["sensor_step"] == telemetry
    assert run.summary["refused"] == 0


def test_features_are_named_in_cycles(run: Ended) -> None:
    tables = Path(run.home, "local", "turbines", "offline")
    named = {
        view.name: set(pq.read_schema(next(view.glob("*.parquet"))).names)
        for view in tables.iterdir()
        if view.is_dir() and not view.name.startswith(".")
    }
    assert {"s1_mean_1c", "s21_mean_1c"} <= named["sensor_step"]
    assert {"s1_slope_5c", "s21_std_5c"} <= named["sensor_window_5c"]
    assert {"s7_mean_30c", "s7_slope_30c"} <= named["sensor_window_30c"]
    assert len(named["sensor_window_30c"]) == 3 * SENSORS + 3


def test_machines_keep_the_ids_that_their_records_give_them(run: Ended) -> None:
    step = Path(run.home, "local", "turbines", "offline", "sensor_step")
    tails = set().union(
        *(pq.read_table(path)["machine_id"].to_pylist() for path in step.glob("*.parquet"))
    )
    assert len(tails) == TURBINES
    assert "N100-QX" in tails
