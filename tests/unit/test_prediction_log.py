"""The way of answers from a service to the sink: nothing lost unreported, nothing twice."""

import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored import scored

from millwright.errors import MillwrightError
from millwright.prediction_log import drain, journal
from millwright.prediction_log.content import Content
from millwright.prediction_log.log import PredictionLog
from millwright.prediction_log.packing import pack_batch
from millwright.prediction_log.records import Outcome
from millwright.prediction_log.sink import LateSink, RefusedError


class Shelf:
    """A sink in memory, which can be away and can refuse."""

    def __init__(self) -> None:
        self.segments: dict[str, Content] = {}
        self.fault: Exception | None = None
        self.forgotten: list[str] = []

    def take(self, segment: str, content: Content) -> None:
        if self.fault:
            raise self.fault
        self.segments.setdefault(segment, content)

    def forget(self, segment: str) -> None:
        self.forgotten.append(segment)

    def tidy(self) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def ids(self) -> list[str]:
        return sorted(
            id_
            for content in self.segments.values()
            for id_ in content.predictions["prediction_id"].to_pylist()
        )

    @property
    def losses(self) -> list[tuple[int | None, str]]:
        return [
            (row["records"], row["reason"])
            for content in self.segments.values()
            for row in content.losses.to_pylist()
        ]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def ids(*numbers: int, rows: int = 3) -> list[str]:
    return [id_ for number in numbers for id_ in scored(number, rows).ids]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_appended_reaches_the_sink_once_and_leaves_no_file(
    tmp_path: Path, shelf: Shelf
) -> None:
    log = PredictionLog(tmp_path, shelf, interval=0.01)
    log.start()
    for number in range(20):
        log.append(scored(number))
    log.report([Outcome("m1", 5, failed=True)])
    log.close(10)
    assert shelf.ids == ids(*range(20))
    found = log.status()
    assert (found.appended, found.written, found.waiting, found.lost) == (61, 61, 0, 0)
    assert (found.waiting_bytes, found.fault) == (0, None)
    assert files(tmp_path) == []
    assert set(shelf.forgotten) == set(shelf.segments)


