"""Wrong input: one clear error on stderr, the right exit code, and nothing changed.

What can be known at once is told at once, before ZenML and what it brings along are imported.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from commands import Clone, Ended, ForkedClone, contents, rewrite

Rows = list[list[Any]]
Tables = dict[str, Rows]

FLEET = {
    "name": "plant",
    "step": "1h",
    "horizon": "24h",
    "lead_time": "4h",
    "test_window": "30d",
    "tables": {
        "telemetry": {"source": "readings", "machine": "id", "timestamp": "at"},
        "failures": {"source": "failures", "machine": "id", "timestamp": "at"},
        "machines": {"source": "machines", "machine": "id"},
    },
    "sensors": {"heat": {"range": [-50, 150]}, "noise": {}},
    "features": {"windows": ["3h"], "time_to_live": "48h"},
    "anomaly": {"fit_window": "30d"},
    "costs": {"failure": 20000, "planned_repair": 4000, "inspection": 500},
}
INGEST = ("--pipeline", "ingest", "--fleet", "plant")
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
# In seconds of a processor; a start of ZenML alone takes longer.
AT_ONCE = 5.0


def hour(number: int) -> str:
    return (BEGIN + timedelta(hours=number)).isoformat()


def good_tables() -> Tables:
    readings: Rows = [
        [machine, hour(n), 20 + n % 24, 1.5] for machine in ("A", "B") for n in range(48)
    ]
    return {
        "readings": [["id", "at", "heat", "noise"], *readings],
        "failures": [["id", "at"], ["A", hour(40)]],
        "machines": [["id"], ["A"], ["B"]],
    }


def write(tables: Mapping[str, Sequence[Sequence[Any]]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    return folder


@pytest.fixture(scope="module")
def plant(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The project with a fleet file for the plant."""
    fleets = tmp_path_factory.mktemp("fleets")
    text = yaml.safe_dump(FLEET, sort_keys=False)
    (fleets / "plant.yaml").write_text(text, encoding="utf-8")
    return clone.with_fleets(fleets)


@pytest.fixture(scope="module")
def working(forked: ForkedClone, plant: Clone) -> ForkedClone:
    """The same, for runs that have work to do."""
    return forked.with_fleets(plant.fleets)


