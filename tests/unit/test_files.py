import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from millwright.files import file_written_whole, folder_written_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "rows.parquet"
    with file_written_whole(target) as draft:
        draft.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == ["rows.parquet"]


def test_a_failed_block_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "rows.parquet"
    target.write_text("before")
    with pytest.raises(KeyError), file_written_whole(target) as draft:
        draft.write_text("half")
        raise KeyError("full disk")
    assert target.read_text() == "before"
    assert names(tmp_path) == ["rows.parquet"]


def test_a_block_that_writes_nothing_replaces_nothing(tmp_path: Path) -> None:
    target = tmp_path / "rows.parquet"
    target.write_text("before")
    with pytest.raises(FileNotFoundError), file_written_whole(target):
        pass
    assert target.read_text() == "before"


def test_a_folder_is_there_with_all_its_files_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "releases" / "v1"
    with folder_written_whole(target) as draft:
        (draft / "model").mkdir()
        (draft / "model" / "trees.json").write_text("{}")
        assert not target.exists()
    assert (target / "model" / "trees.json").read_text() == "{}"
    assert names(target.parent) == ["v1"]


def test_a_folder_replaces_the_one_before_it(tmp_path: Path) -> None:
    target = tmp_path / "v1"
    target.mkdir()
    (target / "old").touch()
    with folder_written_whole(target) as draft:
        (draft / "new").touch()
    assert names(target) == ["new"]


def test_a_failed_block_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "v1"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(KeyboardInterrupt), folder_written_whole(target) as draft:
        (draft / "new").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == ["v1"]
    assert names(target) == ["old"]


def kill_within(target: Path) -> None:
    with folder_written_whole(target) as draft:
        (draft / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_run_left_is_not_in_the_next_draft(tmp_path: Path) -> None:
    target = tmp_path / "v1"
    child = multiprocessing.get_context("fork").Process(target=kill_within, args=(target,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not target.exists()
    with folder_written_whole(target) as draft:
        assert names(draft) == []
        (draft / "whole").touch()
    assert names(tmp_path) == ["v1"]
    assert names(target) == ["whole"]