def test_several_threads_may_hand_over_at_once(tmp_path: Path, shelf: Shelf) -> None:
    log = PredictionLog(tmp_path, shelf, interval=0.005, segment_bytes=2_000)
    log.start()

    def hand_over(first: int) -> None:
        for number in range(first, first + 50):
            log.append(scored(number))

    threads = [threading.Thread(target=hand_over, args=(50 * each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close(10)
    assert shelf.ids == ids(*range(200))


def test_while_the_sink_is_away_answers_wait_on_disk_in_one_segment(
    tmp_path: Path, shelf: Shelf
) -> None:
    log = PredictionLog(tmp_path, shelf)
    shelf.fault = MillwrightError("the server is away")
    for number in range(5):
        log.append(scored(number))
        assert not log._drain.work()
    found = log.status()
    assert (found.written, found.waiting, found.lost) == (0, 15, 0)
    assert found.waiting_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert found.fault == "MillwrightError: the server is away"
    assert len(files(tmp_path)) == 2  # what was tried, and what came since
    shelf.fault = None
    assert log._drain.work()
    assert (shelf.ids, log.status().fault) == (ids(*range(5)), None)


def test_what_cannot_be_finished_in_time_stays_in_the_journal_for_the_next_process(
    tmp_path: Path, shelf: Shelf
) -> None:
    shelf.fault = MillwrightError("the server is away")
    log = PredictionLog(tmp_path, shelf)
    log.start()
    log.append(scored(1))
    log.close(10)
    assert len(files(tmp_path)) == 1
    shelf.fault = None
    following = PredictionLog(tmp_path, shelf)
    following.start()
    following.close(10)
    assert shelf.ids == ids(1)
    assert (following.status().written, following.status().waiting) == (3, 0)


def test_a_living_process_keeps_its_segments(tmp_path: Path, shelf: Shelf) -> None:
    one, other = PredictionLog(tmp_path, shelf), PredictionLog(tmp_path, Shelf())
    one.append(scored(1))
    other.append(scored(2))
    assert other._drain.work()
    assert (shelf.ids, other.status().written) == ([], 3)
    assert one._drain.work()
    assert shelf.ids == ids(1)


def test_a_segment_that_was_taken_and_could_not_be_deleted_is_not_taken_twice(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = PredictionLog(tmp_path, shelf)
    log.append(scored(1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", full)
        assert not log._drain.work()
    assert (log.status().written, log.status().waiting) == (0, 3)
    assert log._drain.work()
    assert (log.status().written, log.status().waiting) == (3, 0)
    assert len(shelf.segments) == 1


def test_a_full_disk_costs_nothing_while_the_sink_is_there(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = PredictionLog(tmp_path, shelf)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log.append(scored(1))
        found = log.status()
        assert (found.waiting, found.lost) == (3, 0)
        assert found.fault is not None
        assert "No space left" in found.fault
        assert log._drain.work()
        assert shelf.ids == ids(1)
    log.append(scored(2))
    assert log._drain.work()
    assert (shelf.ids, log.status().fault, log.status().lost) == (ids(1, 2), None, 0)


def test_a_write_that_the_disk_took_half_of_leaves_the_segment_whole(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = PredictionLog(tmp_path, shelf)
    log.append(scored(1))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
        log.append(scored(2))
    log.append(scored(3))
    assert log.status().waiting == 9
    assert log._drain.work()
    assert (shelf.ids, log.status().lost) == (ids(1, 2, 3), 0)


def test_a_segment_that_cannot_be_mended_is_given_up_for_another(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = PredictionLog(tmp_path, shelf)
    log.append(scored(1))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
        patch.setattr(os, "ftruncate", full)
        log.append(scored(2))
    log.append(scored(3))
    assert log._drain.work()
    assert (shelf.ids, log.status().lost) == (ids(1, 2, 3), 0)


def test_a_folder_that_cannot_be_made_does_not_stop_the_log(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / "file").write_text("")
    log = PredictionLog(tmp_path / "file" / "journal", shelf)
    log.append(scored(1))
    assert "cannot be written" in str(log.status().fault)
    log._drain.work()
    log._drain.work()
    assert shelf.ids == ids(1)


def test_what_neither_disk_nor_memory_can_hold_is_counted_as_lost_and_told_in_the_log(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    size = len(pack_batch(scored(1)).frame + pack_batch(scored(1)).preface)
    log = PredictionLog(tmp_path, shelf, memory_bytes=2 * size)
    shelf.fault = MillwrightError("the server is away")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for number in range(5):
            log.append(scored(number))
        log._drain.work()
        log.append(scored(5))
        found = log.status()
        assert (found.appended, found.waiting, found.lost) == (18, 6, 12)
        with caplog.at_level(logging.WARNING):
            log._warn()
            log._warn()
    assert len(caplog.messages) == 1
    assert "No space left on device; MillwrightError: the server is away" in caplog.messages[0]
    assert "6 records wait, 12 are lost" in caplog.messages[0]
    shelf.fault = None
    assert log._drain.work()
    assert shelf.ids == ids(0, 1)
    ((lost, reason),) = shelf.losses
    assert lost == 12
    assert "No space left" in reason
    assert log._drain.work()
    assert len(shelf.losses) == 1


def test_the_journal_takes_no_more_disk_than_it_may(tmp_path: Path, shelf: Shelf) -> None:
    shelf.fault = MillwrightError("the server is away")
    size = len(pack_batch(scored(1)).frame)
    log = PredictionLog(tmp_path, shelf, journal_bytes=20 * size, memory_bytes=5 * size)
    for number in range(40):
        log.append(scored(number))
        log._drain.work()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20 * size
    found = log.status()
    assert found.lost > 0
    assert found.waiting + found.lost == found.appended == 120
    assert "the journal has its" in str(found.fault)
    shelf.fault = None
    log._drain.work()
    log._drain.work()
    assert len(set(shelf.ids)) == len(shelf.ids) == 120 - found.lost
    assert sum(lost for lost, _ in shelf.losses if lost) == found.lost


def test_a_segment_that_the_sink_refuses_is_kept_apart_and_stops_no_other(
    tmp_path: Path, shelf: Shelf
) -> None:
    log = PredictionLog(tmp_path, shelf)
    shelf.fault = RefusedError("a value cannot be")
    log.append(scored(1))
    log._drain.work()
    shelf.fault = None
    log.append(scored(2))
    assert log._drain.work()
    assert shelf.ids == ids(2)
    found = log.status()
    assert (found.written, found.lost, found.waiting) == (3, 3, 0)
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".refused"
    assert f"{kept} was refused: a value cannot be; rename it to {kept.stem}" in str(found.fault)
    kept.rename(kept.with_suffix(""))
    following = PredictionLog(tmp_path, shelf)
    following._drain.work()
    assert shelf.ids == ids(1, 2)


def test_a_damaged_segment_gives_what_can_be_read_and_is_kept(tmp_path: Path, shelf: Shelf) -> None:
    log = PredictionLog(tmp_path, Shelf())
    log.append(scored(1))
    log.append(scored(2))
    log.close(1)
    (segment,) = tmp_path.iterdir()
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    following = PredictionLog(tmp_path, shelf)
    assert following._drain.work()
    assert shelf.ids == ids(1)
    assert files(tmp_path) == [segment.name + ".damaged"]
    assert "cannot be read; what comes before them is in the log" in str(following.status().fault)


def test_what_was_kept_apart_is_a_fault_until_somebody_has_dealt_with_it(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "LOOKING", -1.0)
    log = PredictionLog(tmp_path, shelf)
    shelf.fault = RefusedError("a value cannot be")
    for first in (1, 2):
        log.append(scored(first))
        log._drain.work()
    shelf.fault = None
    again, deleted = sorted(tmp_path.iterdir())
    again.rename(again.with_suffix(""))
    assert log._drain.work()
    assert shelf.ids == ids(1)
    assert str(deleted) in str(log.status().fault)
    started_anew = PredictionLog(tmp_path, shelf)
    assert started_anew._drain.work()
    assert f"rename it to {deleted.stem}" in str(started_anew.status().fault)
    deleted.unlink()
    for each in (log, started_anew):
        assert each._drain.work()
        assert each.status().fault is None


def test_a_sink_that_cannot_be_put_in_order_takes_answers_all_the_same_and_says_so(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise PermissionError("permission denied for table predictions")

    monkeypatch.setattr(shelf, "tidy", refuse)
    log = PredictionLog(tmp_path, shelf)
    log.append(scored(1))
    assert log._drain.work()  # so that the next look comes as soon as ever
    assert shelf.ids == ids(1)
    assert "permission denied for table predictions" in str(log.status().fault)


def test_a_segment_whose_file_was_deleted_reaches_the_sink_all_the_same(
    tmp_path: Path, shelf: Shelf
) -> None:
    folder = tmp_path / "journal"
    log = PredictionLog(folder, shelf)
    log.append(scored(1))
    next(folder.iterdir()).unlink()
    assert log._drain.work()
    log.append(scored(2))
    shutil.rmtree(folder)
    assert log._drain.work()
    log.append(scored(3))
    assert log._drain.work()
    assert shelf.ids == ids(1, 2, 3)
    found = log.status()
    assert (found.written, found.waiting, found.lost, found.fault) == (9, 0, 0, None)


def test_a_segment_that_is_refused_and_whose_file_was_deleted_is_lost_and_told(
    tmp_path: Path, shelf: Shelf
) -> None:
    log = PredictionLog(tmp_path, shelf)
    shelf.fault = RefusedError("a value cannot be")
    log.append(scored(1))
    next(tmp_path.iterdir()).unlink()
    log._drain.work()
    shelf.fault = None
    assert log._drain.work()
    assert (log.status().waiting, log.status().lost, files(tmp_path)) == (0, 3, [])
    ((lost, reason),) = shelf.losses
    assert lost == 3
    assert reason.endswith("was refused: a value cannot be")


def test_what_is_no_segment_in_the_folder_keeps_none_that_was_left_from_the_sink(
    tmp_path: Path, shelf: Shelf
) -> None:
    left = PredictionLog(tmp_path, Shelf())
    left.append(scored(1))
    left.close(1)
    strange = ["0000000000000001-1-ab", "a folder", "notes.txt"]
    for name in strange[:2]:
        (tmp_path / name).mkdir()
    (tmp_path / strange[2]).write_text("none of ours")
    assert journal.held(tmp_path)[0] == 3
    following = PredictionLog(tmp_path, shelf)
    assert following._drain.work()
    assert (shelf.ids, following.status().fault, files(tmp_path)) == (ids(1), None, strange)


def test_a_segment_that_may_not_be_opened_is_named_and_keeps_no_other_from_the_sink(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = PredictionLog(tmp_path, Shelf())
    left.append(scored(1))
    left.close(1)
    foreign = tmp_path / "0000000000000001-1-ab"
    foreign.touch()
    really_open = os.open

    def opened(path: Path, *more: int) -> int:
        if path == foreign:
            raise PermissionError(errno.EACCES, "Permission denied")
        return really_open(path, *more)

    monkeypatch.setattr(os, "open", opened)
    log = PredictionLog(tmp_path, shelf)
    assert log._drain.work()
    assert (shelf.ids, files(tmp_path)) == (ids(1), [foreign.name])
    assert log.status().fault == f"{foreign} cannot be taken over: Permission denied"


def test_a_torn_end_is_no_damage(tmp_path: Path, shelf: Shelf) -> None:
    log = PredictionLog(tmp_path, Shelf())
    log.append(scored(1))
    log.append(scored(2))
    log.close(1)
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes()[:-1])
    following = PredictionLog(tmp_path, shelf)
    assert following._drain.work()
    assert (shelf.ids, files(tmp_path), following.status().fault) == (ids(1), [], None)


def test_a_batch_that_makes_no_sense_is_counted_and_not_raised(
    tmp_path: Path, shelf: Shelf
) -> None:
    log = PredictionLog(tmp_path, shelf)
    log.append(scored(1, latency=np.zeros(2)))
    assert (log.status().appended, log.status().lost) == (3, 3)
    log._drain.work()
    ((lost, reason),) = shelf.losses
    assert lost == 3
    assert reason == "a batch cannot be packed: a batch has an array of 2 values, and 3 are due"


def test_a_sink_that_hangs_keeps_nobody_waiting_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, thawed = threading.Event(), threading.Event()

    class Frozen(Shelf):
        def take(self, segment: str, content: Content) -> None:
            reached.set()
            assert thawed.wait(60)
            super().take(segment, content)

    monkeypatch.setattr(drain, "PATIENCE", 0.0)
    frozen = Frozen()
    log = PredictionLog(tmp_path, frozen, interval=0.01)
    log.start()
    log.append(scored(1))
    assert reached.wait(60)
    log.append(scored(2))
    assert log.status().waiting == 6
    assert "the sink has not answered for" in str(log.status().fault)
    log.close(0.01)
    thawed.set()
    log._thread.join(60)
    assert frozen.ids == ids(1, 2)


def test_what_a_process_left_that_died_before_it_wrote_is_removed(
    tmp_path: Path, shelf: Shelf
) -> None:
    (tmp_path / ".0001-1-ab.draft").touch()
    log = PredictionLog(tmp_path, shelf)
    log._drain.work()
    assert files(tmp_path) == []


def test_a_sink_is_opened_when_it_is_needed_and_again_until_it_can_be(
    tmp_path: Path, shelf: Shelf
) -> None:
    attempts: list[Callable[[], Any]] = [shelf.take]

    def opened() -> Shelf:
        if attempts.pop():
            attempts.insert(0, None)  # type: ignore[arg-type]
            raise MillwrightError("no URL is known")
        return shelf

    log = PredictionLog(tmp_path, LateSink(opened))
    log.append(scored(1))
    assert not log._drain.work()
    assert log._drain.work()
    assert shelf.ids == ids(1)
    assert list(journal.waiting(tmp_path / "absent")) == []


def test_a_service_starts_and_answers_without_the_libraries_of_a_sink(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    program = (
        "import sys, pathlib; from scored import scored; from millwright.settings import State\n"
        "from millwright.prediction_log import opening\n"
        "log = opening.open_log(State(pathlib.Path(sys.argv[1]), 'staging'), 'plant')\n"
        "log.append(scored(1)); assert log.status().waiting == 3\n"
        "late = {'pyarrow', 'duckdb', 'psycopg2', 'adbc_driver_manager', 'pandas', 'feast'}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)"
    )
    paths = os.pathsep.join([str(tests.parent), str(tests)])
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
    )
