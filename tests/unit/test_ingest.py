"""The ingest: good rows land once, changed ones are versions, bad ones are set aside."""

import random
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_tables import (
    NOW,
    Rows,
    contents,
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

from millwright.errors import DataError, InputError
from millwright.ingest import ingest
from millwright.raw_store import RawStore
from millwright.settings import Engine
from millwright.sources import open_source
from millwright.stores.progress import reporting
from millwright.validation import BEGINNING

MIDNIGHT = datetime(2025, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def iso(hours: float) -> str:
    return (MIDNIGHT + hours * HOUR).isoformat()


def seen(machine: int, heat: float | str | None, known: float, at: float = 0) -> dict[str, Any]:
    """A reading taken `at` an hour of the day that became known at another."""
    return reading(machine, iso(at), heat=heat, seen=iso(known))


def versions(home: Path) -> list[tuple[str, datetime, datetime, float]]:
    return [row[:4] for row in stored(plant(received=True), home)]


def test_the_result_says_what_became_of_every_row(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in", raw(reading(1), reading(2), reading(3), reading(1)))

    result = take_in(plant(), source, tmp_path)

    telemetry = result.tables["telemetry"]
    assert (telemetry.read, telemetry.new, telemetry.refused) == (4, 2, 2)
    assert telemetry.reasons == {"unknown_machine": 1, "duplicate_row": 1}
    assert result.refused == 2
    assert result.summary()["tables"]["machines"]["new"] == 2
    assert result.dataset_version == RawStore(tmp_path / "raw", plant()).dataset_version


def test_the_same_input_twice_changes_no_byte(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in", raw(reading(1), reading(2, heat="warm"), reading(1)))
    first = take_in(plant(), source, tmp_path)
    before = contents(tmp_path)

    second = take_in(plant(), source, tmp_path)

    assert contents(tmp_path) == before
    assert second.batch is None
    assert second.quarantine == first.quarantine
    assert (second.tables["telemetry"].unchanged, second.tables["telemetry"].refused) == (1, 2)


def test_where_every_row_is_refused_the_store_stays_byte_for_byte(tmp_path: Path) -> None:
    fleet = plant()
    take_in(fleet, write_csv(tmp_path / "in", raw()), tmp_path)
    before = contents(tmp_path / "raw")

    bad = write_csv(tmp_path / "bad", raw(reading(7), reading(8)))
    result = take_in(fleet, bad, tmp_path)

    assert result.batch is None
    assert result.tables["telemetry"].reasons == {"unknown_machine": 2}
    assert contents(tmp_path / "raw") == before


def test_first_arrivals_are_known_at_their_own_time_and_machines_from_the_beginning(
    tmp_path: Path,
) -> None:
    take_in(plant(), write_csv(tmp_path / "in", raw()), tmp_path)

    assert stored(plant(), tmp_path)[0][1:3] == (MIDNIGHT, MIDNIGHT)
    assert {row[1] for row in stored(plant(), tmp_path, "machines")} == {BEGINNING}


def test_a_changed_row_is_a_second_version_that_became_known_at_its_ingest(tmp_path: Path) -> None:
    fleet, when = plant(), datetime(2025, 3, 1, tzinfo=UTC)
    machines = raw()["machines"]
    take_in(fleet, write_csv(tmp_path / "1", raw(reading(1), reading(2))), tmp_path)
    older = machines[0] | {"age": 4}
    second = raw(reading(1, heat=99), reading(2), machines=[older, machines[1]])

    result = take_in(fleet, write_csv(tmp_path / "2", second), tmp_path, received=when)

    assert [row[2:4] for row in stored(fleet, tmp_path) if row[0] == "1"] == [
        (MIDNIGHT, 20.5),
        (when, 99.0),
    ]
    assert stored(fleet, tmp_path, "machines")[:2] == [
        ("1", BEGINNING, "m1", 3.0),
        ("1", when, "m1", 4.0),
    ]
    assert result.tables["telemetry"].corrections == 1
    assert result.tables["telemetry"].unchanged == 1
    assert result.tables["machines"].corrections == 1


def test_a_correction_is_newer_than_the_version_it_corrects_whatever_the_clock_says(
    tmp_path: Path,
) -> None:
    fleet, when = plant(), datetime(2025, 3, 1, tzinfo=UTC)
    for place, heat in enumerate((1, 2, 3, 2)):
        source = write_csv(tmp_path / f"{place}", raw(reading(1, heat=heat)))
        take_in(fleet, source, tmp_path, received=when)

    found = [(row[2] - when, row[3]) for row in stored(fleet, tmp_path)]

    second = timedelta(microseconds=1)
    assert found == [(MIDNIGHT - when, 1), (0 * second, 2), (1 * second, 3), (2 * second, 2)]


def test_with_a_received_column_versions_of_one_batch_all_land_in_their_order(
    tmp_path: Path,
) -> None:
    readings = [seen(1, 3, 3), seen(1, 1, 1), seen(1, 2, 2), seen(1, 1, 1.5)]
    source = write_csv(tmp_path / "in", raw(*readings))

    result = take_in(plant(received=True), source, tmp_path)

    assert [(known, heat) for _, _, known, heat in versions(tmp_path)] == [
        (MIDNIGHT + 1 * HOUR, 1),
        (MIDNIGHT + 2 * HOUR, 2),
        (MIDNIGHT + 3 * HOUR, 3),
    ]
    counts = result.tables["telemetry"]
    assert (counts.new, counts.corrections, counts.unchanged) == (1, 2, 1)


def test_with_a_received_column_a_return_to_an_earlier_value_is_a_correction(
    tmp_path: Path,
) -> None:
    fleet = plant(received=True)
    for place, heat in enumerate((1, 2, 1, 1)):
        take_in(fleet, write_csv(tmp_path / f"{place}", raw(seen(1, heat, place))), tmp_path)

    assert [heat for *_, heat in versions(tmp_path)] == [1, 2, 1]


def test_another_value_that_became_known_at_the_same_time_is_refused(tmp_path: Path) -> None:
    fleet = plant(received=True)
    take_in(fleet, write_csv(tmp_path / "1", raw(seen(1, 1, 5))), tmp_path)

    result = take_in(fleet, write_csv(tmp_path / "2", raw(seen(1, 2, 5))), tmp_path)

    assert reasons(refused(result)) == [["conflicting_duplicate"]]
    assert [heat for *_, heat in versions(tmp_path)] == [1]


def test_a_fleet_that_counts_cycles_knows_a_correction_at_its_last_cycle(tmp_path: Path) -> None:
    cycles = {"windows": ["3 cycles"], "error_windows": ["3 cycles"], "time_to_live": "9 cycles"}
    fleet = plant(step="1 cycle", horizon="30 cycles", lead_time="2 cycles", features=cycles)
    tables = raw(
        failures=[{"id": 1, "at": 9, "part": "fan"}], errors=[{"id": 1, "at": 2, "code": "e1"}]
    )
    for name, heat in (("1", 1), ("2", 2)):
        tables["readings"] = [reading(1, 5, heat=heat), reading(1, 8, heat=1)]
        take_in(fleet, write_csv(tmp_path / name, tables), tmp_path)

    received = {row[3]: row[2] for row in stored(fleet, tmp_path) if row[1].hour == 5}

    assert received[2.0] - received[1.0] == 3 * HOUR


def test_a_machine_of_an_earlier_batch_is_known(tmp_path: Path) -> None:
    take_in(plant(), write_csv(tmp_path / "1", raw()), tmp_path)
    third = [{"id": 3, "model": "m1", "age": 1}]
    tables = raw(reading(2, iso(5)), reading(3), machines=third)

    result = take_in(plant(), write_csv(tmp_path / "2", tables), tmp_path)

    assert result.refused == 0


def test_lines_of_csv_that_are_broken_are_set_aside_whole_and_the_rest_lands(
    tmp_path: Path,
) -> None:
    source = write_csv(tmp_path / "in", raw())
    lines = [
        "id,at,heat,sound",
        f"1,{iso(0)},1,1",
        f"1,{iso(1)},1",
        f"1,{iso(2)},1,1,1",
        f"1,{iso(3)},hot,1",
        f"1,{iso(4)},1,1",
        f"1,{iso(5)},1,caf\u00e9",
    ]
    (source / "readings.csv").write_text("\n".join(lines), encoding="latin-1")

    result = take_in(plant(), source, tmp_path)

    found = [(row["row"], row["reason"], row["line"], row["heat"]) for row in refused(result)]
    assert found == [
        (2, "malformed_row", lines[2], None),
        (3, "malformed_row", lines[3], None),
        (4, "not_a_number", None, "hot"),
        (6, "malformed_row", f"1,{iso(5)},1,caf?", None),
    ]
    assert result.tables["telemetry"].read == 6
    assert len(stored(plant(), tmp_path)) == 2


def test_refused_rows_of_several_files_keep_the_file_and_the_row_they_came_from(
    tmp_path: Path,
) -> None:
    source = write_csv(tmp_path / "in", raw())
    (source / "readings.csv").unlink()
    (source / "readings").mkdir()
    for day in (1, 2):
        rows = (f"1,2025-01-0{day},short", f"{day},{iso(24 * day)},1,1", f"{day},{iso(-day)},hot,1")
        text = "\n".join(("id,at,heat,sound", *rows))
        (source / "readings" / f"{day}.csv").write_text(text)
    write_parquet(source / "readings", {"3": [reading(1, iso(72)), reading(1, iso(73), heat=101)]})

    result = take_in(plant(), source, tmp_path)

    found = [(row["origin"], row["row"], row["reason"], row["heat"]) for row in refused(result)]
    assert found == [
        ("readings/1.csv", 1, "malformed_row", None),
        ("readings/1.csv", 3, "not_a_number", "hot"),
        ("readings/2.csv", 1, "malformed_row", None),
        ("readings/2.csv", 3, "not_a_number", "hot"),
        ("readings/3.parquet", 2, "out_of_range", "101.0"),
    ]
    assert result.tables["telemetry"].new == 3


@pytest.mark.parametrize(
    "name", ["place", "Place", "reason", "reasons", "origin", "row", "line", "data", "c0", "good"]
)
def test_every_refused_row_is_set_aside_whatever_the_data_call_their_columns(
    tmp_path: Path, name: str
) -> None:
    fleet = plant(sensors={"heat": {"column": name}, "noise": {"column": "sound"}})
    source = write_csv(tmp_path / "in", raw())
    lines = [f"id,at,{name},sound", f"1,{iso(0)},1,1", f"1,{iso(1)},1", f"1,{iso(2)},hot,1"]
    (source / "readings.csv").write_text("\n".join(lines))

    rows = refused(take_in(fleet, source, tmp_path))

    own = ("reason", "reasons", "origin", "row", "line")
    cell = f"{name}_" if name in own else name
    assert [(row["row"], row["reason"], row["line"], row[cell]) for row in rows] == [
        (2, "malformed_row", lines[2], None),
        (3, "not_a_number", None, "hot"),
    ]


@pytest.mark.parametrize("name", ["held", "before", "number", "place", "reason", "other"])
def test_a_sensor_may_be_called_as_what_the_ingest_notes_of_a_row(
    tmp_path: Path, name: str
) -> None:
    sensors = {name: {"column": "heat"}, "noise": {"column": "sound"}}
    fleet = plant(received=True, sensors=sensors)
    readings = [seen(1, 7, 1), seen(1, 8, 2), seen(1, 8, 3), seen(2, "hot", 3)]

    result = take_in(fleet, write_csv(tmp_path / "in", raw(*readings)), tmp_path)

    counts = result.tables["telemetry"]
    assert (counts.new, counts.corrections, counts.unchanged) == (1, 1, 1)
    assert reasons(refused(result)) == [["not_a_number"]]


@pytest.mark.parametrize("table", ["readings", "failures", "machines"])
def test_a_required_table_without_rows_is_refused(tmp_path: Path, table: str) -> None:
    source = write_csv(tmp_path / "in", raw())
    path = source / f"{table}.csv"
    path.write_text(path.read_text().partition("\n")[0] + "\n")

    with pytest.raises(DataError, match=f"{table}.csv in {source} has no rows"):
        take_in(plant(), source, tmp_path)

    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("machines", [True, False])
@pytest.mark.parametrize("empty", ["readings", "failures"])
def test_a_later_batch_may_come_without_rows_of_a_table(
    tmp_path: Path, empty: str, machines: bool
) -> None:
    fleet = plant(machines=machines)
    take_in(fleet, write_csv(tmp_path / "1", raw()), tmp_path)
    failure = {"id": 1, "at": iso(9), "part": "fan"}
    source = write_csv(tmp_path / "2", raw(reading(1, iso(9)), failures=[failure]))
    path = source / f"{empty}.csv"
    path.write_text(path.read_text().partition("\n")[0] + "\n")

    tables = take_in(fleet, source, tmp_path).tables

    new = {"telemetry": tables["telemetry"].new, "failures": tables["failures"].new}
    assert new == (
        {"telemetry": 0, "failures": 1} if empty == "readings" else {"telemetry": 1, "failures": 0}
    )


def test_a_file_that_breaks_after_it_was_checked_leaves_the_store_as_it_was(
    tmp_path: Path,
) -> None:
    fleet = plant()
    take_in(fleet, write_csv(tmp_path / "1", raw()), tmp_path)
    before = contents(tmp_path / "raw")
    source = open_source(write_parquet(tmp_path / "2", raw(reading(2))), fleet)
    (tmp_path / "2" / "failures.parquet").write_bytes(b"PAR1 and no more")

    with pytest.raises(DataError, match=r"failures\.parquet"):
        ingest(fleet, source, RawStore(tmp_path / "raw", fleet), tmp_path / "q", Engine(), NOW)

    assert contents(tmp_path / "raw") == before


def test_a_quarantine_that_cannot_be_written_is_named_and_nothing_is_committed(
    tmp_path: Path,
) -> None:
    (tmp_path / "quarantine").write_text("")

    with pytest.raises(InputError, match=f"cannot write to the quarantine {tmp_path}"):
        take_in(plant(), write_csv(tmp_path / "in", raw(reading(9))), tmp_path)

    assert not (tmp_path / "raw").exists()


def test_columns_of_the_data_with_the_names_of_notes_are_kept_beside_them(tmp_path: Path) -> None:
    fleet = plant(sensors={"heat": {"column": "row"}, "noise": {"column": "Line"}})
    source = write_csv(tmp_path / "in", raw({"id": 1, "at": iso(0), "row": "x", "Line": 1}))

    (row,) = refused(take_in(fleet, source, tmp_path))

    assert (row["row"], row["row_"], row["line"], row["Line_"]) == (1, "x", None, "1")


readings = st.lists(
    st.builds(
        seen,
        machine=st.integers(1, 2),
        at=st.integers(0, 3),
        known=st.integers(3, 5),
        heat=st.none(),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: (row["id"], row["at"], row["seen"]),
)


@settings(deadline=None, max_examples=8)
@given(rows=readings, chance=st.randoms(use_true_random=False))
def test_the_order_of_rows_and_their_split_into_batches_make_no_difference(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, chance: random.Random
) -> None:
    home, fleet = tmp_path_factory.mktemp("split"), plant(received=True)
    rows = [row | {"heat": place} for place, row in enumerate(rows)]
    whole = take_in(fleet, write_csv(home / "whole", raw(*rows)), home / "a")
    chance.shuffle(rows)
    cut = chance.randrange(1, len(rows)) if len(rows) > 1 else 1
    shuffled = take_in(fleet, write_parquet(home / "shuffled", raw(*rows)), home / "b")
    for name, part in (("first", rows[:cut]), ("second", rows[cut:] or rows[:cut])):
        take_in(fleet, write_csv(home / name, raw(*part)), home / "c")

    assert shuffled.batch == whole.batch
    assert versions(home / "c") == versions(home / "b") == versions(home / "a")
    assert len(versions(home / "a")) == len(rows)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import pandas  # once, before the forks: DuckDB and Arrow would each load it
    from raw_tables import plant, take_in

    home, source = Path({home!r}), {source!r}
    CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")

    def run(place, moment):
        "Take the source in; die before the change to the disk whose number is `moment`."
        place.mkdir(exist_ok=True)
        count = 0
        def watch(event, details):
            nonlocal count
            if event in CHANGES or event == "open" and str(place) in str(details[0]):
                count += 1
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
        child = os.fork()
        if not child:
            sys.addaudithook(watch)
            take_in(plant(), source, place)
            (place / "count").write_text(str(count))
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert run(home / "undisturbed", None) == 0
    total = int((home / "undisturbed" / "count").read_text())
    for moment in {moments!r}:
        place = home / f"killed-{{moment}}"
        assert run(place, 1 + int(moment * total)) == -signal.SIGKILL
        assert run(place, None) == 0
    place = home / "killed-often"
    for moment in sorted({moments!r}):
        run(place, 1 + int(moment * total))
    assert run(place, None) == 0
"""


def test_a_run_that_is_killed_at_any_moment_and_run_again_ends_the_same(tmp_path: Path) -> None:
    rows = [reading(1 + hour % 3, iso(hour * 200), heat=hour) for hour in range(12)]
    source = write_csv(tmp_path / "in", raw(*rows, reading(1, heat="hot")))
    script = KILLED.format(
        tests=str(Path(__file__).parent),
        home=str(tmp_path),
        source=str(source),
        moments=[random.Random(seed).random() for seed in range(5)] + [0.999],
    )

    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)

    expected = {name: contents(tmp_path / "undisturbed" / name) for name in ("raw", "quarantine")}
    places = list(tmp_path.glob("killed-*"))
    assert len(places) == 7
    for place in places:
        assert {name: contents(place / name) for name in ("raw", "quarantine")} == expected


@pytest.mark.parametrize("reason", ["not_finite", "out_of_range", "no_reading"])
def test_one_bad_reading_in_a_parquet_file_is_found_whatever_its_statistics_say(
    tmp_path: Path, reason: str
) -> None:
    heat = {"not_finite": float("nan"), "out_of_range": 100.5, "no_reading": None}[reason]
    source = write_parquet(tmp_path / "in", raw(reading(1, iso(1))))
    readings = [reading(1, iso(hour)) for hour in range(1, 9)] + [reading(1, iso(9), heat=heat)]
    if reason == "no_reading":
        readings[-1]["sound"] = None
    # Arrow leaves NaN out of the least and the largest value that it writes beside a column.
    pq.write_table(pa.Table.from_pylist(readings), source / "readings.parquet")

    result = take_in(plant(), source, tmp_path)

    assert result.reasons == {reason: 1}
    assert result.tables["telemetry"].new == 8


def test_a_file_that_changes_between_check_and_commit_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_parquet(tmp_path / "in", raw(reading(1, iso(1))))
    write = RawStore.draft

    def change(*arguments: Any) -> Any:
        write_parquet(tmp_path / "in", raw(reading(1, iso(1), heat=1000.0)))
        return write(*arguments)

    monkeypatch.setattr(RawStore, "draft", change)
    with pytest.raises(DataError, match=r"\.parquet was changed while it was read"):
        take_in(plant(), source, tmp_path)

    assert not (tmp_path / "raw").exists()


def test_a_file_with_a_column_called_as_duckdb_counts_rows_is_taken_in(tmp_path: Path) -> None:
    readings = [reading(1, iso(hour), File_Row_Number=7) for hour in range(3)]
    source = write_parquet(tmp_path / "in", raw(*readings, reading(1, iso(3), heat=101)))

    result = take_in(plant(), source, tmp_path)

    assert (result.tables["telemetry"].new, result.refused) == (3, 1)
    assert [row["row"] for row in refused(result)] == [4]


def test_a_delivery_of_many_periods_is_cut_into_them(tmp_path: Path) -> None:
    readings = [reading(1, iso(24 * day)) for day in range(6)]
    fleet = plant(partition="day")

    result = take_in(fleet, write_parquet(tmp_path / "in", raw(*readings)), tmp_path)

    assert result.tables["telemetry"].new == 6
    assert len(RawStore(tmp_path / "raw", fleet).files("telemetry")) == 6
    assert len(stored(fleet, tmp_path)) == 6


def test_rows_are_counted_while_they_are_read_and_written(tmp_path: Path) -> None:
    readings = [reading(1, iso(hour)) for hour in range(4)]
    source = write_parquet(tmp_path / "in", raw(*readings, reading(1, iso(4), heat=101)))
    told: list[tuple[str, int, int]] = []

    with reporting(lambda *words: told.append(words)):
        take_in(plant(), source, tmp_path)

    about = [words for words in told if words[0].endswith("telemetry")]
    assert about == [
        ("reading telemetry", 0, 5),
        ("reading telemetry", 5, 5),
        ("writing telemetry", 0, 4),
        ("writing telemetry", 4, 4),
    ]
