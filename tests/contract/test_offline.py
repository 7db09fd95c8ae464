"""The offline store over a real raw store: whatever comes, its files follow from the raw rows."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_oracle import Oracle, Row

from millwright import detectors, engine
from millwright.engine import DuckDBEngine
from millwright.errors import DataError, MillwrightError
from millwright.fleet import Fleet
from millwright.ingest import ingest
from millwright.offline import OfflineStore
from millwright.parquet_warehouse import ParquetWarehouse
from millwright.raw_store import RawStore
from millwright.settings import REPOSITORY, Engine
from millwright.sources import FolderSource
from millwright.view_files import ViewFiles
from millwright.views import feature_views
from millwright.warehouse import Rows

START = datetime(2025, 1, 29, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAYS = 5
MACHINES = ("1", "2", "3", "4")
INSTANT = pa.timestamp("us", tz="UTC")
# Up to when each batch knows: before the detector can be fitted, at a month's end, and after.
CUTS = tuple(START + timedelta(hours=hours) for hours in (40, 71, 90, 24 * DAYS + 48))


def make_fleet(**changes: object) -> Fleet:
    def table(name: str, **columns: str) -> dict[str, str]:
        timed = {"timestamp": "timestamp"} if name != "machines" else {}
        return {
            "source": name, "machine": "machine_id", "received": "received", **timed, **columns
        }  # fmt: skip

    return Fleet.model_validate(
        {
            "name": "tiny",
            "step": "1h",
            "horizon": "6h",
            "lead_time": "1h",
            "test_window": "1d",
            "tables": {
                "telemetry": table("telemetry"),
                "errors": table("errors", code="code"),
                "maintenance": table("maintenance", component="component"),
                "failures": table("failures", component="component"),
                "machines": table("machines"),
            },
            "sensors": {"load": {}},
            "error_codes": ["hot", "loud"],
            "components": ["belt", "pump"],
            "attributes": {"age": {"type": "number"}},
            "features": {
                "windows": ["3h", "6h"],
                "statistics": ["mean", "std", "slope"],
                "error_windows": ["4h"],
                "time_to_live": "48h",
            },
            "anomaly": {"fit_window": "2d"},
            "costs": {"failure": 1, "planned_repair": 1, "inspection": 1},
            **changes,
        }
    )


SCHEMAS = {
    "telemetry": {"load": pa.float64()},
    "errors": {"code": pa.string()},
    "maintenance": {"component": pa.string()},
    "failures": {"component": pa.string()},
    "machines": {"age": pa.float64()},
}

Tables = dict[str, list[dict[str, object]]]


def entry(machine: str, at: timedelta, late: timedelta = 0 * HOUR, **says: object) -> dict:
    time = START + at
    return {"machine_id": machine, "timestamp": time, "received": time + late, **says}


def history() -> Tables:
    """Five days of three machines, over the end of a month, with late rows and corrections."""
    chance = random.Random(7)
    tables: Tables = {name: [] for name in SCHEMAS}

    def lateness() -> timedelta:
        return HOUR * chance.uniform(1, 40) if chance.random() < 0.05 else 0 * HOUR

    for machine in MACHINES:
        for hour in range(24 * DAYS):
            for minutes in (30, 45)[: chance.choice((0, 1, 1, 1, 1, 1, 1, 2))]:
                at = timedelta(hours=hour, minutes=minutes)
                for late in (lateness(), HOUR * chance.uniform(41, 80))[: 1 + (hour % 31 == 0)]:
                    reading = round(chance.gauss(100, 5), 3) if chance.random() < 0.98 else None
                    if reading is not None:
                        tables["telemetry"].append(entry(machine, at, late, load=reading))
            at = HOUR * (hour + chance.random())
            if chance.random() < 0.1:
                code = chance.choice(("hot", "loud"))
                tables["errors"].append(entry(machine, at, lateness(), code=code))
            if chance.random() < 0.05:
                part = chance.choice(("belt", "pump"))
                tables["maintenance"].append(entry(machine, at, lateness(), component=part))
        tables["failures"].append(entry(machine, HOUR * (7 + 13 * int(machine)), component="belt"))
        tables["machines"].append(entry(machine, -HOUR, age=float(machine)))
    # This failure, within the fit window, is known long after it: the detector must not know it.
    tables["failures"].append(entry("1", 30 * HOUR, 50 * HOUR, component="pump"))
    return tables


def batch_of(tables: Tables, after: datetime | None, until: datetime) -> Tables:
    return {
        name: [r for r in rows if r["received"] <= until and (not after or r["received"] > after)]
        for name, rows in tables.items()
    }


def bring(tables: Tables, raw: Path, fleet: Fleet) -> None:
    """Ingest rows as one batch."""
    folder = raw.with_name(f"{raw.name}-incoming")
    folder.mkdir(parents=True, exist_ok=True)
    for name, own in SCHEMAS.items():
        timed = {"timestamp": INSTANT} if name != "machines" else {}
        types = {"machine_id": pa.string(), **timed, "received": INSTANT, **own}
        rows = [{key: row[key] for key in types} for row in tables.get(name, [])]
        pq.write_table(
            pa.Table.from_pylist(rows, schema=pa.schema(types)), folder / f"{name}.parquet"
        )
    result = ingest(
        fleet,
        FolderSource(folder, fleet),
        RawStore(raw, fleet),
        raw.with_name(f"{raw.name}-quarantine"),
        Engine(),
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert result.batch
    assert not result.refused


def store(place: Path, raw: Path, fleet: Fleet, threads: int = 1) -> OfflineStore:
    rows = RawStore(raw, fleet)
    warehouse = ParquetWarehouse(place / "offline", fleet, rows, Engine(threads=threads))
    return OfflineStore(warehouse, place / "detectors", fleet, rows, threads)


def files(place: Path) -> dict[str, bytes]:
    folder = place / "offline"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def table(place: Path, view: str) -> pd.DataFrame:
    """The rows of a view, indexed by machine, event and creation."""
    parts = [pq.read_table(path) for path in sorted((place / "offline" / view).glob("*.parquet"))]
    if not parts:
        return pd.DataFrame()
    frame = pa.concat_tables(parts).to_pandas()
    return frame.set_index(["machine_id", "event_timestamp", "created_timestamp"])


@dataclass(frozen=True)
class Stage:
    """The stores after one batch."""

    cut: datetime
    raw: Path
    place: Path
    made: dict[str, tuple[str, ...]]
    detector: str | None


@dataclass(frozen=True)
class Course:
    """A fleet whose batches came one after the other, and its store made at once at the end."""

    fleet: Fleet
    stages: Sequence[Stage]
    whole: Path

    @property
    def last(self) -> Stage:
        return self.stages[-1]


def run_course(folder: Path, fleet: Fleet) -> Course:
    raw, place = folder / "raw", folder / "store"
    stages, before = [], None
    for number, cut in enumerate(CUTS):
        bring(batch_of(history(), before, cut), raw, fleet)
        opened = store(place, raw, fleet)
        made = {built.view: built.made for built in opened.update()}
        copies = folder / f"raw-{number}", folder / f"store-{number}"
        shutil.copytree(raw, copies[0])
        shutil.copytree(place, copies[1])
        stages.append(Stage(cut, *copies, made, opened.detector_version()))
        before = cut
    whole = folder / "whole"
    store(whole, raw, fleet, threads=2).update()
    return Course(fleet, stages, whole)


@pytest.fixture(scope="module")
def monthly(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return run_course(tmp_path_factory.mktemp("monthly"), make_fleet())


@pytest.fixture(scope="module")
def daily(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return run_course(tmp_path_factory.mktemp("daily"), make_fleet(partition="day"))


@pytest.fixture
def stage(daily: Course, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the finished daily stores, to change: the raw and the offline one."""
    raw, place = tmp_path / "raw", tmp_path / "store"
    shutil.copytree(daily.last.raw, raw)
    shutil.copytree(daily.last.place, place)
    return raw, place


