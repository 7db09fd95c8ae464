import errno
import math
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millwright.errors import (
    BusyError,
    ConfigurationError,
    DataError,
    InputError,
    MillwrightError,
)
from millwright.stores import asof_join, parquet_files
from millwright.stores.asof_join import History

NOON = datetime(2025, 3, 30, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
INSTANT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("machine_id", pa.string()),
        ("event_timestamp", INSTANT),
        ("created_timestamp", INSTANT),
        ("load", pa.float32()),
    ]
)


def write(path: Path, *rows: tuple, schema: pa.Schema = SCHEMA) -> Path:
    """Write rows (machine, event, created, load) as one parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in schema]
    pq.write_table(pa.table(columns, schema=schema), path)
    return path


def history(place: Path, **changes: object) -> History:
    features = changes.pop("features", {"load": "load"})
    parts = {
        "name": "readings",
        "files": parquet_files.find(place),
        "keys": {"machine_id": "machine_id"},
        "event": "event_timestamp",
        "created": "created_timestamp",
        "features": features,
        "types": dict.fromkeys(features, pa.float32()),
    }
    return History(**parts | changes)


def cutoffs(*rows: tuple) -> pa.Table:
    machines, times = zip(*rows, strict=True)
    return pa.table({"machine_id": pa.array(machines, pa.string()), "event_timestamp": times})


def join(asked: pa.Table, *histories: History, as_known: bool = True) -> pa.Table:
    with parquet_files.connect(threads=2) as connection:
        return asof_join.join(connection, asked, "event_timestamp", histories, as_known=as_known)


def loads(asked: pa.Table, *histories: History, as_known: bool = True) -> list[float | None]:
    return join(asked, *histories, as_known=as_known)["load"].to_pylist()


def test_the_newest_row_by_event_time_counts(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON - HOUR, NOON - HOUR, 1), ("m", NOON, NOON, 2))
    asked = cutoffs(("m", NOON - HOUR), ("m", NOON - TICK), ("m", NOON), ("m", NOON + HOUR))
    assert loads(asked, history(tmp_path)) == [1, 1, 2, 2]


def test_a_row_is_unseen_until_it_is_true_and_known(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON + HOUR, 1), ("n", NOON, NOON - HOUR, 2))
    asked = cutoffs(("m", NOON + HOUR - TICK), ("m", NOON + HOUR), ("n", NOON - TICK), ("n", NOON))
    assert loads(asked, history(tmp_path)) == [None, 1, None, 2]


def test_a_late_correction_counts_from_when_it_became_known(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1), ("m", NOON, NOON + HOUR, 2))
    asked = cutoffs(("m", NOON + HOUR - TICK), ("m", NOON + HOUR))
    assert loads(asked, history(tmp_path)) == [1, 2]


def test_a_late_correction_of_an_old_row_does_not_displace_a_newer_one(tmp_path):
    write(
        tmp_path / "a.parquet",
        ("m", NOON - HOUR, NOON + HOUR, 1),
        ("m", NOON, NOON, 2),
        ("m", NOON + 2 * HOUR, NOON + 2 * HOUR, 3),
    )
    assert loads(cutoffs(("m", NOON + HOUR), ("m", NOON + 2 * HOUR)), history(tmp_path)) == [2, 3]


def test_without_as_known_the_created_time_only_breaks_ties(tmp_path):
    write(
        tmp_path / "a.parquet",
        ("m", NOON, NOON + 9 * HOUR, 2),
        ("m", NOON, NOON, 1),
        ("m", NOON, None, 0),
    )
    assert loads(cutoffs(("m", NOON)), history(tmp_path), as_known=False) == [2]


def test_of_rows_equal_in_both_times_the_last_in_the_files_counts(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1), ("m", NOON, NOON, 3))
    write(tmp_path / "b" / "a.parquet", ("m", NOON, NOON, 2))
    for as_known in (True, False):
        assert loads(cutoffs(("m", NOON)), history(tmp_path), as_known=as_known) == [2]


def test_a_row_that_was_never_known_is_seen_only_without_as_known(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, None, 1))
    assert loads(cutoffs(("m", NOON + HOUR)), history(tmp_path)) == [None]
    assert loads(cutoffs(("m", NOON + HOUR)), history(tmp_path), as_known=False) == [1]


def test_a_history_without_created_times_is_known_at_once(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON + HOUR, 1), ("m", NOON, NOON, 2))
    for as_known in (True, False):
        found = loads(cutoffs(("m", NOON)), history(tmp_path, created=None), as_known=as_known)
        assert found == [2]


def test_a_row_lives_up_to_and_including_the_end_of_its_time(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1))
    asked = cutoffs(("m", NOON + HOUR), ("m", NOON + HOUR + TICK), ("m", NOON + 99999 * HOUR))
    assert loads(asked, history(tmp_path, time_to_live=HOUR)) == [1, None, None]
    assert loads(asked, history(tmp_path, time_to_live=timedelta(0))) == [1, 1, 1]
    assert loads(asked, history(tmp_path, time_to_live=timedelta.max)) == [1, 1, 1]


def test_many_machines_over_ten_thousand_years(tmp_path):
    """Keys and times together are more than one number has room for."""
    machines = [f"m{number}" for number in range(40)]
    first, last = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
    write(
        tmp_path / "a.parquet",
        *((machine, first, first, 1) for machine in machines),
        *((machine, last - HOUR, last, 2) for machine in machines),
    )
    times = (first - TICK, first, last - TICK, last, last + TICK)
    asked = cutoffs(*((machine, time) for machine in machines for time in times))
    assert loads(asked, history(tmp_path)) == [None, 1, 1, 2, 2] * 40
    assert loads(asked, history(tmp_path), as_known=False) == [None, 1, 2, 2, 2] * 40


def test_a_correction_does_not_prolong_the_life_of_a_row(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1), ("m", NOON, NOON + 2 * HOUR, 2))
    asked = cutoffs(("m", NOON + 2 * HOUR))
    assert loads(asked, history(tmp_path, time_to_live=HOUR)) == [None]


def test_rows_come_back_in_their_order_with_duplicates_and_other_columns_as_they_were(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1), ("n", NOON, NOON, 2))
    rows = [("n", NOON), ("m", NOON), ("x", NOON), ("n", NOON), (None, NOON), ("m", NOON - HOUR)]
    asked = cutoffs(*rows)
    asked = asked.append_column("label", pa.array([1, 0, None, 1, 0, 0], pa.int8()))
    asked = asked.append_column(
        "site", pa.array(["b", "a", "a", "b", "a", None]).dictionary_encode()
    )
    result = join(asked, history(tmp_path))
    assert result.drop_columns("load").equals(asked, check_metadata=True)
    assert result["load"].to_pylist() == [2, 1, None, 2, None, None]


def test_null_keys_and_null_times_find_nothing(tmp_path):
    old = datetime(1960, 1, 1, tzinfo=UTC)  # before what a time of zero would be
    write(tmp_path / "a.parquet", (None, NOON, NOON, 1), ("m", None, NOON, 2), ("n", old, old, 3))
    asked = cutoffs((None, NOON), ("m", NOON), ("n", None), ("n", NOON))
    for as_known in (True, False):
        assert loads(asked, history(tmp_path), as_known=as_known) == [None, None, None, 3]
    untyped = pa.table({"machine_id": pa.nulls(1), "event_timestamp": pa.array([NOON], INSTANT)})
    assert loads(untyped, history(tmp_path)) == [None]


def test_no_cutoffs_give_no_rows_but_all_columns(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1))
    asked = cutoffs(("m", NOON)).slice(0, 0)
    result = join(asked, history(tmp_path))
    assert result.num_rows == 0
    assert result.schema.field("load").type == pa.float32()


@pytest.mark.parametrize("there", ["missing", "empty folder", "file without rows"])
def test_a_history_without_rows_gives_nulls_of_the_right_type(tmp_path, there):
    place = tmp_path / "view"
    if there != "missing":
        place.mkdir()
    if there == "file without rows":
        write(place / "a.parquet")
    result = join(cutoffs(("m", NOON), ("n", NOON)), history(place))
    assert result["load"].to_pylist() == [None, None]
    assert result.schema.field("load").type == pa.float32()


def test_several_histories_with_keys_of_their_own_are_joined_at_once(tmp_path):
    write(tmp_path / "a" / "a.parquet", ("m", NOON, NOON, 1), ("n", NOON, NOON, 2))
    schema = pa.schema(
        [("who", pa.string()), ("slot", pa.int32()), ("at", INSTANT), ("wear", pa.int64())]
    )
    rows = (("m", 1, NOON, 10), ("m", 2, NOON, 20), (None, 1, NOON, 30))
    write(tmp_path / "b" / "a.parquet", *rows, schema=schema)
    asked = pa.table(
        {
            "machine_id": ["m", "m", None, "m"],
            "position": [1, 2, 1, None],
            "other": ["n", "m", "n", "x"],
            "event_timestamp": [NOON] * 4,
        }
    )
    result = join(
        asked,
        history(tmp_path / "a"),
        history(
            tmp_path / "b",
            keys={"machine_id": "who", "position": "slot"},
            event="at",
            created=None,
            features={"wear": "wear"},
        ),
        history(tmp_path / "a", keys={"other": "machine_id"}, features={"other_load": "load"}),
    )
    assert result.select(["load", "wear", "other_load"]).to_pydict() == {
        "load": [1, 1, None, 1],
        "wear": [10, 20, None, None],
        "other_load": [2, 1, 2, None],
    }


def test_rows_without_keys_concern_everybody(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1), ("n", NOON + HOUR, NOON + HOUR, 2))
    asked = cutoffs(("x", NOON), (None, NOON + HOUR))
    assert loads(asked, history(tmp_path, keys={})) == [1, 2]


def test_types_and_nulls_of_features_are_kept(tmp_path):
    types = {
        "i8": (pa.int8(), -1),
        "i64": (pa.int64(), 2**62 + 1),
        "f32": (pa.float32(), 0.5),
        "text": (pa.string(), "ü'\""),
        "flag": (pa.bool_(), True),
        "moment": (INSTANT, NOON),
        "list": (pa.list_(pa.float32()), [1.0, 2.0]),
        "nothing": (pa.int16(), None),
    }
    schema = pa.schema(
        [SCHEMA.field("machine_id"), SCHEMA.field("event_timestamp")]
        + [(name, kind) for name, (kind, _) in types.items()]
    )
    row = ("m", NOON, *(value for _, value in types.values()))
    write(tmp_path / "a.parquet", row, schema=schema)
    features = {name: name for name in types}
    result = join(cutoffs(("m", NOON)), history(tmp_path, created=None, features=features))
    for name, (kind, value) in types.items():
        assert result.schema.field(name).type == kind
        assert result[name].to_pylist() == [value]


def test_what_folders_are_called_is_no_column(tmp_path):
    write(tmp_path / "machine_id=x" / "period=1" / "a.parquet", ("m", NOON, NOON, 1))
    assert loads(cutoffs(("m", NOON), ("x", NOON)), history(tmp_path)) == [1, None]
    with pytest.raises(DataError, match="no column 'period'"):
        join(cutoffs(("m", NOON)), history(tmp_path, features={"period": "period"}))


def test_files_may_lack_columns_that_later_ones_have(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON), schema=SCHEMA.remove(3))
    write(tmp_path / "b.parquet", ("m", NOON + HOUR, NOON + HOUR, 2))
    assert loads(cutoffs(("m", NOON), ("m", NOON + HOUR)), history(tmp_path)) == [None, 2]


def test_columns_may_have_any_name(tmp_path):
    names = ["key", "event", "created", 'id "quoted"']
    schema = pa.schema([field.with_name(n) for field, n in zip(SCHEMA, names, strict=True)])
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1), ("m", NOON, NOON + HOUR, 2), schema=schema)
    asked = history(
        tmp_path,
        keys={"machine_id": "key"},
        event="event",
        created="created",
        features={"row": "event", "effective": 'id "quoted"', "KEY": "key"},
    )
    result = join(cutoffs(("m", NOON)), asked)
    assert result.to_pylist()[0] == {
        "machine_id": "m", "event_timestamp": NOON, "row": NOON, "effective": 1, "KEY": "m",
    }  # fmt: skip


def test_paths_with_pattern_characters_mean_themselves(tmp_path):
    write(tmp_path / "[ab]*'" / "a.parquet", ("m", NOON, NOON, 1))
    write(tmp_path / "ax'" / "a.parquet", ("m", NOON, NOON, 2))
    assert loads(cutoffs(("m", NOON)), history(tmp_path / "[ab]*'")) == [1]


def test_files_that_are_still_being_written_are_left_alone(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1))
    (tmp_path / ".b.parquet").write_text("half")
    write(tmp_path / "_unfinished" / "c.parquet", ("m", NOON, NOON, 2))
    assert loads(cutoffs(("m", NOON)), history(tmp_path)) == [1]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_cutoffs_of_any_unit_and_zone_mean_instants_and_stay_as_they_are(tmp_path, unit, zone):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1))
    kind = pa.timestamp(unit, tz=zone)
    instants = pa.array([NOON - HOUR, NOON], INSTANT)
    times = instants.cast(pa.timestamp(unit, tz="UTC")).cast(pa.int64()).cast(kind)
    result = join(pa.table({"machine_id": ["m", "m"], "event_timestamp": times}), history(tmp_path))
    assert result["load"].to_pylist() == [None, 1]
    assert result.schema.field("event_timestamp").type == kind


def test_cutoffs_finer_than_microseconds_are_not_rounded_up(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1))
    noon = int(NOON.timestamp()) * 10**9
    times = pa.array([noon - 1, noon + 1], pa.timestamp("ns", tz="UTC"))
    asked = pa.table({"machine_id": ["m", "m"], "event_timestamp": times})
    assert loads(asked, history(tmp_path)) == [None, 1]


def test_what_is_finer_than_microseconds_is_dropped_from_times_in_files(tmp_path):
    schema = SCHEMA.set(1, pa.field("event_timestamp", pa.timestamp("ns", "UTC")))
    noon = int(NOON.timestamp()) * 10**9
    write(tmp_path / "a.parquet", ("m", noon + 999, NOON, 1), schema=schema)
    assert loads(cutoffs(("m", NOON - TICK), ("m", NOON)), history(tmp_path)) == [None, 1]


@pytest.mark.parametrize(
    "kind", [pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ns", "UTC")]
)
def test_files_with_times_of_other_kinds_are_in_utc(tmp_path, kind):
    schema = SCHEMA.set(1, pa.field("event_timestamp", kind))
    naive = NOON.replace(tzinfo=None) if kind.tz is None else NOON
    write(tmp_path / "a.parquet", ("m", naive, NOON, 1), schema=schema)
    asked = cutoffs(("m", NOON - TICK), ("m", NOON), ("m", NOON + HOUR + TICK))
    assert loads(asked, history(tmp_path, time_to_live=HOUR)) == [None, 1, None]


IN_ANOTHER_ZONE = """
import sys
from pathlib import Path
import duckdb
import pyarrow as pa
from millwright.stores import asof_join, parquet_files

