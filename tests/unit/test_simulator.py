import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_tables import take_in

from millwright import assembly, simulator, wear
from millwright.errors import BusyError, ConfigurationError, DataError
from millwright.fleet import Fleet, Simulation, load_fleet
from millwright.settings import REPOSITORY
from millwright.simulator import is_current, simulate

START = datetime(2025, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
KEY = {"telemetry": ["machineID", "datetime"], "errors": ["machineID", "datetime", "errorID"]}

Frames = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return load_fleet("simulated")


@pytest.fixture(scope="module")
def year(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """A year of twenty machines with everything that the simulated fleet asks for."""
    folder = tmp_path_factory.mktemp("year") / "fleet"
    simulate(fleet, plan(machines=20, days=365, gap_share=0.01, late_share=0.03), folder)
    return read(folder)


def plan(**values: Any) -> Simulation:
    return Simulation(**{"machines": 3, "days": 10, "start": START, "seed": 7, **values})


def read(folder: Path) -> Frames:
    return {file.stem: pl.read_parquet(file) for file in folder.glob("*.parquet")}


def made(fleet: Fleet, simulation: Simulation) -> Frames:
    with tempfile.TemporaryDirectory() as folder:
        simulate(fleet, simulation, Path(folder) / "fleet")
        return read(Path(folder) / "fleet")


def changed(fleet: Fleet, **values: Any) -> Fleet:
    return Fleet.model_validate(fleet.model_dump() | values)


def bare(fleet: Fleet, **values: Any) -> Fleet:
    """A fleet of nothing but readings and failures, whose parts have no names."""
    tables = {
        "telemetry": {"source": "readings", "machine": "unit", "timestamp": "time"},
        "failures": {"source": "breakdowns", "machine": "unit", "timestamp": "time"},
    }
    empty: dict[str, Any] = {"components": (), "error_codes": (), "attributes": {}}
    return changed(fleet, **(empty | {"tables": tables} | values))


def equal(left: Frames, right: Frames) -> bool:
    return left.keys() == right.keys() and all(left[name].equals(right[name]) for name in left)


def unusual(year: Frames, fleet: Fleet) -> pl.DataFrame:
    """How far readings of three hours stand from their machine's usual ones, over all sensors."""
    scores = [
        (pl.col(sensor) - pl.col(sensor).mean()).over("machineID").abs()
        / pl.col(sensor).std().over("machineID")
        for sensor in fleet.sensors
    ]
    smooth = pl.col(*fleet.sensors).rolling_mean(3, min_samples=1).over("machineID")
    failures = (
        year["failures"].select("machineID", "datetime").sort("datetime").set_sorted("datetime")
    )
    readings = year["telemetry"].with_columns(smooth)
    return (
        readings.select("machineID", "datetime", unusual=pl.max_horizontal(scores))
        .sort("datetime")
        .join_asof(
            failures.with_columns(next=pl.col("datetime")),
            on="datetime",
            by="machineID",
            strategy="forward",
            check_sortedness=False,
        )
        .join_asof(
            failures.with_columns(last=pl.col("datetime")),
            on="datetime",
            by="machineID",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .with_columns(
            until=(pl.col("next") - pl.col("datetime")).fill_null(timedelta(days=999)),
            since=(pl.col("datetime") - pl.col("last")).fill_null(timedelta(days=999)),
        )
    )


def level(scores: pl.DataFrame, where: pl.Expr) -> float:
    return float(scores.filter(where)["unusual"].mean())  # type: ignore[arg-type]


def test_the_same_seed_makes_the_same_fleet_and_another_seed_another(fleet: Fleet) -> None:
    assert equal(made(fleet, plan()), made(fleet, plan()))
    assert not equal(made(fleet, plan()), made(fleet, plan(seed=8)))


def test_a_machine_is_the_same_in_a_fleet_of_any_size(fleet: Fleet) -> None:
    wishes: dict[str, Any] = {"days": 40, "gap_share": 0.01, "late_share": 0.05}
    few = made(fleet, plan(machines=3, **wishes))
    many = made(fleet, plan(machines=9, **wishes))
    assert many["telemetry"]["machineID"].n_unique() == 9
    assert equal(few, {name: rows.filter(pl.col("machineID") <= 3) for name, rows in many.items()})


def test_the_size_of_a_block_does_not_change_the_data(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(fleet, plan(machines=5))
    monkeypatch.setattr(simulator, "BLOCK_MACHINES", 2)
    assert equal(whole, made(fleet, plan(machines=5)))


@pytest.mark.parametrize("components", [1, 4, 9])
def test_a_machine_fails_six_to_nine_times_a_year_however_many_components(
    fleet: Fleet, components: int
) -> None:
    names = tuple(f"comp{number}" for number in range(components))
    rows = made(
        changed(fleet, components=names),
        plan(machines=100, days=365, reading_interval=DAY),
    )
    assert 6 <= len(rows["failures"]) / 100 <= 9
    assert set(rows["failures"]["failure"]) == set(names)


def test_old_machines_and_poor_models_fail_more_often(fleet: Fleet) -> None:
    rows = made(fleet, plan(machines=200, days=180, reading_interval=DAY))
    failures = rows["failures"].group_by("machineID").len("failures")
    machines = rows["machines"].join(failures, on="machineID", how="left").fill_null(0)
    old, poor = pl.col("age") > 10, pl.col("model").is_in(["model3", "model4"])
    worst = machines.filter(old & poor)["failures"].mean()
    best = machines.filter(~old & ~poor)["failures"].mean()
    assert worst > 2 * best  # type: ignore[operator]


def test_wear_shows_in_the_sensors_before_a_failure_and_is_gone_after_it(
    year: Frames, fleet: Fleet
) -> None:
    scores = unusual(year, fleet)
    healthy = level(scores, (pl.col("until") > 5 * DAY) & (pl.col("since") > 5 * DAY))
    early = level(scores, pl.col("until").is_between(24 * HOUR, 48 * HOUR))
    late = level(scores, pl.col("until") <= 12 * HOUR)
    after = level(scores, (pl.col("since") < 2 * DAY) & (pl.col("until") > 5 * DAY))
    assert 1.05 * healthy < early < 0.7 * late
    assert late > 2 * healthy
    assert after < 1.15 * healthy


def test_some_failures_come_with_hardly_a_warning(year: Frames, fleet: Fleet) -> None:
    scores = unusual(year, fleet).filter(pl.col("until") <= 12 * HOUR)
    warnings = scores.group_by("machineID", "next").agg(pl.col("unusual").mean())["unusual"]
    seldom_exceeded_in_health = 2.0
    assert 0.02 < (warnings < seldom_exceeded_in_health).mean() < 0.2  # type: ignore[operator]


def test_a_scare_moves_the_sensors_and_recedes_without_a_failure(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = plan(machines=10, days=365)
    usual = made(fleet, simulation)
    monkeypatch.setattr(wear, "SCARES_PER_YEAR", 0.0)
    calm = made(fleet, simulation)
    assert usual["failures"].equals(calm["failures"])
    noise = calm["telemetry"]["volt"].std()
    moved = (usual["telemetry"]["volt"] - calm["telemetry"]["volt"]).abs() > 0.5 * noise  # type: ignore[operator]
    assert moved.any()
    assert moved.mean() < 0.01  # type: ignore[operator]


def test_errors_become_likelier_before_a_failure(year: Frames) -> None:
    failures = year["failures"].select("machineID", fails="datetime")
    pairs = year["errors"].join(failures, on="machineID")
    warnings = pairs.filter((pl.col("fails") - pl.col("datetime")).is_between(0 * HOUR, DAY))
    before = len(warnings) / len(failures)
    usual = len(year["errors"]) / (20 * 365)
    assert before > 5 * usual


def test_each_failed_component_is_replaced_as_it_fails(year: Frames) -> None:
    failures = year["failures"].rename({"failure": "comp"})
    key = ["machineID", "datetime", "comp"]
    assert len(failures.join(year["maintenance"], on=key)) == len(failures) > 50


def test_replacements_reach_back_so_that_every_age_is_known_at_the_start(year: Frames) -> None:
    history = year["maintenance"].filter(pl.col("datetime") < START)
    assert len(history.unique(["machineID", "comp"])) == 20 * 4
    planned = year["maintenance"].join(year["failures"], on=["machineID", "datetime"], how="anti")
    visits = planned.group_by("machineID").len()["len"]
    assert visits.min() >= 10  # type: ignore[operator]


def test_every_table_is_valid(year: Frames, fleet: Fleet) -> None:
    assert set(year) == {"machines", "telemetry", "errors", "maintenance", "failures"}
    assert_valid(year, fleet, plan(days=365))
    assert year["machines"].columns == ["machineID", "model", "age"]
    assert year["machines"]["machineID"].to_list() == list(range(1, 21))
    assert year["machines"]["age"].is_between(0, 60).all()
    assert set(year["machines"]["model"]) <= {"model1", "model2", "model3", "model4"}
    assert set(year["errors"]["errorID"]) == set(fleet.error_codes)
    assert set(year["maintenance"]["comp"]) == set(fleet.components)


def assert_valid(tables: Frames, fleet: Fleet, simulation: Simulation) -> None:
    end = START + timedelta(days=simulation.days)
    for name, rows in tables.items():
        if name == "machines":
            continue
        key = KEY.get(name, [column for column in rows.columns if column != "received_at"])
        assert not rows.select(key).is_duplicated().any()
        assert rows.select(key).null_count().sum_horizontal().item() == 0
        assert rows.schema["datetime"] == pl.Datetime("us", "UTC")
        assert (rows["datetime"] < end).all()
        assert name == "maintenance" or (rows["datetime"] >= START).all()
        assert (rows["received_at"] >= rows["datetime"]).all()
        assert (rows["received_at"] <= end).all()
    for name, sensor in fleet.sensors.items():
        low, high = sensor.range or (0.0, 1.0)
        readings = tables["telemetry"][name].drop_nulls()
        inside = readings.is_between(low + 0.01 * (high - low), high - 0.01 * (high - low))
        assert inside.all()  # and so is neither NaN nor infinite


@settings(max_examples=25, deadline=None)
@given(
    ranges=st.lists(
        st.none() | st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)), min_size=1, max_size=4
    ),
    components=st.integers(1, 6),
    codes=st.integers(1, 6),
    days=st.integers(1, 20),
    minutes=st.sampled_from([7, 60, 1500]),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 2**32),
)
def test_a_fleet_of_any_form_is_valid(
    fleet: Fleet,
    ranges: list[tuple[float, float] | None],
    components: int,
    codes: int,
    days: int,
    minutes: int,
    share: float,
    seed: int,
) -> None:
    form = changed(
        fleet,
        sensors={
            f"sensor{number}": {"range": limits and (limits[0], limits[0] + limits[1])}
            for number, limits in enumerate(ranges)
        },
        components=tuple(f"comp{number}" for number in range(components)),
        error_codes=tuple(f"error{number}" for number in range(codes)),
    )
    simulation = plan(
        machines=2,
        days=days,
        reading_interval=timedelta(minutes=minutes),
        gap_share=share,
        late_share=share,
        seed=seed,
    )
    assert_valid(made(form, simulation), form, simulation)


def test_no_reading_leaves_its_range_however_loud_the_noise(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "NOISE", 1.0)
    assert_valid(made(fleet, plan()), fleet, plan())


def test_gaps_and_late_rows_are_as_many_as_asked_for(year: Frames, fleet: Fleet) -> None:
    readings = year["telemetry"]
    gaps = readings.select(*fleet.sensors).null_count().sum_horizontal().item()
    assert gaps / (4 * len(readings)) == pytest.approx(0.01, rel=0.05)
    for name in ("telemetry", "errors"):
        lateness = year[name]["received_at"] - year[name]["datetime"]
        late = lateness.filter(lateness > timedelta(0))
        assert len(late) / len(lateness) == pytest.approx(0.03, rel=0.3)
        assert late.is_between(HOUR, 12 * HOUR).all()
        assert late.n_unique() > len(late) / 2


def test_now_and_then_a_machine_is_not_heard_of_for_hours(year: Frames) -> None:
    silence = year["telemetry"].select(pl.col("datetime").diff().over("machineID"))["datetime"]
    stretches = silence.filter(silence > HOUR)
    assert 20 <= len(stretches) <= 120
    assert stretches.max() <= 26 * HOUR  # type: ignore[operator]


def test_spoiling_the_data_leaves_what_is_not_spoilt_as_it_was(fleet: Fleet) -> None:
    clean = made(fleet, plan(days=60))
    spoilt = made(fleet, plan(days=60, gap_share=0.02, late_share=0.1))
    assert len(clean["telemetry"]) == 3 * 60 * 24
    assert clean["telemetry"].null_count().sum_horizontal().item() == 0
    assert clean["telemetry"]["received_at"].equals(clean["telemetry"]["datetime"])
    both = spoilt["telemetry"].join(clean["telemetry"], on=["machineID", "datetime"])
    assert (both["volt"] == both["volt_right"]).drop_nulls().all()
    assert clean["failures"].equals(spoilt["failures"])


def test_a_drift_moves_some_sensors_after_its_day_and_nothing_else(fleet: Fleet) -> None:
    usual = made(fleet, plan(days=20))
    drifting = made(fleet, plan(days=20, drift_from_day=12))
    day = START + 12 * DAY
    before = pl.col("datetime") < day
    assert usual["telemetry"].filter(before).equals(drifting["telemetry"].filter(before))
    difference = (
        drifting["telemetry"].filter(~before).select(*fleet.sensors)
        - usual["telemetry"].filter(~before).select(*fleet.sensors)
    ).mean()
    moved = [name for name in fleet.sensors if abs(difference[name].item()) > 0.01]
    assert 1 <= len(moved) < len(fleet.sensors)
    for name in moved:
        assert difference[name].item() > usual["telemetry"][name].std()
    for name in ("errors", "maintenance", "failures", "machines"):
        assert usual[name].equals(drifting[name])


def test_a_fleet_that_counts_cycles_writes_whole_cycles_from_zero(fleet: Fleet) -> None:
    rows = made(
        changed(fleet, counts_cycles=True), plan(machines=20, days=30, late_share=0.2, seed=1)
    )
    readings = rows["telemetry"].filter(pl.col("machineID") == 2)
    assert readings["datetime"].to_list() == list(range(30 * 24))
    for name in ("telemetry", "errors", "maintenance", "failures"):
        assert rows[name].schema["datetime"] == rows[name].schema["received_at"] == pl.Int64
        assert rows[name]["datetime"].max() < 30 * 24  # type: ignore[operator]
        assert not rows[name].select(pl.exclude("received_at")).is_duplicated().any()
    assert rows["failures"]["datetime"].min() >= 0  # type: ignore[operator]
    assert rows["maintenance"]["datetime"].min() < 0  # type: ignore[operator]
    late = rows["telemetry"]["received_at"] - rows["telemetry"]["datetime"]
    assert set(late.unique()) == set(range(12))


def test_a_fleet_that_counts_cycles_is_taken_in_whole(fleet: Fleet, tmp_path: Path) -> None:
    cycles = changed(fleet, counts_cycles=True)
    simulate(cycles, plan(machines=20, days=30, seed=1), tmp_path / "in")
    assert take_in(cycles, tmp_path / "in", tmp_path).reasons == {}


def test_readings_between_two_cycles_are_refused(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"reading_interval.*1\.5c.*whole cycles"):
        simulate(
            changed(fleet, counts_cycles=True),
            plan(reading_interval=timedelta(minutes=90)),
            tmp_path / "fleet",
        )


def test_a_fleet_has_only_the_tables_and_columns_that_its_file_names(fleet: Fleet) -> None:
    rows = made(
        bare(fleet, sensors={"hot": {"column": "temperature"}}),
        plan(machines=20, days=365, reading_interval=DAY, late_share=0.5),
    )
    assert set(rows) == {"readings", "breakdowns"}
    assert rows["readings"].columns == ["unit", "time", "temperature"]
    assert rows["breakdowns"].columns == ["unit", "time"]
    assert 6 <= len(rows["breakdowns"]) / 20 <= 9


def test_csv_says_the_same_as_parquet(fleet: Fleet, tmp_path: Path) -> None:
    simulation = plan(days=40, gap_share=0.05, late_share=0.1)
    simulate(fleet, simulation, tmp_path / "csv", file_format="csv")
    simulate(fleet, simulation, tmp_path / "parquet")
    for name, rows in read(tmp_path / "parquet").items():
        text = pl.read_csv(tmp_path / "csv" / f"{name}.csv", try_parse_dates=True)
        times = pl.selectors.datetime().dt.convert_time_zone("UTC").dt.cast_time_unit("us")
        assert text.with_columns(times).equals(rows)
    line = (tmp_path / "csv" / "telemetry.csv").read_text().splitlines()[1]
    assert line.split(",")[1].strip('"') == "2025-01-01T00:00:00Z"


def test_progress_is_told_after_each_machine(fleet: Fleet, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    simulate(fleet, plan(), tmp_path / "fleet", progress=lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_folder_is_current_until_what_shapes_its_data_changes(
    fleet: Fleet, tmp_path: Path
) -> None:
    folder = tmp_path / "fleet"
    assert not is_current(fleet, plan(), folder)
    simulate(fleet, plan(), folder)
    assert is_current(fleet, plan(), folder)
    assert is_current(changed(fleet, owner="somebody else"), plan(), folder)
    assert not is_current(fleet, plan(seed=8), folder)
    assert not is_current(changed(fleet, error_codes=("error1",)), plan(), folder)
    (folder / "errors.parquet").unlink()
    assert not is_current(fleet, plan(), folder)
    (folder / "simulation.json").write_text("{", encoding="utf-8")
    assert not is_current(fleet, plan(), folder)


def test_a_new_simulation_replaces_the_former_one(fleet: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    simulate(fleet, plan(), folder, file_format="csv")
    simulate(fleet, plan(seed=8), folder)
    assert is_current(fleet, plan(seed=8), folder)
    assert not list(folder.glob("*.csv"))


def test_a_failed_simulation_leaves_the_former_one_untouched(fleet: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    simulate(fleet, plan(), folder)

    def fail(done: int, total: int) -> None:
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        simulate(fleet, plan(seed=8), folder, progress=fail)
    assert is_current(fleet, plan(), folder)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["fleet"]


def test_a_killed_simulation_leaves_nothing_that_the_next_one_does_not_clear(
    fleet: Fleet, tmp_path: Path
) -> None:
    folder = tmp_path / "fleet"
    script = f"""
import os
from pathlib import Path
from millwright import assembly, simulator, wear
from millwright.fleet import load_fleet
fleet = load_fleet("simulated")
simulator.BLOCK_MACHINES = 1
wishes = fleet.simulation.model_copy(update=dict(machines=3, days=1))
simulator.simulate(fleet, wishes, Path({str(folder)!r}), progress=lambda *done: os._exit(9))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY)
    assert ended.returncode == 9
    assert not folder.exists()
    assert (tmp_path / ".fleet.partial" / "telemetry.parquet").exists()
    simulate(fleet, plan(), folder)
    assert is_current(fleet, plan(), folder)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["fleet"]


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_is_no_simulation_is_never_replaced(
    fleet: Fleet, tmp_path: Path, is_folder: bool
) -> None:
    theirs = tmp_path / "data"
    precious = theirs / "telemetry.csv" if is_folder else theirs
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious", encoding="utf-8")
    with pytest.raises(DataError, match="not a simulated fleet; move it away"):
        simulate(fleet, plan(), theirs)
    assert precious.read_text(encoding="utf-8") == "precious"


def test_two_processes_do_not_write_one_folder(fleet: Fleet, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".fleet.lock"),
        pytest.raises(BusyError, match="another process simulates into"),
    ):
        simulate(fleet, plan(), tmp_path / "fleet")