@pytest.mark.parametrize("partition", ["monthly", "daily"])
def test_batches_one_by_one_make_the_same_files_as_all_at_once_on_two_threads(
    partition: str, request: pytest.FixtureRequest
) -> None:
    course: Course = request.getfixturevalue(partition)
    assert files(course.last.place) == files(course.whole)
    scores = table(course.whole, "anomaly")
    assert len(scores) > 100


def test_machines_computed_in_groups_make_the_same_files(
    monthly: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Mock(wraps=DuckDBEngine._by_group)
    monkeypatch.setattr(DuckDBEngine, "_by_group", lambda *given: groups(*given))
    monkeypatch.setattr(engine, "_VALUES_AT_ONCE", 200)
    store(tmp_path, monthly.last.raw, monthly.fleet).update()
    assert max(len(call.args[2]) for call in groups.call_args_list) == len(MACHINES)
    assert files(tmp_path) == files(monthly.whole)


@pytest.mark.parametrize("partition", ["monthly", "daily"])
def test_the_files_hold_what_plain_python_says_of_all_raw_rows(
    partition: str, request: pytest.FixtureRequest
) -> None:
    course: Course = request.getfixturevalue(partition)
    raw = {
        name: [
            Row(
                row["machine_id"],
                row["timestamp"],
                row["received"],
                row.get("code", row.get("component", "")),
                {key: row[key] for key in ("load", "age") if key in row},
            )
            for row in rows
            if row["machine_id"] == "3"
        ]
        for name, rows in history().items()
        if name != "failures"
    }
    oracle = Oracle(course.fleet, **raw)
    for view in feature_views(course.fleet)[:-1]:
        found = table(course.whole, view.name).loc[["3"]]
        expected = pd.DataFrame.from_dict(oracle.table(view), orient="index", dtype="float32")
        expected.index.names = found.index.names
        pd.testing.assert_frame_equal(
            found, expected.sort_index(), rtol=1e-6, atol=1e-6, check_index_type=False
        )


def test_there_is_no_file_without_rows(daily: Course) -> None:
    for path in (daily.whole / "offline").rglob("*.parquet"):
        assert pq.read_metadata(path).num_rows, path


def test_late_rows_make_earlier_periods_again(monthly: Course) -> None:
    assert monthly.stages[0].made["sensor_window_6h"] == ("2025-01",)
    assert monthly.stages[2].made["sensor_window_6h"] == ("2025-01", "2025-02")


@pytest.mark.parametrize("partition", ["monthly", "daily"])
def test_published_rows_stay_as_they_were(partition: str, request: pytest.FixtureRequest) -> None:
    course: Course = request.getfixturevalue(partition)
    views = [path.name for path in (course.whole / "offline").iterdir()]
    assert "component_age" in views
    for earlier in course.stages[:-1]:
        for view in views:
            published = table(earlier.place, view)
            if published.empty:
                continue
            published = published[published.index.get_level_values(2) <= earlier.cut]
            assert not published.empty or view == "anomaly"
            now = table(course.whole, view).loc[published.index]
            # A window of other rows may add up in another order: the last bit is not promised.
            pd.testing.assert_frame_equal(published, now, rtol=1e-6, atol=1e-6)
            known = table(course.whole, view).index.get_level_values(2) <= earlier.cut
            assert known.sum() == len(published)


def test_a_second_update_touches_nothing(stage: tuple[Path, Path], daily: Course) -> None:
    raw, place = stage
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    built = store(place, raw, daily.fleet).update()
    assert all(view.made == () for view in built)
    assert {view.view: view.rows for view in built}["machine_attributes"] == len(MACHINES)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def made_by(rows: Tables, stage: tuple[Path, Path], fleet: Fleet) -> dict[str, tuple[str, ...]]:
    """What an update makes again after one more batch."""
    raw, place = stage
    # A batch has telemetry; this row is as late as can be, and after everything.
    ending = entry("1", HOUR * 24 * DAYS + HOUR / 2, 50 * HOUR, load=100.0)
    bring({"telemetry": [ending], **rows}, raw, fleet)
    return {built.view: built.made for built in store(place, raw, fleet).update()}


LAST = "2025-02-03"


def test_only_the_periods_that_a_reading_reaches_are_made_again(
    stage: tuple[Path, Path], daily: Course
) -> None:
    late = entry("2", timedelta(hours=24 + 19, minutes=50), 90 * HOUR, load=90.0)
    ending = entry("2", timedelta(hours=24 * DAYS, minutes=20), load=90.0)
    assert made_by({"telemetry": [ending]}, stage, daily.fleet)["sensor_step"] == (LAST,)
    made = made_by({"telemetry": [late]}, stage, daily.fleet)
    assert made == {
        "sensor_step": ("2025-01-30",),
        "sensor_window_3h": ("2025-01-30",),
        "sensor_window_6h": ("2025-01-30", "2025-01-31"),
        "error_counts_4h": ("2025-01-30", "2025-01-31"),
        "component_age": ("2025-01-30",),
        "machine_attributes": (),
        "anomaly": ("2025-01-30", "2025-01-31"),
    }


def test_a_replacement_reaches_all_later_periods_and_its_own_view_alone(
    stage: tuple[Path, Path], daily: Course
) -> None:
    replaced = entry("2", timedelta(hours=50), 90 * HOUR, component="pump")
    made = made_by({"maintenance": [replaced]}, stage, daily.fleet)
    days = ("2025-01-31", "2025-02-01", "2025-02-02", LAST)
    assert made.pop("component_age") == days
    assert made.pop("machine_attributes") == ()
    assert set(made.values()) == {(LAST,)}


def test_another_window_makes_everything_again(
    stage: tuple[Path, Path], daily: Course, tmp_path: Path
) -> None:
    raw, place = stage
    features = daily.fleet.features.model_copy(
        update={"windows": (timedelta(hours=2), timedelta(hours=6))}
    )
    changed = daily.fleet.model_copy(update={"features": features})
    built = {view.view: view for view in store(place, raw, changed).update()}
    assert "sensor_window_2h" in built
    assert built.pop("machine_attributes").made == ("always",)
    assert {len(view.made) for view in built.values()} == {DAYS + 1}
    fresh = tmp_path / "fresh"
    store(fresh, raw, changed).update()
    found = files(place)
    assert {name: found[name] for name in files(fresh)} == files(fresh)


def test_what_a_decision_costs_makes_nothing_again(stage: tuple[Path, Path], daily: Course) -> None:
    raw, place = stage
    costs = daily.fleet.costs.model_copy(update={"failure": 5.0})
    changed = daily.fleet.model_copy(update={"costs": costs, "owner": "somebody else"})
    before = files(place)
    assert all(view.made == () for view in store(place, raw, changed).update())
    assert files(place) == before


def test_progress_says_what_is_made_and_how_far_it_is(daily: Course, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    store(tmp_path, daily.stages[0].raw, daily.fleet).update(lambda *words: said.append(words))
    assert said == [("features", done, 2) for done in range(3)]


@contextmanager
def full_disk(after: int, of: str | None = None) -> Iterator[None]:
    """The disk is full after so many files, of one view or of any."""
    done, fill = [], ViewFiles.fill

    def failing(self: ViewFiles, period: str, rows: Rows) -> None:
        if of in (None, self.view.name):
            if len(done) == after:
                raise OSError("no space left on device")
            done.append(period)
        fill(self, period, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ViewFiles, "fill", failing)
        with pytest.raises(MillwrightError, match=r"no space left.*make room"):
            yield


@pytest.mark.parametrize("writes", [0, 4, 11])
def test_a_run_that_fails_in_the_middle_leaves_nothing_wrong(
    writes: int, monthly: Course, tmp_path: Path
) -> None:
    place = tmp_path / "store"
    shutil.copytree(monthly.stages[1].place, place)
    with full_disk(writes):
        store(place, monthly.last.raw, monthly.fleet, threads=2).update()
    assert not list(place.rglob("*.draft"))
    store(place, monthly.last.raw, monthly.fleet).update()
    assert files(place) == files(monthly.whole)


@pytest.mark.parametrize("writes", [4, 12])
def test_a_definition_that_is_given_up_in_the_middle_leaves_nothing_wrong(
    writes: int, monthly: Course, tmp_path: Path
) -> None:
    place = tmp_path / "store"
    shutil.copytree(monthly.last.place, place)
    features = monthly.fleet.features.model_copy(update={"statistics": ("mean", "std")})
    changed = monthly.fleet.model_copy(update={"features": features})
    with full_disk(writes):
        store(place, monthly.last.raw, changed).update()
    store(place, monthly.last.raw, monthly.fleet).update()
    assert files(place) == files(monthly.whole)


# Imports once and then forks: a process that starts from nothing takes longer than an update.
KILLED = """
import os, random, signal, sys, time, traceback
from pathlib import Path
from test_offline import make_fleet, store

raw, place = map(Path, sys.argv[1:])

def update(folder):
    child = os.fork()
    if child:
        return child
    try:
        store(folder, raw, make_fleet(), threads=2).update()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)

begin = time.monotonic()
assert os.waitpid(update(place.with_name("undisturbed")), 0)[1] == 0
length = time.monotonic() - begin
chance = random.Random(3)
for _ in range(3):
    child = update(place)
    time.sleep(chance.uniform(0.1, 0.9) * length)
    os.kill(child, signal.SIGKILL)
    print(os.WIFSIGNALED(os.waitpid(child, 0)[1]))
assert os.waitpid(update(place), 0)[1] == 0
"""


def test_a_killed_run_leaves_nothing_wrong(monthly: Course, tmp_path: Path) -> None:
    place = tmp_path / "store"
    shutil.copytree(monthly.stages[1].place, place)
    path = os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(monthly.last.raw), str(place)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "True" in done.stdout.split()
    left = {name: text for name, text in files(place).items() if not name.endswith(".draft")}
    assert left == files(monthly.whole)
    assert files(tmp_path / "undisturbed") == files(monthly.whole)


def test_there_is_no_detector_before_the_fit_window_is_full(daily: Course) -> None:
    assert daily.stages[0].detector is None
    assert table(daily.stages[0].place, "anomaly").empty
    assert daily.stages[1].detector is not None


def test_the_detector_stays_the_same_whatever_becomes_known_later(
    daily: Course, monthly: Course
) -> None:
    assert {stage.detector for course in (daily, monthly) for stage in course.stages[1:]} == {
        daily.last.detector
    }
    at_once = store(daily.whole, daily.last.raw, daily.fleet).detector_version()
    assert at_once == daily.last.detector


def test_no_score_lies_within_the_fit_window_and_every_later_window_has_one(
    daily: Course,
) -> None:
    scores, windows = table(daily.whole, "anomaly"), table(daily.whole, "sensor_window_6h")
    fit_end = windows.index.get_level_values(1).min() + timedelta(days=2)
    later = windows[windows.index.get_level_values(1) > fit_end]
    assert scores.index.equals(later.index)
    assert scores["anomaly_score"].between(0, 1).all()


def test_a_score_is_what_the_detector_says_of_the_windows_of_its_row(daily: Course) -> None:
    assert daily.last.detector is not None
    detector = detectors.load(daily.last.place / "detectors" / daily.last.detector)
    scores = table(daily.whole, "anomaly")["anomaly_score"]
    # One row at a time, so that neither order nor neighbours can matter.
    chosen = scores.index[:: len(scores) // 25]
    windows = table(daily.whole, "sensor_window_6h").loc[chosen].reset_index()
    said = [detector.score(windows.iloc[[row]])[0] for row in range(len(windows))]
    assert scores[chosen].tolist() == said


def earlier_history() -> Tables:
    """The day before all else, from which the detector learns another normal."""
    readings = [
        entry(machine, -HOUR * hour, load=100.0 + hour % 7)
        for machine in MACHINES
        for hour in range(1, 24)
    ]
    return {"telemetry": readings}


def test_an_earlier_history_makes_another_detector_and_all_scores_again(
    stage: tuple[Path, Path], daily: Course
) -> None:
    raw, place = stage
    before = table(place, "anomaly")
    bring(earlier_history(), raw, daily.fleet)
    opened = store(place, raw, daily.fleet)
    built = {view.view: view for view in opened.update()}
    assert opened.detector_version() not in (None, daily.last.detector)
    assert len(built["anomaly"].made) == len(built["sensor_step"].made) + DAYS
    after = table(place, "anomaly")
    assert after.index.get_level_values(1).min() < before.index.get_level_values(1).min()
    assert not np.array_equal(after.loc[before.index], before)


def test_a_detector_that_is_given_up_in_the_middle_leaves_nothing_wrong(
    stage: tuple[Path, Path], daily: Course
) -> None:
    raw, place = stage
    bring(earlier_history(), raw, daily.fleet)
    with full_disk(4, of="anomaly"):
        store(place, raw, daily.fleet).update()
    assert store(place, raw, daily.fleet).detector_version() is None
    # The raw store is put back to what it was before.
    opened = store(place, daily.last.raw, daily.fleet)
    opened.update()
    assert opened.detector_version() == daily.last.detector
    assert files(place) == files(daily.whole)


def without_received() -> Fleet:
    tables = make_fleet().tables.model_dump()
    return make_fleet(
        tables={name: {**columns, "received": None} for name, columns in tables.items()},
        anomaly={"fit_window": "3d"},
    )


def plain_history() -> Tables:
    """One row for each key, as a fleet without `received` has them at first."""
    return {
        name: [
            row
            for key, row in {
                (row["machine_id"], row.get("timestamp"), row.get("code")): row for row in rows
            }.items()
        ]
        for name, rows in history().items()
    }


def by_machine() -> tuple[Tables, Tables]:
    """All rows of three machines, and then all of the fourth, over the same time."""
    tables = plain_history()
    return tuple(
        {n: [r for r in rows if (r["machine_id"] == "4") is last] for n, rows in tables.items()}
        for last in (False, True)
    )


def failures_last() -> tuple[Tables, Tables]:
    """All but the failures of the fit window, and then those, with one reading at the end."""
    tables = plain_history()
    ending = entry("1", HOUR * 24 * DAYS + HOUR / 2, load=100.0)
    failures = {"telemetry": [ending], "failures": tables["failures"]}
    return {**tables, "failures": [entry("2", HOUR * 100, component="pump")]}, failures


@pytest.mark.parametrize("split", [by_machine, failures_last])
def test_what_comes_later_but_was_known_in_time_is_learnt_as_if_all_had_come_at_once(
    split: Callable[[], tuple[Tables, Tables]], tmp_path: Path
) -> None:
    fleet, raw, place = without_received(), tmp_path / "raw", tmp_path / "store"
    detectors = []
    for tables in split():
        bring(tables, raw, fleet)
        opened = store(place, raw, fleet)
        opened.update()
        detectors.append(opened.detector_version())
    assert None not in detectors
    assert detectors[0] != detectors[1]
    whole = store(tmp_path / "whole", raw, fleet)
    whole.update()
    assert whole.detector_version() == detectors[1]
    assert files(place) == files(tmp_path / "whole")


def test_machines_are_observed_from_their_first_step_to_their_last(daily: Course) -> None:
    observed = store(daily.whole, daily.last.raw, daily.fleet).observed()
    assert observed["machine_id"].tolist() == list(MACHINES)
    steps = table(daily.whole, "sensor_step").index.to_frame(index=False)
    limits = steps.groupby("machine_id")["event_timestamp"].agg(["min", "max"])
    assert observed["first"].tolist() == limits["min"].tolist()
    assert observed["last"].tolist() == limits["max"].tolist()
    assert observed.dtypes.astype(str).tolist() == ["object", *["datetime64[us, UTC]"] * 2]


def test_no_machine_is_observed_before_the_first_update(daily: Course, tmp_path: Path) -> None:
    assert store(tmp_path, daily.last.raw, daily.fleet).observed().empty


def test_failures_are_those_known_by_then(daily: Course) -> None:
    opened = store(daily.whole, daily.last.raw, daily.fleet)
    assert opened.failures()["machine_id"].tolist() == ["1", "1", "2", "3", "4"]
    assert opened.failures(START + 48 * HOUR)["machine_id"].tolist() == ["1", "2", "3"]
    assert opened.failures()["timestamp"].dt.tz is not None


def test_a_raw_store_without_telemetry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fleet 'tiny' has no telemetry yet; ingest some"):
        store(tmp_path, tmp_path / "raw", make_fleet()).update()


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:100])
    else:  # its readings are no longer what they were, and all else is
        path.write_bytes(content[:4] + bytes(reversed(content[4:60])) + content[60:])


@pytest.mark.parametrize("how", ["removed", "cut", "overwritten"])
def test_a_raw_file_that_cannot_be_read_is_named_with_the_way_out(
    how: str, stage: tuple[Path, Path], daily: Course, tmp_path: Path
) -> None:
    raw, _ = stage
    path = RawStore(raw, daily.fleet).files("telemetry")[3]
    damage(path, how)
    way_out = f"restore it from a backup, or move {raw} away and ingest all exports again"
    opened = store(tmp_path / "fresh", raw, daily.fleet)
    for ask in (opened.update, lambda: opened.readings("1", START)):
        with pytest.raises(MillwrightError, match=f"^cannot read {path} of the raw store: .*") as e:
            ask()
        assert way_out in str(e.value)


@pytest.mark.parametrize("how", ["removed", "cut", "replaced"])
@pytest.mark.parametrize("view", ["sensor_step", "machine_attributes", "anomaly"])
def test_a_file_that_is_not_as_it_was_left_is_made_again_and_no_other(
    how: str, view: str, stage: tuple[Path, Path], daily: Course
) -> None:
    raw, place = stage
    path = sorted((place / "offline" / view).glob("*.parquet"))[-1]
    if how == "replaced":
        shutil.copy(place / "offline" / "component_age" / "2025-01-30.parquet", path)
    else:
        damage(path, how)
    made = {built.view: built.made for built in store(place, raw, daily.fleet).update()}
    assert made.pop(view) == (path.stem,)
    assert set(made.values()) == {()}
    assert files(place) == files(daily.whole)


def test_files_of_which_the_manifest_knows_no_size_are_made_again(
    stage: tuple[Path, Path], daily: Course
) -> None:
    raw, place = stage
    manifest = place / "offline" / "sensor_step" / "_manifest.json"
    held = json.loads(manifest.read_text())
    held["periods"] = {period: file["rows"] for period, file in held["periods"].items()}
    manifest.write_text(json.dumps(held))
    made = {built.view: built.made for built in store(place, raw, daily.fleet).update()}
    assert len(made["sensor_step"]) == DAYS + 1
    assert made["sensor_window_3h"] == ()
    assert files(place) == files(daily.whole)


def test_a_feature_table_that_cannot_be_read_is_named_with_the_way_out(
    stage: tuple[Path, Path], daily: Course
) -> None:
    raw, place = stage
    folder = place / "offline" / "sensor_step"
    damage(folder / "2025-01-30.parquet", "removed")
    with pytest.raises(MillwrightError, match=f"{folder} cannot be read: .*--pipeline features"):
        store(place, raw, daily.fleet).observed()