assert duckdb.sql("SELECT current_setting('TimeZone')").fetchone() == ("America/New_York",)
files = parquet_files.find(Path(sys.argv[1]))
readings = asof_join.History(
    "readings", files, {}, "event_timestamp", None,
    {"load": "load", "moment": "event_timestamp"}, {},
)
noon = pa.array([int(sys.argv[2]) - 1, int(sys.argv[2])], pa.timestamp("us"))
with parquet_files.connect() as connection:
    result = asof_join.join(
        connection, pa.table({"event_timestamp": noon}), "event_timestamp", [readings],
        as_known=True,
    )
assert result["load"].to_pylist() == [None, 1.0], result
assert result["moment"][1].as_py().hour == 12
"""


def test_the_zone_of_the_machine_is_of_no_account(tmp_path):
    schema = SCHEMA.set(1, pa.field("event_timestamp", pa.timestamp("us")))
    write(tmp_path / "a.parquet", ("m", NOON.replace(tzinfo=None), None, 1), schema=schema)
    noon = str(parquet_files.microseconds(NOON))
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_ZONE, str(tmp_path), noon],
        env=os.environ | {"TZ": "America/New_York"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"machine_id": ["m"]}, "no column 'event_timestamp'"),
        ({"event_timestamp": [NOON]}, "no column 'machine_id', by which 'readings'"),
        ({"machine_id": ["m"], "event_timestamp": ["noon"]}, "is string; make it a timestamp"),
        (
            {"machine_id": ["m"], "event_timestamp": [NOON], "load": [1]},
            "two columns 'load', one of them a feature of 'readings'",
        ),
    ],
)
def test_cutoffs_that_cannot_be_joined_are_refused(tmp_path, asked, message):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1))
    with pytest.raises(InputError, match=message):
        join(pa.table(asked), history(tmp_path))


def test_files_that_cannot_be_joined_are_refused(tmp_path):
    place = write(tmp_path / "a.parquet", ("m", NOON, NOON, 1))
    asked = cutoffs(("m", NOON))
    with pytest.raises(DataError, match="no column 'laod'; did you mean 'load'"):
        join(asked, history(place, features={"load": "laod"}))
    with pytest.raises(DataError, match="column 'machine_id' is VARCHAR; write it as a timestamp"):
        join(asked, history(place, event="machine_id"))
    numbers = pa.table({"machine_id": [1], "event_timestamp": [NOON]})
    with pytest.raises(DataError, match="BIGINT in the cut-offs, but 'machine_id' is VARCHAR"):
        join(numbers, history(place))
    with pytest.raises(DataError, match="there is no file"):
        parquet_files.find(tmp_path / "b.parquet")
    place.write_text("no parquet")
    with pytest.raises(DataError, match=f"cannot read {tmp_path}"):
        join(asked, history(place))


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
)
def test_text_of_any_kind_is_a_key(tmp_path, kind):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1))
    asked = cutoffs(("x", NOON), (None, NOON), ("m", NOON))
    machines = asked["machine_id"].combine_chunks()
    typed = machines.dictionary_encode() if pa.types.is_dictionary(kind) else machines.cast(kind)
    asked = asked.set_column(0, "machine_id", typed)
    assert loads(asked, history(tmp_path)) == [None, None, 1]


def test_a_key_that_is_not_a_number_finds_nothing(tmp_path):
    schema = SCHEMA.set(0, pa.field("machine_id", pa.float64()))
    write(
        tmp_path / "a.parquet", (float("nan"), NOON, NOON, 1), (0.0, NOON, NOON, 2), schema=schema
    )
    asked = pa.table({"machine_id": [float("nan"), -0.0], "event_timestamp": [NOON] * 2})
    assert loads(asked, history(tmp_path)) == [None, 2]


@pytest.mark.parametrize(
    ("key", "error"),
    [([1], "key 'machine_id' is list<item: int64> in the cut-offs; make it text"),
     (True, "'machine_id' is BOOLEAN in the cut-offs, but 'machine_id' is VARCHAR"),
     (NOON, "'machine_id' is TIMESTAMP WITH TIME ZONE in the cut-offs, but")],
)  # fmt: skip
def test_keys_that_cannot_be_compared_are_refused(tmp_path, key, error):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1))
    with pytest.raises(InputError, match=error):
        join(pa.table({"machine_id": [key], "event_timestamp": [NOON]}), history(tmp_path))


def test_a_column_with_the_name_of_a_row_number_is_refused(tmp_path):
    schema = SCHEMA.append(pa.field("file_index", pa.int64()))
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1, 7), schema=schema)
    with pytest.raises(DataError, match="'file_index'; call it something else"):
        join(cutoffs(("m", NOON)), history(tmp_path))


def test_files_that_change_while_they_are_read_are_refused(tmp_path):
    place = write(tmp_path / "a.parquet", ("m", NOON, NOON, 1))
    with (
        pytest.raises(BusyError, match="changed while it was being read"),
        parquet_files.reading(parquet_files.find(tmp_path)),
    ):
        write(place, ("m", NOON, NOON, 1), ("m", NOON, NOON, 2))
    with pytest.raises(BusyError), parquet_files.reading(parquet_files.find(tmp_path)):
        place.unlink()


def test_too_small_a_memory_limit_says_what_to_do(tmp_path):
    write(tmp_path / "a.parquet", ("m", NOON, NOON, 1))
    with (
        pytest.raises(MillwrightError, match="raise 'memory_limit' or lower 'threads': Out of"),
        parquet_files.connect("10MB", 1) as connection,
        parquet_files.reading(parquet_files.find(tmp_path)),
    ):
        connection.execute("SELECT list(range) FROM range(10_000_000)")


def test_the_spill_folder_is_made_and_left_empty(tmp_path):
    spill = tmp_path / "deep" / "spill"
    with parquet_files.connect("100MB", 1, spill) as connection:
        folder, limit, zone = connection.execute(
            "SELECT current_setting('temp_directory'), current_setting('memory_limit'),"
            " current_setting('TimeZone')"
        ).fetchone()
    assert Path(folder).parent == spill
    assert limit == "95.3 MiB"
    assert zone == "UTC"
    assert list(spill.iterdir()) == []


def test_a_spill_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigurationError, match=f"cannot write into {tmp_path}/file: File exists"),
        parquet_files.connect(spill_folder=tmp_path / "file"),
    ):
        pass


def test_a_full_disk_is_named():
    with pytest.raises(MillwrightError, match="is full; name a folder"), parquet_files.connect():
        raise OSError(errno.ENOSPC, "No space left on device")


def test_the_latest_row_of_each_key_in_a_span_is_read(tmp_path):
    write(
        tmp_path / "p=1" / "a.parquet",
        ("m", NOON, NOON, 1),
        ("m", NOON, NOON + HOUR, 2),
        ("m", NOON, None, 3),
        ("m", NOON + TICK, NOON, 4),
        (None, NOON, NOON, 5),
    )
    write(
        tmp_path / "p=2" / "a.parquet",
        ("n", NOON - HOUR, NOON, 6),
        ("o", NOON - HOUR - TICK, NOON, 7),
    )
    write(tmp_path / "p=3" / "a.parquet", ("n", NOON - HOUR, NOON, 8))
    with parquet_files.connect() as connection:
        rows = parquet_files.read_latest(
            connection,
            parquet_files.find(tmp_path),
            ["machine_id"],
            ["machine_id", "load"],
            "event_timestamp",
            "created_timestamp",
            (NOON - HOUR, NOON),
        )
    assert list(zip(*rows.to_pydict().values(), strict=True)) == [("m", 2), ("n", 8)]


def test_of_many_corrections_of_one_time_the_newest_is_found_in_little_memory(tmp_path):
    keys, corrections = 2_000, 40
    numbers = pa.array(range(keys * corrections))
    created = pa.array([NOON + n * TICK for n in range(corrections) for _ in range(keys)], INSTANT)
    columns = {
        "machine_id": pa.array([f"m{n % keys:04}" for n in range(keys * corrections)]),
        "event_timestamp": pa.array([NOON] * len(numbers), INSTANT),
        "created_timestamp": created,
        **{f"f{n}": pc.cast(numbers, pa.float64()) for n in range(60)},
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", use_dictionary=False)
    with parquet_files.connect("40MB", 1) as connection:
        rows = parquet_files.read_latest(
            connection,
            parquet_files.find(tmp_path),
            ["machine_id"],
            [*columns],
            "event_timestamp",
            "created_timestamp",
            (NOON, NOON),
        )
    assert rows["f0"].to_pylist() == list(range(keys * (corrections - 1), keys * corrections))


def test_the_newest_row_of_a_key_that_is_no_number_is_found(tmp_path):
    nan = float("nan")
    table = pa.table({"key": [1.0, nan], "event": pa.array([NOON - HOUR, NOON], INSTANT)})
    pq.write_table(table, tmp_path / "a.parquet")
    with parquet_files.connect() as connection:
        files = parquet_files.find(tmp_path)
        rows = parquet_files.read_latest(
            connection, files, ["key"], ["key"], "event", None, (NOON, NOON)
        )
    assert [math.isnan(key) for key in rows["key"].to_pylist()] == [True]


def test_all_rows_of_a_span_are_read_in_the_order_of_the_files(tmp_path):
    write(tmp_path / "b.parquet", ("m", NOON, NOON, 3), ("m", NOON + TICK, NOON, 4))
    write(tmp_path / "a.parquet", ("n", NOON, NOON, 1), (None, NOON - HOUR, NOON, 2))
    files = parquet_files.find(tmp_path)
    berlin = timezone(timedelta(hours=2))
    with parquet_files.connect() as connection:
        for span, expected in {
            (NOON - HOUR, NOON): [1, 2, 3],
            (NOON.astimezone(berlin), None): [1, 3, 4],
            (None, (NOON - HOUR).replace(tzinfo=None)): [2],
            (None, None): [1, 2, 3, 4],
        }.items():
            rows = parquet_files.read(connection, files, ["load"], "event_timestamp", span)
            assert rows["load"].to_pylist() == expected


def test_reading_a_missing_folder_gives_no_rows_but_the_columns(tmp_path):
    files = parquet_files.find(tmp_path / "view")
    names = ["machine_id", "event_timestamp"]
    with parquet_files.connect() as connection:
        rows = parquet_files.read(connection, files, names, "event_timestamp")
        latest = parquet_files.read_latest(
            connection, files, ["machine_id"], names, "event_timestamp", None, (NOON, NOON)
        )
    for table in (rows, latest):
        assert (table.num_rows, table.column_names) == (0, names)
        assert table.schema.field("event_timestamp").type == INSTANT


moments = st.integers(0, 6).map(lambda ticks: NOON + ticks * TICK)
machines = st.sampled_from(["m", "n"])


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.tuples(machines, moments, moments), max_size=12, unique=True),
    asked=st.lists(st.tuples(machines, moments), min_size=1, max_size=6),
    random=st.randoms(use_true_random=False),
    as_known=st.booleans(),
)
def test_an_answer_depends_neither_on_the_order_of_rows_nor_on_the_other_cutoffs(
    tmp_path_factory, rows, asked, random, as_known
):
    folder = tmp_path_factory.mktemp("view")
    numbered = [(*row, number) for number, row in enumerate(rows)]
    write(folder / "one" / "a.parquet", *numbered)
    random.shuffle(numbered)
    write(folder / "two" / "a.parquet", *numbered[::2])
    write(folder / "two" / "b" / "a.parquet", *numbered[1::2])
    together = loads(cutoffs(*asked), history(folder / "one"), as_known=as_known)
    backwards = loads(cutoffs(*asked[::-1]), history(folder / "two"), as_known=as_known)
    alone = loads(cutoffs(asked[0]), history(folder / "two"), as_known=as_known)
    assert together == backwards[::-1]
    assert alone == together[:1]