@pytest.fixture(scope="module")
def home(working: ForkedClone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home into which the good tables were taken."""
    folder = tmp_path_factory.mktemp("settled")
    ended = working.run(
        folder / "home", *INGEST, "--data", str(write(good_tables(), folder / "in"))
    )
    assert ended.code == 0, ended.stderr
    assert ended.summary["status"] == "done"
    return folder / "home"


def refused_at_once(project: Clone, home: Path, *words: str) -> str:
    """Run a command that must fail at once and change nothing; gives its error."""
    before = contents(home) if home.is_dir() else {}
    ended = project.run(home, *words)
    assert ended.code == 2, ended.stderr
    assert ended.stdout == ""
    assert ended.summary["status"] == "failed"
    assert ended.stderr == f"error: {ended.summary['error']}\n"
    assert ended.error
    assert ended.cpu < AT_ONCE
    assert (contents(home) if home.is_dir() else {}) == before
    return str(ended.summary["error"])


def without_failures(folder: Path) -> None:
    (folder / "failures.csv").rename(folder / "failure.csv")


def with_another_column(folder: Path) -> None:
    tables = good_tables()
    tables["readings"][0][2] = "heta"
    write(tables, folder)


def with_an_empty_file(folder: Path) -> None:
    (folder / "readings.csv").write_bytes(b"")


def with_half_a_parquet_file(folder: Path) -> None:
    header, *rows = good_tables()["readings"]
    columns = {
        name: list(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)
    }
    pq.write_table(pa.table(columns), folder / "readings.parquet")
    (folder / "readings.csv").unlink()
    whole = (folder / "readings.parquet").read_bytes()
    (folder / "readings.parquet").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_failures, ["'failures'", "tables.failures.source", "did you mean 'failure'?"]),
        (with_another_column, ["'heat'", "readings.csv", "did you mean 'heta'?"]),
        (with_an_empty_file, ["readings.csv is empty", "column names"]),
        (with_half_a_parquet_file, ["cannot read", "readings.parquet", "restore the file"]),
    ],
)
def test_a_source_that_is_not_whole_is_refused_at_once(
    plant: Clone, home: Path, tmp_path: Path, spoil: Callable[[Path], None], said: list[str]
) -> None:
    data = write(good_tables(), tmp_path / "data")
    spoil(data)
    error = refused_at_once(plant, home, *INGEST, "--data", str(data))
    for words in said:
        assert words in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pipeline", "trainning"), ["no pipeline 'trainning'", "did you mean 'training'?"]),
        (("--pipeline", "features", "--fleet", "plan"), ["no fleet", "did you mean 'plant'?"]),
        ((*INGEST, "--stack", "locale"), ["no environment", "did you mean 'local'?"]),
        ((*INGEST, "--dat", "x"), ["no option '--dat'", "did you mean '--data'?"]),
        ((*INGEST, "--data", "/nowhere/at/all"), ["/nowhere/at/all", "name the folder"]),
        ((*INGEST, "--data", "orcle://x/y"), ["orcle://", "postgresql://"]),
    ],
)
def test_a_misspelt_option_is_told_at_once(
    plant: Clone, home: Path, words: tuple[str, ...], said: list[str]
) -> None:
    error = refused_at_once(plant, home, *words)
    for text in said:
        assert text in error


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("fleets/plant.yaml", "lead_time:", "led_time:"),
        ("project/configs/environments/local/settings.yaml", "report_rows:", "report_row:"),
        ("project/configs/environments/local/stack.yaml", "stack_name:", "stack_nam:"),
        ("project/configs/pipelines/training.yaml", "seed:", "sed:"),
        ("project/configs/pipelines/gate.yaml", "minimum_roc_auc:", "minimum_roc:"),
    ],
)
def test_a_misspelt_key_is_told_with_its_file_and_line(
    plant: Clone, tmp_path: Path, file: str, old: str, new: str
) -> None:
    project, path = plant.copy(tmp_path), tmp_path / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    line = text[: text.index(old)].count("\n") + 1
    words = ("--pipeline", "training", "--fleet", "plant")
    error = refused_at_once(project, tmp_path / "home", *words)
    assert f"{file.rpartition('/')[2]}:{line}: unknown key '{new[:-1]}'" in error
    assert f"did you mean '{old[:-1]}'?" in error


def test_a_sensor_named_twice_is_refused(plant: Clone, tmp_path: Path) -> None:
    project = plant.copy(tmp_path)
    path = project.fleets / "plant.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("  noise: {}", "  noise: {}\n  heat: {}"), encoding="utf-8")
    assert "'heat' is named twice" in refused_at_once(project, tmp_path / "home", *INGEST)

    rewrite(path, sensors={"heat": {}, "warmth": {"column": "heat"}})
    error = refused_at_once(project, tmp_path / "home", *INGEST)
    assert "'heat' and 'warmth' both read column 'heat'" in error


def test_a_home_that_cannot_be_written_is_told_at_once(plant: Clone, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    data = write(good_tables(), tmp_path / "data")
    process = plant.start(tmp_path / "file", *INGEST, "--data", str(data))
    ended = plant.finish(process, tmp_path)
    assert ended.code == 2
    assert str(tmp_path / "file") in ended.error
    assert "MILLWRIGHT_HOME" in ended.error
    assert ended.cpu < AT_ONCE


def test_a_summary_that_cannot_be_written_is_told_before_the_work(
    plant: Clone, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    words = ("--pipeline", "features", "--fleet", "plant", "--json", str(tmp_path / "file" / "x"))
    ended = plant.finish(plant.start(home, *words), home)
    assert ended.code == 2
    assert "--json" in ended.error
    assert ended.cpu < AT_ONCE


def test_a_fleet_without_data_says_how_to_name_it(working: ForkedClone, tmp_path: Path) -> None:
    ended = working.run(tmp_path / "home", "--pipeline", "training", "--fleet", "plant")
    assert ended.code == 2
    assert "nothing was ingested for fleet 'plant' yet" in ended.error
    assert "--data" in ended.error
    assert not (tmp_path / "home" / "zenml").exists()


# Each row of telemetry with the reason that refuses it.
BAD_ROWS = [
    (["A", hour(50), "hot", 1], "not_a_number"),
    (["A", hour(51), "NaN", 1], "not_finite"),
    (["A", hour(52), "inf", 1], "not_finite"),
    (["A", hour(53), "-inf", 1], "not_finite"),
    (["A", hour(54), "1e9", 1], "out_of_range"),
    (["A", "2025-01-03 07:00:00", 20, 1], "naive_timestamp"),
    (["A", "yesterday", 20, 1], "bad_timestamp"),
    (["A", "2999-01-01T00:00:00Z", 20, 1], "future_timestamp"),
    (["ghost", hour(55), 20, 1], "unknown_machine"),
    (["A", hour(56), 20, 1], "conflicting_duplicate"),
    (["A", hour(56), 30, 1], "conflicting_duplicate"),
]


@pytest.fixture(scope="module")
def refused(working: ForkedClone, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An ingest of which every row is bad, or known already, and the raw store before it."""
    tables = good_tables()
    tables["readings"] += [row for row, _ in BAD_ROWS]
    before = contents(home / "local" / "plant" / "raw")
    data = write(tables, tmp_path_factory.mktemp("refused") / "data")
    return working.run(home, *INGEST, "--data", str(data)), before


def test_bad_rows_go_to_quarantine_and_change_nothing(home: Path, refused: Any) -> None:
    ended, before = refused
    assert ended.code == 3, ended.stderr
    assert ended.summary["status"] == "refused"
    assert "Traceback" not in ended.stderr
    assert ended.summary["tables"]["telemetry"]["new"] == 0
    assert contents(home / "local" / "plant" / "raw") == before


def test_each_bad_row_is_kept_with_its_reason(refused: Any) -> None:
    ended, _ = refused
    expected = [reason for _, reason in BAD_ROWS]
    counted = {reason: expected.count(reason) for reason in set(expected)}
    assert ended.summary["reasons"] == counted
    assert ended.summary["refused"] == len(BAD_ROWS)
    (file,) = ended.summary["quarantine"]
    assert file in ended.stdout
    kept = pq.read_table(file).to_pylist()
    assert sorted((row["id"], row["heat"], row["reason"]) for row in kept) == sorted(
        (row[0], str(row[2]), reason) for row, reason in BAD_ROWS
    )


def test_good_rows_beside_bad_ones_are_taken_in_once(
    working: ForkedClone, home: Path, refused: Ended, tmp_path: Path
) -> None:
    tables = good_tables()
    new = ["B", hour(60), 21, 2]
    tables["readings"] += [new, list(new), ["B", hour(61), "", ""]]
    ended = working.run(home, *INGEST, "--data", str(write(tables, tmp_path / "data")))
    assert ended.code == 3, ended.stderr
    assert ended.summary["reasons"] == {"duplicate_row": 1, "no_reading": 1}
    assert ended.summary["tables"]["telemetry"]["new"] == 1
    assert ended.summary["tables"]["telemetry"]["unchanged"] == 96
