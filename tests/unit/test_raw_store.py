"""The raw store: a batch is there whole or not at all, and is named by what it holds."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from raw_tables import (
    NOW,
    contents,
    plant,
    raw,
    reading,
    stored,
    take_in,
    write_csv,
    write_parquet,
)

from millwright import raw_files
from millwright.content import content_hash
from millwright.errors import InputError, MillwrightError
from millwright.fleet import Fleet
from millwright.raw_store import RawStore

DAYS = [f"2025-{month:02}-28T23:30:00Z" for month in (1, 2, 3)]


def store(home: Path, fleet: Fleet | None = None) -> RawStore:
    return RawStore(home / "raw", fleet or plant())


def test_an_empty_store_has_typed_tables_and_creates_nothing(tmp_path: Path) -> None:
    relation = duckdb.connect().sql(store(tmp_path).scan("telemetry"))

    assert relation.fetchall() == []
    assert dict(zip(relation.columns, map(str, relation.types), strict=True)) == {
        "machine_id": "VARCHAR",
        "timestamp": "TIMESTAMP WITH TIME ZONE",
        "received": "TIMESTAMP WITH TIME ZONE",
        "heat": "DOUBLE",
        "noise": "DOUBLE",
    }
    assert store(tmp_path).batches() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("partition", "period"), [("month", "2025-01"), ("day", "2025-01-28")])
def test_files_lie_in_the_period_of_their_time_in_utc(
    tmp_path: Path, partition: str, period: str
) -> None:
    fleet = plant(partition=partition)
    source = write_csv(tmp_path / "in", raw(*(reading(at=day) for day in DAYS)))

    name = take_in(fleet, source, tmp_path).batch

    (batch,) = store(tmp_path, fleet).batches()
    first = next(piece for piece in batch.files if piece.table == "telemetry")
    assert (batch.batch, batch.sequence, batch.source) == (name, 1, str(source))
    assert (first.period, first.rows) == (period, 1)
    assert first.file == f"telemetry/{period}/{name}.parquet"
    assert first.first == first.last == first.first_received == datetime.fromisoformat(DAYS[0])
    assert f"machines/{name}.parquet" in [piece.file for piece in batch.files]
    asked = store(tmp_path, fleet).files("telemetry", {period})
    assert asked == [tmp_path / "raw" / first.file]


def test_a_batch_has_the_same_name_whatever_brought_it(tmp_path: Path) -> None:
    readings = [reading(1, day, heat=0.1 * place) for place, day in enumerate(DAYS)]
    ways = [
        write_csv(tmp_path / "csv", raw(*readings)),
        write_csv(tmp_path / "turned", raw(*reversed(readings))),
        write_parquet(tmp_path / "parquet", raw(*readings)),
    ]

    names = {take_in(plant(), way, way / "home").batch for way in ways}

    assert len(names) == 1


def test_a_batch_with_another_value_has_another_name(tmp_path: Path) -> None:
    names = set()
    for place, heat in enumerate(("1.0", "1.0000000000000002", "")):
        source = write_csv(tmp_path / f"in{place}", raw(reading(heat=heat)))
        names.add(take_in(plant(), source, tmp_path / f"home{place}").batch)

    assert len(names) == 3


def test_the_dataset_version_changes_with_every_batch(tmp_path: Path) -> None:
    versions = [store(tmp_path).dataset_version]
    for place, day in enumerate(DAYS):
        result = take_in(plant(), write_csv(tmp_path / f"{place}", raw(reading(at=day))), tmp_path)
        versions.append(result.dataset_version)

    assert len(set(versions)) == 4
    assert versions[-1] == store(tmp_path).dataset_version
    assert [batch.sequence for batch in store(tmp_path).batches()] == [1, 2, 3]


def test_files_that_no_manifest_names_are_not_read_and_the_next_commit_removes_them(
    tmp_path: Path,
) -> None:
    take_in(plant(), write_csv(tmp_path / "in", raw()), tmp_path)
    expected = stored(plant(), tmp_path)
    (committed,) = store(tmp_path).files("telemetry")
    stray = committed.with_name("stray.parquet")
    stray.write_bytes(committed.read_bytes())
    half = tmp_path / "raw" / ".scratch" / "half.parquet"
    half.parent.mkdir()
    half.write_bytes(b"PAR1")

    assert stored(plant(), tmp_path) == expected
    take_in(plant(), write_csv(tmp_path / "more", raw(reading(2))), tmp_path)

    assert not stray.exists()
    assert not half.parent.exists()
    assert len(stored(plant(), tmp_path)) == 2


def test_a_manifest_that_cannot_be_read_is_named_with_a_way_out_that_loses_no_rows(
    tmp_path: Path,
) -> None:
    take_in(plant(), write_csv(tmp_path / "in", raw()), tmp_path)
    (manifest,) = (tmp_path / "raw" / "batches").iterdir()
    manifest.write_text("{")

    with pytest.raises(MillwrightError, match=str(manifest)) as found:
        store(tmp_path).batches()

    way_out = f"restore it from a backup, or move {tmp_path / 'raw'} away and ingest all exports"
    assert way_out in str(found.value)
    assert "remove it" not in str(found.value)


def test_a_committed_file_that_is_gone_is_named_with_the_way_out(tmp_path: Path) -> None:
    home = tmp_path / "plant [ab]*"
    take_in(plant(), write_csv(tmp_path / "in", raw()), home)
    (path,) = store(home).files("telemetry")
    path.unlink()

    with pytest.raises(MillwrightError) as found:
        store(home).silent_sensors()

    assert str(found.value).startswith(f"cannot read {path} of the raw store: ")
    assert f"or move {home / 'raw'} away and ingest all exports again" in str(found.value)


def test_what_fails_elsewhere_while_reading_is_not_laid_to_the_store(tmp_path: Path) -> None:
    take_in(plant(), write_csv(tmp_path / "in", raw()), tmp_path)
    full = OSError("no space left on device")

    with pytest.raises(OSError, match="no space left") as found, store(tmp_path).reading():
        raise full

    assert found.value is full


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in", raw())
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match=f"cannot write to the raw store {tmp_path}/file/raw"):
        take_in(plant(), source, tmp_path / "file")


def test_a_sensor_that_the_fleet_gains_is_null_in_earlier_batches(tmp_path: Path) -> None:
    take_in(plant(), write_csv(tmp_path / "in", raw()), tmp_path)
    fleet = plant(sensors={"heat": {}, "smell": {}})

    ((*_, heat, smell),) = stored(fleet, tmp_path)

    assert (heat, smell) == (20.5, None)


def test_a_sensor_that_never_sent_anything_is_named(tmp_path: Path) -> None:
    take_in(plant(), write_csv(tmp_path / "in", raw(reading(sound=None))), tmp_path)
    sensors = {"heat": {}, "noise": {"column": "sound"}, "smell": {}}

    assert store(tmp_path, plant(sensors=sensors)).silent_sensors() == ["noise", "smell"]

    take_in(plant(), write_csv(tmp_path / "in", raw(reading(machine=2))), tmp_path)
    assert store(tmp_path, plant(sensors=sensors)).silent_sensors() == ["smell"]


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_path_is_no_pattern(tmp_path: Path, write: Any) -> None:
    home, other = tmp_path / "plant [ab]*", tmp_path / "plant a"
    take_in(plant(), write(home / "in", raw()), home)
    take_in(plant(), write(other / "in", raw(reading(heat=7.0))), other)

    assert [row[-2] for row in stored(plant(), home)] == [20.5]


def test_the_content_hash_does_not_depend_on_the_layout_of_the_file(tmp_path: Path) -> None:
    rows = """SELECT 'machine ' || i AS name, CASE WHEN i % 3 > 0 THEN i / 7 END AS number,
              CASE WHEN i % 5 > 0 THEN 'ä' || i END AS note, [i::VARCHAR, NULL] AS list,
              TIMESTAMPTZ '2025-01-01' + to_seconds(i) AS time FROM range(5000) r(i)"""
    for name, options in (("a", "ROW_GROUP_SIZE 2048"), ("b", "COMPRESSION zstd")):
        duckdb.execute(f"COPY ({rows}) TO '{tmp_path}/{name}' (FORMAT parquet, {options})")
    changed = rows.replace("i % 5", "i % 6")
    duckdb.execute(f"COPY ({changed}) TO '{tmp_path}/c' (FORMAT parquet)")

    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    assert content_hash(tmp_path / "a") != content_hash(tmp_path / "c")


def test_a_file_is_called_by_the_same_content_while_it_is_written_and_when_it_is_read(
    tmp_path: Path,
) -> None:
    rows = """SELECT 'machine ' || i AS name, CASE WHEN i % 3 > 0 THEN i / 7 END AS number,
              [i::VARCHAR, NULL] AS list, TIMESTAMPTZ '2025-01-01' + to_seconds(i) AS time
              FROM range(130_000) r(i) ORDER BY number, i"""
    read, written = f"FROM read_parquet('{tmp_path}/a')", list[int]()
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        content = raw_files.write_parquet(connection, rows, tmp_path / "a", written.append)
        connection.execute(f"COPY ({rows}) TO '{tmp_path}/b' (FORMAT parquet)")

        assert connection.sql(read).to_arrow_table() == connection.sql(rows).to_arrow_table()
    assert content == content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    assert (len(written), sum(written)) == (2, 130_000)


def test_a_store_is_read_the_same_in_any_time_zone_of_the_session(tmp_path: Path) -> None:
    fleet = plant(partition="day")
    take_in(fleet, write_csv(tmp_path / "in", raw(reading(at=DAYS[0]))), tmp_path)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'Asia/Tokyo'")
        ((time,),) = (
            connection.sql(store(tmp_path, fleet).scan("telemetry")).select("timestamp").fetchall()
        )

    assert time.astimezone(UTC) == datetime.fromisoformat(DAYS[0])


def test_no_batch_is_written_when_there_is_nothing_new(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in", raw())
    take_in(plant(), source, tmp_path)
    before = contents(tmp_path)

    result = take_in(plant(), source, tmp_path, NOW.replace(year=2026))

    assert result.batch is None
    assert contents(tmp_path) == before
