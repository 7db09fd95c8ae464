"""Feature tables in a real PostgreSQL: the same rows as in files, whatever comes and whenever."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pandas as pd
import psycopg2
import pytest
from test_offline import START, Course, Stage, bring, daily, entry, make_fleet, monthly, table

from millwright.errors import BusyError, ConfigurationError, MillwrightError
from millwright.fleet import Fleet
from millwright.offline import OfflineStore
from millwright.postgres import warehouse
from millwright.postgres.connection import connect, errors_named
from millwright.postgres.warehouse import PostgresWarehouse
from millwright.raw_store import RawStore
from millwright.settings import Engine
from millwright.warehouse import Rows

__all__ = ["daily", "monthly"]  # fixtures
# What a first batch must have besides telemetry.
OTHERS = {
    "machines": [entry("1", timedelta(0), age=1.0)],
    "failures": [entry("1", timedelta(hours=2), component="belt")],
}
KEYS = ["machine_id", "event_timestamp", "created_timestamp"]


def store(url: str, stage: Stage, fleet: Fleet, threads: int = 2) -> OfflineStore:
    raw = RawStore(stage.raw, fleet)
    place = PostgresWarehouse(url, fleet, raw, Engine(kind="postgres", threads=threads))
    return OfflineStore(place, stage.place / "postgres-detectors", fleet, raw, threads)


def rows(offline: OfflineStore, view: str) -> pd.DataFrame:
    held = {v.name: offline._tables(v) for v in (*offline.computed, offline.scored)}[view]
    parts = [held.read(period).to_pandas() for period in held.periods]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def assert_same(offline: OfflineStore, place: Path) -> int:
    """Every view has the rows that the files at `place` have; gives how many."""
    count = 0
    for view in (*offline.computed, offline.scored):
        kept, made = table(place, view.name), rows(offline, view.name)
        assert len(kept) == len(made), view.name
        if len(kept):
            kept = kept.reset_index().sort_values(KEYS, ignore_index=True)
            made = made.sort_values(KEYS, ignore_index=True)[kept.columns]
            pd.testing.assert_frame_equal(kept, made, rtol=1e-6, atol=1e-9)
        count += len(kept)
    return count


@pytest.mark.parametrize("course", ["monthly", "daily"])
def test_batch_after_batch_it_holds_what_the_files_hold(
    course: str, postgres_url: str, request: pytest.FixtureRequest
) -> None:
    made: Course = request.getfixturevalue(course)
    for stage in made.stages:
        offline = store(postgres_url, stage, made.fleet)
        periods = {built.view: built.made for built in offline.update()}
        assert periods == stage.made
        assert offline.detector_version() == stage.detector
        assert assert_same(offline, stage.place) > 100


def test_a_second_run_makes_nothing(postgres_url: str, monthly: Course) -> None:
    store(postgres_url, monthly.last, monthly.fleet).update()
    again = store(postgres_url, monthly.last, monthly.fleet).update()
    assert {built.made for built in again} == {()}


def test_another_definition_makes_everything_again(postgres_url: str, monthly: Course) -> None:
    store(postgres_url, monthly.last, monthly.fleet).update()
    features = monthly.fleet.features.model_copy(update={"statistics": ("mean",)})
    changed = monthly.fleet.model_copy(update={"features": features})
    offline = store(postgres_url, monthly.last, changed)
    made = {built.view: built.made for built in offline.update()}
    assert made["sensor_window_3h"] == ("2025-01", "2025-02")
    assert "load_std_3h" not in rows(offline, "sensor_window_3h").columns


def test_a_raw_store_that_was_begun_anew_is_loaded_anew(postgres_url: str, monthly: Course) -> None:
    store(postgres_url, monthly.last, monthly.fleet).update()
    first = monthly.stages[0]
    offline = store(postgres_url, first, monthly.fleet)
    offline.update()
    assert_same(offline, first.place)


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM features_tiny.sensor_step WHERE machine_id = '2'",
        "DELETE FROM features_tiny.machine_attributes WHERE machine_id = '2'",
        "ALTER TABLE features_tiny.component_age DROP COLUMN belt_age",
        "DROP TABLE features_tiny.error_counts_4h",
        "DELETE FROM raw_tiny.telemetry WHERE machine_id = '3'; "
        "DROP TABLE features_tiny.sensor_step",
    ],
)
def test_what_was_taken_away_by_hand_is_made_again(
    harm: str, postgres_url: str, monthly: Course
) -> None:
    store(postgres_url, monthly.last, monthly.fleet).update()
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute(harm)
    offline = store(postgres_url, monthly.last, monthly.fleet)
    assert any(built.made for built in offline.update())
    assert_same(offline, monthly.last.place)


WORKER = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_offline import Stage, make_fleet
from test_postgres_warehouse import store
stage = Stage(None, Path({raw!r}), Path({place!r}), {{}}, None)
store({url!r}, stage, make_fleet()).update()
"""


