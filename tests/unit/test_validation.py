"""Each reason that refuses a row, tried with the cell that brings it about."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_tables import (
    plant,
    raw,
    reading,
    reasons,
    refused,
    stored,
    take_in,
    write_csv,
    write_parquet,
)

from millwright.validation import BEGINNING, REASONS, checks, columns, key, schema

BAD_READINGS = [
    ({"id": ""}, ["missing_machine"]),
    ({"id": "9"}, ["unknown_machine"]),
    ({"at": ""}, ["missing_timestamp"]),
    ({"at": "yesterday"}, ["bad_timestamp"]),
    ({"at": "2025-02-30T00:00:00Z"}, ["bad_timestamp"]),
    ({"at": "infinity"}, ["bad_timestamp"]),
    ({"at": "1735689600"}, ["bad_timestamp"]),
    ({"at": "2025-01-01 00:00:00 Europe/Berlin"}, ["bad_timestamp"]),
    ({"at": "2025-01-01 00:00:00"}, ["naive_timestamp"]),
    ({"at": "2025-01-01"}, ["naive_timestamp"]),
    ({"at": "1970-01-01T00:00:00Z"}, ["ancient_timestamp"]),
    ({"at": "0205-01-01T00:00:00Z"}, ["ancient_timestamp"]),
    ({"at": "1979-12-31T23:59:59.999999Z"}, ["ancient_timestamp"]),
    ({"at": "2025-06-01T00:00:00.000001Z"}, ["future_timestamp"]),
    ({"heat": "warm"}, ["not_a_number"]),
    ({"heat": "1,5"}, ["not_a_number"]),
    ({"heat": "NaN"}, ["not_finite"]),
    ({"heat": "-inf"}, ["not_finite"]),
    ({"sound": "1e999"}, ["not_finite"]),
    ({"heat": "100.5"}, ["out_of_range"]),
    ({"heat": "-0.1"}, ["out_of_range"]),
    ({"heat": "", "sound": ""}, ["no_reading"]),
    ({"heat": "warm", "sound": "inf"}, ["not_a_number", "not_finite"]),
    ({"id": "", "at": "", "heat": "200"}, ["missing_machine", "missing_timestamp", "out_of_range"]),
]


def test_a_bad_reading_is_refused_for_every_reason_that_applies_and_a_good_one_lands(
    tmp_path: Path,
) -> None:
    readings = [reading(2), *(reading(1) | cells for cells, _ in BAD_READINGS)]

    result = take_in(plant(), write_csv(tmp_path / "in", raw(*readings)), tmp_path)

    rows = refused(result)
    assert reasons(rows) == [expected for _, expected in BAD_READINGS]
    assert [row["reason"] for row in rows] == [expected[0] for _, expected in BAD_READINGS]
    assert [(row["origin"], row["row"]) for row in rows] == [
        ("readings.csv", 2 + place) for place in range(len(rows))
    ]
    for row, (cells, _) in zip(rows, BAD_READINGS, strict=True):
        assert {name: row[name] or "" for name in cells} == cells, "cells are kept as they came"
    assert [row[0] for row in stored(plant(), tmp_path)] == ["2"]


@pytest.mark.parametrize(
    ("table", "row", "reason"),
    [
        ("errors", {"id": 1, "at": "2025-01-01T00:00Z", "code": "e9"}, "unknown_code"),
        ("errors", {"id": 1, "at": "2025-01-01T00:00Z", "code": ""}, "unknown_code"),
        ("failures", {"id": 1, "at": "2025-01-01T00:00Z", "part": "wheel"}, "unknown_component"),
        ("failures", {"id": 3, "at": "2025-01-01T00:00Z", "part": "fan"}, "unknown_machine"),
        ("machines", {"id": 3, "model": "m9", "age": 1}, "unknown_category"),
        ("machines", {"id": 3, "model": "m1", "age": "old"}, "not_a_number"),
        ("machines", {"id": 3, "model": "m1", "age": 61}, "out_of_range"),
    ],
)
def test_the_other_tables_are_checked_too(
    tmp_path: Path, table: str, row: dict[str, Any], reason: str
) -> None:
    tables = raw()
    tables[table] = [*tables[table], row]

    result = take_in(plant(), write_csv(tmp_path / "in", tables), tmp_path)

    assert reasons(refused(result, table)) == [[reason]]
    assert result.reasons == {reason: 1}
    assert result.tables[table].new == len(tables[table]) - 1


def test_a_row_cannot_have_become_known_before_it_happened_or_at_no_time(tmp_path: Path) -> None:
    readings = [
        reading(1, "2025-01-01T00:00:00Z", seen="2024-12-31T23:59:59Z"),
        reading(1, "2025-01-01T01:00:00Z", seen=""),
        reading(1, "2025-01-01T02:00:00Z", seen="soon"),
        reading(1, "2025-01-01T03:00:00Z", seen="2025-01-01T03:00:00"),
        reading(1, "2025-01-01T04:00:00Z", seen="2026-01-01T00:00:00Z"),
        reading(1, "2025-01-01T05:00:00Z", seen="1970-01-01T00:00:00Z"),
        reading(1, "2025-01-01T06:00:00Z", seen="2025-01-01T06:00:00Z"),
    ]

    result = take_in(plant(received=True), write_csv(tmp_path / "in", raw(*readings)), tmp_path)

    assert reasons(refused(result)) == [
        ["received_before_event"],
        ["missing_received"],
        ["bad_received"],
        ["naive_timestamp"],
        ["future_timestamp"],
        ["ancient_timestamp", "received_before_event"],
    ]
    assert result.tables["telemetry"].new == 1


def test_of_equal_rows_the_first_stays_and_of_contradicting_ones_none(tmp_path: Path) -> None:
    readings = [
        reading(1, heat=1),
        reading(2, heat=1),
        reading(1, heat="1.0"),
        reading(2, heat=2),
        reading(2, heat=1),
        reading(1, "2025-01-01T01:00:00+01:00", heat=1),  # the first again, in another zone
    ]

    result = take_in(plant(), write_csv(tmp_path / "in", raw(*readings)), tmp_path)

    found = {row["row"]: row["reason"] for row in refused(result)}
    assert found == {
        2: "conflicting_duplicate",
        3: "duplicate_row",
        4: "conflicting_duplicate",
        5: "conflicting_duplicate",
        6: "duplicate_row",
    }
    assert result.tables["telemetry"].new == 1


def test_two_errors_and_two_failures_at_one_time_are_not_duplicates(tmp_path: Path) -> None:
    when = {"id": 1, "at": "2025-01-01T00:00:00Z"}
    tables = raw(
        errors=[when | {"code": "e1"}, when | {"code": "e2"}],
        failures=[when | {"part": "pump"}, when | {"part": "fan"}],
    )

    result = take_in(plant(), write_csv(tmp_path / "in", tables), tmp_path)

    assert result.refused == 0
    assert (result.tables["errors"].new, result.tables["failures"].new) == (2, 2)


def test_a_gap_in_one_sensor_is_no_fault(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in", raw(reading(1, heat="", sound="  2.5 ")))

    take_in(plant(), source, tmp_path)

    ((*_, heat, noise),) = stored(plant(), tmp_path)
    assert (heat, noise) == (None, 2.5)


@pytest.mark.parametrize("machine", [1, 1.0, "1", " 1 ", "1.0", True])
def test_a_machine_has_one_name_however_it_is_written(tmp_path: Path, machine: Any) -> None:
    expected = "true" if machine is True else "1"
    tables = raw(reading(machine), machines=[{"id": expected, "model": "m1", "age": 1}])
    tables = {name: tables[name] for name in ("readings", "machines")} | {
        name: [tables[name][0] | {"id": expected}] for name in ("failures", "errors")
    }

    result = take_in(plant(), write_parquet(tmp_path / "in", tables), tmp_path)

    assert result.refused == 0
    assert stored(plant(), tmp_path)[0][0] == expected


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("2025-01-01 12:00:00", "2025-01-01T11:00:00"),
        ("2025-04-01 12:00", "2025-04-01T10:00:00"),
        ("2025-03-30 02:30:00", "2025-03-30T01:30:00"),  # left out: the hour after
        ("2024-10-27 02:30:00", "2024-10-27T01:30:00"),  # twice: the second, in standard time
        ("2025-01-01T12:00:00Z", "2025-01-01T12:00:00"),
        ("2025-01-01 12:00:00+05:30", "2025-01-01T06:30:00"),
        ("2025-01-01 12:00:00.1234567 UTC", "2025-01-01T12:00:00.123456"),
    ],
)
def test_a_time_without_a_zone_is_read_in_that_of_the_fleet(
    tmp_path: Path, local: str, expected: str
) -> None:
    fleet = plant(timezone="Europe/Berlin")

    take_in(fleet, write_csv(tmp_path / "in", raw(reading(at=local))), tmp_path)

    assert stored(fleet, tmp_path)[0][1] == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_of_the_hour_that_a_zone_repeats_two_rows_need_a_zone_to_be_told_apart(
    tmp_path: Path,
) -> None:
    fleet, local = plant(timezone="Europe/Berlin"), "2024-10-27 02:30:00"
    readings = [reading(1, local, heat=1), reading(1, local, heat=2)]
    readings += [reading(2, f"{local}+02:00", heat=1), reading(2, f"{local}+01:00", heat=2)]

    result = take_in(fleet, write_csv(tmp_path / "in", raw(*readings)), tmp_path)

    assert result.reasons == {"conflicting_duplicate": 2}
    assert [(row[0], row[3]) for row in stored(fleet, tmp_path)] == [("2", 1), ("2", 2)]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_times_of_parquet_are_read_whatever_their_unit_and_zone(
    tmp_path: Path, unit: str, zone: str | None
) -> None:
    readings = [reading(at=datetime(2025, 1, 1, 12)), reading(at=None)]  # noqa: DTZ001
    table = pa.Table.from_pylist(readings)
    times = pa.array([row["at"] for row in readings], pa.timestamp(unit, zone))
    table = table.set_column(1, "at", times)
    source = write_parquet(tmp_path / "in", raw())
    pq.write_table(table, source / "readings.parquet")
    berlin = plant(timezone="Europe/Berlin")

    result = take_in(plant(), source, tmp_path / "a")
    take_in(berlin, source, tmp_path / "b")

    naive = [] if zone else [["naive_timestamp"]]
    assert reasons(refused(result)) == [*naive, ["missing_timestamp"]]
    expected = datetime(2025, 1, 1, 12 if zone else 11, tzinfo=UTC)
    assert [row[1] for row in stored(berlin, tmp_path / "b")] == [expected]


def test_a_row_may_be_as_old_as_the_first_record_of_a_machine_and_no_older(tmp_path: Path) -> None:
    times = [BEGINNING, BEGINNING - timedelta(microseconds=1)]
    readings = [reading(at=time.isoformat()) for time in times]
    result = take_in(plant(), write_csv(tmp_path / "in", raw(*readings)), tmp_path)

    assert [row[1] for row in stored(plant(), tmp_path)] == [BEGINNING]
    assert result.reasons == {"ancient_timestamp": 1}


def test_columns_that_differ_in_their_case_alone_are_two(tmp_path: Path) -> None:
    fleet = plant(sensors={"heat": {"range": [0, 100]}, "noise": {"column": "HEAT"}})
    cells = {"id": 1, "at": "2025-01-01T00:00:00Z", "heat": 1, "HEAT": 2}

    take_in(fleet, write_csv(tmp_path / "in", raw(cells)), tmp_path)

    assert stored(fleet, tmp_path)[0][3:] == (1.0, 2.0)


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_fleet_that_counts_cycles_gets_an_hour_for_each(tmp_path: Path, write: Any) -> None:
    fleet = plant(
        machines=False,
        step="1 cycle",
        horizon="30 cycles",
        lead_time="2 cycles",
        features={
            "windows": ["5 cycles"],
            "error_windows": ["5 cycles"],
            "time_to_live": "9 cycles",
        },
    )
    cycles = [0, 1, 31.0, 2.5, -1, 1e12]
    source = write(
        tmp_path / "in",
        {
            "readings": [reading(at=float(cycle)) for cycle in cycles],
            "failures": [{"id": 1, "at": 32, "part": "pump"}],
            "errors": [{"id": 1, "at": 3, "code": "e1"}],
        },
    )

    result = take_in(fleet, source, tmp_path)

    assert [row[1].isoformat() for row in stored(fleet, tmp_path)] == [
        "2000-01-01T00:00:00+00:00",
        "2000-01-01T01:00:00+00:00",
        "2000-01-02T07:00:00+00:00",
    ]
    assert result.reasons == {"bad_timestamp": 3}


def test_a_part_may_have_been_replaced_before_the_first_cycle(tmp_path: Path) -> None:
    lengths = {"step": "1 cycle", "horizon": "30 cycles", "lead_time": "2 cycles"}
    windows = {"windows": ["5 cycles"], "error_windows": ["5 cycles"], "time_to_live": "9 cycles"}
    fleet = plant(machines=False, maintenance=True, **lengths, features=windows)
    tables = {
        "readings": [reading(at=0)],
        "failures": [{"id": 1, "at": 32, "part": "pump"}],
        "errors": [{"id": 1, "at": 3, "code": "e1"}],
        "repairs": [{"id": 1, "at": cycle, "part": "pump"} for cycle in (-31, 7, -100_001)],
    }

    result = take_in(fleet, write_csv(tmp_path / "in", tables), tmp_path)

    replaced = [row[1].isoformat() for row in stored(fleet, tmp_path, "maintenance")]
    assert replaced == ["1999-12-30T17:00:00+00:00", "2000-01-01T07:00:00+00:00"]
    assert result.reasons == {"bad_timestamp": 1}


def test_without_a_machines_table_the_machines_are_those_that_sent_readings(
    tmp_path: Path,
) -> None:
    tables = raw(errors=[{"id": id_, "at": "2025-01-01T00:00Z", "code": "e1"} for id_ in (1, 2)])
    del tables["machines"]

    result = take_in(plant(machines=False), write_csv(tmp_path / "in", tables), tmp_path)

    assert reasons(refused(result, "errors")) == [["unknown_machine"]]


@settings(deadline=None, max_examples=10)
@given(st.lists(st.floats(0, 100).map(abs), min_size=1, max_size=60))
def test_a_number_comes_through_text_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    home = tmp_path_factory.mktemp("floats")
    readings = [
        reading(1, f"2025-01-01T00:00:{second:02}Z", heat=repr(value))
        for second, value in enumerate(values)
    ]

    take_in(plant(), write_csv(home / "in", raw(*readings)), home)

    assert [row[3].hex() for row in stored(plant(), home)] == [value.hex() for value in values]


def test_the_schema_follows_from_the_fleet_file() -> None:
    fleet = plant(received=True)

    assert schema(fleet, "telemetry") == {
        "machine_id": "VARCHAR",
        "timestamp": "TIMESTAMP WITH TIME ZONE",
        "received": "TIMESTAMP WITH TIME ZONE",
        "heat": "DOUBLE",
        "noise": "DOUBLE",
    }
    assert [(c.name, c.source, c.key) for c in columns(fleet, "telemetry")][-1] == (
        "noise",
        "sound",
        "sensors.noise.column",
    )
    assert key(fleet, "failures") == ["machine_id", "timestamp", "component"]
    assert key(fleet, "machines") == ["machine_id"]


@pytest.mark.parametrize("table", ["machines", "telemetry", "errors", "failures"])
def test_every_check_has_a_reason_that_is_on_the_list(table: str) -> None:
    fleet = plant(received=True)
    types = {column.source: "VARCHAR" for column in columns(fleet, table)}

    found = [check.reason for check in checks(fleet, table, types, datetime.now(UTC))]

    assert set(found) <= set(REASONS)
    assert len(found) == len(set(found))


def test_a_cycle_is_neither_ancient_nor_in_the_future() -> None:
    fleet = plant(received=True).model_copy(update={"counts_cycles": True})
    types = {column.source: "VARCHAR" for column in columns(fleet, "telemetry")}

    found = {check.reason for check in checks(fleet, "telemetry", types, datetime.now(UTC))}

    assert not found & {"ancient_timestamp", "future_timestamp"}
