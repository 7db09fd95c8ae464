"""Files and folders written beside their place, by several writers, some of them killed."""

import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millwright.errors import ConfigurationError
from millwright.stores import drafts, parquet_files, places

ROWS = pa.table({"load": [1.0, 2.0]})


def test_what_a_killed_writer_left_of_a_file_is_written_over(tmp_path):
    (tmp_path / ".all.parquet.unfinished").write_bytes(b"half a file" * 1000)
    (tmp_path / ".rows.unfinished").write_bytes(b"half a file" * 1000)
    places.write(ROWS.to_batches(), tmp_path / "all.parquet")
    places.append(ROWS, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name[:11] for name in names] == ["all.parquet", "rows-000001"]
    assert all(pq.read_table(tmp_path / name).equals(ROWS) for name in names)


def test_what_a_killed_writer_left_of_a_folder_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    (tmp_path / ".dead.unfinished").mkdir()
    with drafts.folder_drafted(tmp_path / "slow") as slow:
        paths = places.write_parts(ROWS.to_batches(), tmp_path, "quick")
        assert slow.is_dir()
        assert not (tmp_path / ".dead.unfinished").exists()
    assert paths == [str(tmp_path / "quick" / "part-00000.parquet")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quick", "slow"]


def test_the_second_writer_of_a_file_waits_for_the_first(tmp_path):
    path, order = tmp_path / "file", []

    def second() -> None:
        with drafts.drafted(path) as draft:
            order.append(path.read_bytes())
            draft.write(b"second")

    with drafts.drafted(path) as draft:
        other = threading.Thread(target=second)
        other.start()
        other.join(0.05)
        draft.write(b"first")
    other.join()
    assert order == [b"first"]
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_nothing_and_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), drafts.drafted(path) as draft:
        draft.write(b"new" * 100_000)
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), drafts.folder_drafted(tmp_path / "folder"):
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for write in (
        lambda place: places.write(ROWS.to_batches(), place / "all.parquet"),
        lambda place: places.append(ROWS, place),
        lambda place: places.write_parts(ROWS.to_batches(), place, "part"),
    ):
        with pytest.raises(ConfigurationError, match=f"cannot write {file}/below/.*: Not a dir"):
            write(file / "below")
    (tmp_path / "all.parquet").mkdir()
    with pytest.raises(ConfigurationError, match=r"all.parquet: Is a directory"):
        places.write(ROWS.to_batches(), tmp_path / "all.parquet")


def test_a_draft_is_no_file_of_a_table(tmp_path):
    with drafts.drafted(tmp_path / "all.parquet"):
        assert not parquet_files.find(tmp_path).paths