def start(url: str, stage: Stage, place: Path) -> "subprocess.Popen[bytes]":
    text = WORKER.format(paths=sys.path, raw=str(stage.raw), place=str(place), url=url)
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", text],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_run_that_is_killed_anywhere_is_gone_on_with(
    postgres_url: str, monthly: Course, tmp_path: Path
) -> None:
    began = time.monotonic()
    start(postgres_url, monthly.stages[0], tmp_path).wait()
    whole = time.monotonic() - began
    for part in (0.55, 0.7, 0.85, 0.95):
        process = start(postgres_url, monthly.last, tmp_path)
        time.sleep(whole * part)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    offline = store(postgres_url, monthly.last, monthly.fleet)
    offline.update()
    assert_same(offline, monthly.last.place)
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(DISTINCT batch) FROM raw_tiny.batches")
        assert cursor.fetchone() == (4, 4)


def test_two_at_once_take_turns(postgres_url: str, monthly: Course, tmp_path: Path) -> None:
    both = [start(postgres_url, monthly.last, tmp_path / name) for name in ("a", "b")]
    assert [process.wait() for process in both] == [0, 0]
    offline = store(postgres_url, monthly.last, monthly.fleet)
    assert {built.made for built in offline.update()} == {()}
    assert_same(offline, monthly.last.place)


def test_numbers_too_small_for_single_precision_are_nought(
    postgres_url: str, tmp_path: Path
) -> None:
    fleet = make_fleet()
    readings = [entry("1", timedelta(hours=hour, minutes=30), load=1e-60) for hour in range(3)]
    bring({"telemetry": readings, **OTHERS}, tmp_path / "raw", fleet)
    offline = store(postgres_url, Stage(START, tmp_path / "raw", tmp_path, {}, None), fleet)
    offline.update()
    assert set(rows(offline, "sensor_step")["load_mean_1h"]) == {0.0}


def test_whoever_waits_says_for_whom_and_not_for_ever(
    postgres_url: str, monthly: Course, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(warehouse, "PATIENCE", 0.6)
    with closing(psycopg2.connect(postgres_url)) as other:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtext('features_tiny'))")
        holder = f"connection {other.info.backend_pid}"
        offline = store(postgres_url, monthly.stages[0], monthly.fleet)
        with pytest.raises(BusyError, match=f"'postgres' from .*{holder}.* still holds"):
            offline.update()
        said = capsys.readouterr().err
        assert said.count("waiting for it") == said.count(holder) == 1
    assert open_connections(postgres_url) == 0
    offline.update()


def test_no_connection_is_left_open(postgres_url: str, monthly: Course) -> None:
    offline = store(postgres_url, monthly.stages[0], monthly.fleet)
    offline.update()
    offline.known_until()
    offline.observed()
    assert open_connections(postgres_url) == 0


def open_connections(url: str) -> int:
    """How many others are connected; one that has hung up may take a moment to be gone."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for _ in range(50):
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            (count,) = cursor.fetchone()
            if not count:
                break
            time.sleep(0.1)
    return count


@pytest.mark.parametrize(
    ("fleet", "said"),
    [
        (make_fleet().model_copy(update={"name": "m" * 60}), "schema 'raw_m"),
        (
            make_fleet().model_copy(
                update={"sensors": {"load" * 15: make_fleet().sensors["load"]}}
            ),
            "feature 'loadload.*_mean_1h' has 68 bytes.* at 63",
        ),
    ],
)
def test_a_name_that_would_be_cut_is_refused_before_anything_is_made(
    fleet: Fleet, said: str, postgres_url: str, tmp_path: Path
) -> None:
    raw = RawStore(tmp_path, fleet)
    with pytest.raises(ConfigurationError, match=said):
        PostgresWarehouse(postgres_url, fleet, raw, Engine(kind="postgres"))
    with closing(psycopg2.connect(postgres_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_namespace WHERE nspname ~ '^(raw|features)_'")
        assert cursor.fetchone() == (0,)


def test_a_connection_that_is_lost_is_told_as_that_and_not_as_the_rollback(
    postgres_url: str, monthly: Course
) -> None:
    """The server ends the connection in the middle of a transaction."""
    offline = store(postgres_url, monthly.stages[0], monthly.fleet)
    offline.update()
    held = offline._tables(offline.computed[0])
    with offline.warehouse.engines(1) as (engine,):
        row = "SELECT 'a' AS machine_id, now() AS event_timestamp, now() AS created_timestamp"
        end = "pg_terminate_backend(pg_backend_pid())"
        lost = Rows(f"{row}, 1.0 AS load_mean_1h FROM {end}", engine._do)
        with pytest.raises(psycopg2.OperationalError, match="terminat"):
            held.fill("2025-01", lost)


@pytest.mark.parametrize("password", ["s3%zzcret", "s3 cret", "s3/cr@et"])
def test_a_password_that_should_have_been_escaped_is_not_told(password: str) -> None:
    url = f"postgresql://somebody:{password}@127.0.0.1:1/nothing"
    with pytest.raises(MillwrightError, match="cannot try") as caught, errors_named(url, "try"):
        connect(url)
    for piece in (password, "s3", "cr@et", "zzcret"):
        assert piece not in str(caught.value)


def test_a_server_that_is_not_there_is_named_without_its_password(monthly: Course) -> None:
    url = "postgresql://somebody:s3cret@127.0.0.1:1/nothing"
    with pytest.raises(MillwrightError, match=r"somebody:\*\*\*@127\.0\.0\.1:1") as caught:
        store(url, monthly.last, monthly.fleet).update()
    assert "s3cret" not in str(caught.value)
