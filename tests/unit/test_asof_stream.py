"""A join whose result is streamed, and one whose parts do not fit the memory that they may take."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millwright.errors import BusyError, DataError
from millwright.stores import asof_join, duckdb_reader, parquet_files
from millwright.stores.asof_join import History
from millwright.stores.progress import reporting

NOON = datetime(2025, 3, 30, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
INSTANT = pa.timestamp("us", tz="UTC")
MACHINES, STEPS = 7, 40


def readings(folder: Path) -> History:
    """Rows of every type in two files, out of order, with corrections and holes."""
    random = np.random.default_rng(4)
    rows = [(f"m{machine}", step) for machine in range(MACHINES) for step in range(STEPS)]
    rows = [rows[place] for place in random.permutation(len(rows))] + rows[:50]
    event = [NOON + step * MINUTE for _, step in rows]
    late = [int(minutes) for minutes in random.integers(0, 5, len(rows))]
    table = pa.table(
        {
            "machine_id": [machine for machine, _ in rows],
            "event_timestamp": pa.array(event, INSTANT),
            "created_timestamp": pa.array(
                [at + minutes * MINUTE for at, minutes in zip(event, late, strict=True)], INSTANT
            ),
            "load": pa.array(random.normal(size=len(rows)), pa.float32()),
            "note": [None if place % 5 == 0 else f"note {place}" for place in range(len(rows))],
            "parts": [[place, None] for place in range(len(rows))],
        }
    )
    folder.mkdir()
    pq.write_table(table.slice(0, 100), folder / "a.parquet", row_group_size=30)
    pq.write_table(table.slice(100), folder / "b.parquet", row_group_size=30)
    features = {"load": pa.float32(), "note": pa.string(), "parts": pa.list_(pa.int64())}
    return History(
        "readings",
        parquet_files.find(folder),
        {"machine_id": "machine_id"},
        "event_timestamp",
        "created_timestamp",
        {name: name for name in features},
        features,
        10 * MINUTE,
    )


def weather(folder: Path) -> History:
    """One row that every cut-off finds."""
    folder.mkdir()
    row = {"event_timestamp": pa.array([NOON - MINUTE], INSTANT), "sky": ["grey"]}
    pq.write_table(pa.table(row), folder / "a.parquet")
    return History(
        "weather", parquet_files.find(folder), {}, "event_timestamp", None,
        {"sky": "sky"}, {"sky": pa.string()},
    )  # fmt: skip


@pytest.fixture
def histories(tmp_path) -> list[History]:
    return [readings(tmp_path / "readings"), weather(tmp_path / "weather")]


def cutoffs(count: int) -> pa.Table:
    random = np.random.default_rng(5)
    machines = [f"m{number}" if number else None for number in random.integers(0, 9, count)]
    times = [NOON + int(step) * MINUTE for step in random.integers(-3, STEPS + 15, count)]
    return pa.table({
        "event_timestamp": pa.array(times, INSTANT),
        "machine_id": pa.array(machines, pa.string()),
        "label": np.arange(count),
    })  # fmt: skip


def joined(asked: pa.Table, histories: list[History]) -> pa.Table:
    with parquet_files.connect(threads=2) as connection:
        return asof_join.join(connection, asked, "event_timestamp", histories, as_known=True)


def streamed(asked: pa.Table, histories: list[History], at_once: int, **place) -> list:
    with parquet_files.connect(threads=2, **place) as connection:
        parts = asof_join.stream(
            connection, asked, "event_timestamp", histories, at_once, as_known=True
        )
        return list(parts)


@pytest.fixture(params=["in memory", "on disk"])
def memory(request, monkeypatch) -> str:
    if request.param == "on disk":
        monkeypatch.setattr(duckdb_reader, "MOST", 1000)
    return request.param


@pytest.mark.parametrize("at_once", [1, 64, 10_000])
def test_a_stream_is_the_join_in_batches(histories, memory, tmp_path, at_once):
    asked = cutoffs(300)
    batches = streamed(asked, histories, at_once, spill_folder=tmp_path / "spill")
    assert all(batch.num_rows <= at_once for batch in batches)
    whole = joined(asked, histories)
    assert pa.Table.from_batches(batches).equals(whole.combine_chunks())
    assert whole["load"].null_count < 200
    assert whole["label"].to_pylist() == list(range(300))
    assert list((tmp_path / "spill").iterdir()) == []


def test_features_that_take_too_much_memory_wait_in_the_spill_folder(
    histories, monkeypatch, tmp_path
):
    monkeypatch.setattr(duckdb_reader, "MOST", 1000)
    with parquet_files.connect(threads=2, spill_folder=tmp_path / "spill") as connection:
        parts = asof_join.stream(
            connection, cutoffs(300), "event_timestamp", histories, 100, as_known=True
        )
        next(parts)
        spilled = sorted(path.name for path in (tmp_path / "spill").rglob("*.arrow"))
    assert spilled == ["0.arrow", "100.arrow", "200.arrow"]
    assert list((tmp_path / "spill").iterdir()) == []


def test_keys_that_do_not_fit_the_memory_together_are_searched_in_turn(histories, monkeypatch):
    asked = cutoffs(300)
    expected = joined(asked, histories)
    searched = []
    search = asof_join.search

    def counted(rows, keys, *rest, **more):
        searched.append(set(keys.tolist()))
        return search(rows, keys, *rest, **more)

    monkeypatch.setattr(asof_join, "search", counted)
    monkeypatch.setattr(duckdb_reader, "MOST", 100 * asof_join.BYTES_A_ROW)
    assert joined(asked, histories).equals(expected)
    assert len(searched) > 3
    assert not set.intersection(*searched[:2])


def test_no_cutoffs_are_one_batch_without_rows(histories, memory):
    batches = streamed(cutoffs(0), histories, 100)
    assert [batch.num_rows for batch in batches] == [0]
    assert batches[0].schema.names == [
        "event_timestamp", "machine_id", "label", "load", "note", "parts", "sky",
    ]  # fmt: skip


def test_how_far_a_stream_has_come_is_told_in_rows(histories):
    told = []
    with reporting(lambda *what: told.append(what)):
        streamed(cutoffs(250), histories, 100)
    assert told[-4:] == [("rows joined", done, 250) for done in (0, 100, 200, 250)]


def test_how_far_the_search_and_the_reading_have_come_is_told_in_rows_of_the_files(histories):
    told = {}
    with reporting(lambda name, done, total: told.setdefault(name, []).append((done, total))):
        joined(cutoffs(250), histories)
    rows = MACHINES * STEPS + 50
    assert [name for name in told if "readings" in name] == [
        "rows of readings searched", "rows of readings read",
    ]  # fmt: skip
    for steps in told.values():
        assert steps[0][0] == 0
        assert steps == sorted(steps)
    assert told["rows of readings read"][-1] == (rows, rows)


def test_files_damaged_in_the_middle_are_named(tmp_path):
    history, path = readings(tmp_path / "readings"), tmp_path / "readings" / "b.parquet"
    first = pq.ParquetFile(path).metadata.row_group(7).column(4).dictionary_page_offset
    with path.open("r+b") as file:
        file.seek(first)
        file.write(b"\xff" * 60)
    with pytest.raises(DataError, match=f"cannot read {tmp_path}/readings: .*"):
        joined(cutoffs(300), [history])


def test_files_that_change_between_batches_of_a_view_are_refused(histories, monkeypatch, tmp_path):
    wide = asof_join._wide

    def meddled(history: History, span: str) -> str:
        path = tmp_path / "readings" / "a.parquet"
        if history.name == "readings":
            pq.write_table(pq.read_table(path).slice(1), path)
        return wide(history, span)

    monkeypatch.setattr(asof_join, "_wide", meddled)
    with pytest.raises(BusyError):
        streamed(cutoffs(300), histories, 100)
