"""The prediction log as parquet files: every answer once, whenever a process is killed."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from killed_log import HALF, LAST, PLACES, log_in
from scored import START, scored

from millwright.errors import MillwrightError
from millwright.prediction_log import opening, parquet_files
from millwright.prediction_log.history import Selection
from millwright.prediction_log.journal import waiting
from millwright.prediction_log.log import PredictionLog
from millwright.prediction_log.parquet_history import ParquetHistory
from millwright.prediction_log.records import Outcome
from millwright.settings import State

FLEET = "plant"


@pytest.fixture(autouse=True)
def _few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "FAN_IN", 3)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path, "local")


def the_log(state: State) -> PredictionLog:
    return opening.open_log(state, FLEET)


def logged(state: State, *numbers: int) -> None:
    log = the_log(state)
    for number in numbers:
        log.append(scored(number))
        assert log._drain.work(), log.status().fault
    log.start()
    log.close(10)


def ids(state: State) -> list[str]:
    found: list[str] = opening.read(state, FLEET, None, None)["prediction_id"].to_pylist()
    return found


def of(*numbers: int) -> list[str]:
    return [id_ for number in numbers for id_ in scored(number).ids]


def moment(number: int) -> datetime:
    return datetime.fromtimestamp(START / 1e6, UTC) + timedelta(seconds=number)


def run(folder: Path, place: str) -> list[int]:
    """The numbers of the batches that a process says it has logged before it is killed."""
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests.parent), str(tests)])
    done = subprocess.run(
        [sys.executable, str(tests / "killed_log.py"), str(folder), place],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    return [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize("place", PLACES)
def test_a_process_killed_anywhere_loses_and_doubles_no_answer(place: str, state: State) -> None:
    given = run(state.journals(FLEET), place)
    assert given == list(range(LAST if place == HALF else LAST + 1))
    seen = ids(state)
    assert len(set(seen)) == len(seen)
    logged(state)
    log = the_log(state)
    for number in (7, 8, 9, 10):
        assert log._drain.work(), log.status().fault
        assert ids(state) == of(*given)
        log.append(scored(number))
        given.append(number)
    log.close(1)
    logged(state)
    assert ids(state) == of(*given)
    assert list(waiting(state.journals(FLEET))) == []
    names = {path.suffix for path in state.predictions(FLEET).rglob("*") if path.is_file()}
    assert names == {".parquet", ".json", ".lock"}


def test_files_become_few_and_their_rows_stay(state: State) -> None:
    logged(state, *range(31))
    files = list((state.predictions(FLEET) / "answers").glob("*.parquet"))
    assert len(files) == 3  # 27 + 3 + 1
    assert ids(state) == of(*range(31))


def test_a_segment_that_may_come_again_is_not_merged(state: State) -> None:
    logged(state, 0, 1)
    again = state.journals(FLEET) / answers(state)[0].stem.split("-", 3)[3]
    again.touch()
    with again.open("rb") as minded:
        fcntl.flock(minded, fcntl.LOCK_EX)
        logged(state, 2)
        assert len(answers(state)) == 3
    logged(state)
    logged(state, 3)
    assert len(answers(state)) == 2
    assert ids(state) == of(0, 1, 2, 3)


def answers(state: State) -> list[Path]:
    return list((state.predictions(FLEET) / "answers").glob("*.parquet"))


def test_nothing_is_switched_while_somebody_reads(state: State) -> None:
    logged(state, 0, 1)
    with ParquetHistory(state.predictions(FLEET))._answers.reading() as files:
        logged(state, 2)
        assert all(file.path.is_file() for file in files)
        assert len(answers(state)) == 3
    logged(state, 3)
    assert len(answers(state)) == 2
    assert ids(state) == of(0, 1, 2, 3)


def test_two_processes_share_the_folders(state: State) -> None:
    one, other = the_log(state), the_log(state)
    one.start()
    other.start()
    for number in range(10):
        (one, other)[number % 2].append(scored(number))
    one.close(10)
    other.close(10)
    assert ids(state) == of(*range(10))


def test_rows_hold_what_was_answered_and_what_was_missing_is_null(state: State) -> None:
    batch = scored(
        1, rows=3, columns=2, views=2,
        statuses=["ok", "degraded", "unknown"],
        probabilities=np.array([0.5, 0.25, np.nan]),
        matrix=np.array([[0, np.nan], [np.inf, -0.0], [np.nan, np.nan]], np.float32),
        events=np.array([[1, 2], [3, -(2**63)], [-(2**63)] * 2]),
        machines=["a", "b\0", "ü"],
    )  # fmt: skip
    log = the_log(state)
    log.append(batch)
    log.close(1)
    logged(state)
    found = opening.read(state, FLEET, None, None, release=1)
    assert found["machine_id"].to_pylist() == ["a", "b\ufffd", "ü"]
    assert found["probability"].to_pylist() == [0.5, 0.25, None]
    assert found["alarm"].to_pylist() == [True, False, None]
    assert found["feature 0"].to_pylist() == [0, float("inf"), None]
    assert str(found["feature 1"].to_pylist()) == "[None, -0.0, None]"
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    one, two, three = (epoch + timedelta(microseconds=each) for each in (1, 2, 3))
    assert found["event_time:view_0"].to_pylist() == [one, three, None]
    assert found["event_time:view_1"].to_pylist() == [two, None, None]
    assert found["asked_at"].to_pylist() == [moment(1)] * 3
    assert found["latency"].to_pylist() == batch.latency.tolist()
    (row,) = opening.recent(state, FLEET, "a", 5)
    assert row["prediction_id"] == batch.ids[0]
    assert row["features"] == {"feature 0": 0.0, "feature 1": None}
    assert row["event_times"] == {"view_0": one, "view_1": two}


def test_a_time_a_release_or_a_machine_chooses(state: State) -> None:
    logged(state, *range(5))
    log = the_log(state)
    log.append(scored(5, release=2, role="shadow", columns=3))
    log.close(1)
    logged(state)
    whole = opening.read(state, FLEET, None, None)
    assert whole["feature 3"].null_count == 3  # which the second release has not
    some = opening.read(state, FLEET, moment(1), moment(3))
    assert some["prediction_id"].to_pylist() == of(1, 2)
    assert len(opening.read(state, FLEET, None, None, release=2)) == 3
    assert opening.read(state, FLEET, None, None, release=3).num_rows == 0
    found = opening.count(state, FLEET, since=moment(4)).to_pylist()
    assert [(r["release"], r["role"], r["status"], r["predictions"]) for r in found] == [
        (1, "champion", "degraded", 1), (1, "champion", "ok", 2),
        (2, "shadow", "degraded", 1), (2, "shadow", "ok", 2),
    ]  # fmt: skip
    by_machine = opening.count(state, FLEET, machine="m2")
    assert sum(by_machine["predictions"].to_pylist()) == 6


def test_recent_gives_the_newest_first_and_reads_no_more_files_than_it_must(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(state, *range(8))
    found = opening.recent(state, FLEET, "m1", 3)
    assert [row["prediction_id"] for row in found] == [of(n)[1] for n in (7, 6, 5)]
    assert opening.recent(state, FLEET, "nobody", 3) == []
    for path in sorted(answers(state))[:-3]:
        path.write_bytes(b"unreadable")
    assert len(opening.recent(state, FLEET, "m1", 2)) == 2


def test_a_damaged_file_is_named_with_the_way_out_and_what_came_before_goes_on(
    state: State,
) -> None:
    logged(state, 0, 1)
    whole, broken = sorted(answers(state))
    broken.write_bytes(broken.read_bytes()[:-9])
    told = f"{broken} cannot be read: .*put a copy of it in its place, or move it away"
    for ask in (
        lambda: opening.read(state, FLEET, None, None),
        lambda: opening.count(state, FLEET),
        lambda: opening.recent(state, FLEET, "m1", 5),
    ):
        with pytest.raises(MillwrightError, match=told):
            ask()
    log = the_log(state)
    log.append(scored(2))
    assert log._drain.work()  # which would merge it
    assert f"{broken} cannot be read" in str(log.status().fault)
    assert (log.status().written, whole.is_file()) == (3, True)
    broken.rename(broken.with_suffix(".broken"))
    assert log._drain.work()
    log.close(1)
    assert ids(state) == of(0, 2)


def test_a_merged_file_that_does_not_say_of_what_is_named(state: State) -> None:
    logged(state, 0)
    path = answers(state)[0].with_suffix(".merged")
    path.write_bytes(answers(state)[0].read_bytes())
    with pytest.raises(MillwrightError, match=f"{path} cannot be read"):
        ids(state)


def test_what_has_no_name_of_ours_in_the_folder_is_passed_over(state: State) -> None:
    logged(state, 0)
    (answers(state)[0].parent / "notes.parquet").write_text("none of ours")
    logged(state, 1, 2)
    assert ids(state) == of(0, 1, 2)


@pytest.mark.parametrize("content", ["{", '{"columns": 1, "views": 2}', '{"columns": []}', None])
def test_a_layout_that_is_damaged_or_gone_is_named(state: State, content: str | None) -> None:
    logged(state, 0)
    (path,) = (state.predictions(FLEET) / "layouts").iterdir()
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    for ask in (lambda: ids(state), lambda: opening.recent(state, FLEET, "m1", 5)):
        with pytest.raises(MillwrightError, match=path.stem):
            ask()


@pytest.mark.parametrize(("code", "answers"), [(errno.EROFS, True), (errno.EACCES, False)])
def test_on_a_disk_that_nobody_can_write_the_log_is_read_and_elsewhere_not_without_its_lock(
    state: State, code: int, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(state, 0, 1)

    def refused(path: Path, *_: int) -> int:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", refused)
    if answers:
        assert ids(state) == of(0, 1)
        return
    with pytest.raises(MillwrightError, match=r"Permission denied; ask as a user who may write"):
        ids(state)


def test_where_nothing_was_logged_everything_is_empty(state: State) -> None:
    assert len(opening.read(state, FLEET, None, None)) == 0
    assert opening.recent(state, FLEET, "m1", 5) == []
    assert len(opening.count(state, FLEET)) == 0
    assert len(opening.joined(state, FLEET, None, None, timedelta(hours=1))) == 0
    assert list(state.home.iterdir()) == []


def test_an_outcome_that_is_reported_again_replaces_the_first(state: State) -> None:
    log = the_log(state)
    log.report([Outcome("m1", 5, failed=False), Outcome("m2", 5, failed=False)])
    log.report([Outcome("m1", 5, failed=True, component="c", note="after all")])
    assert log._drain.work()
    log.report([Outcome("m2", 5, failed=True), Outcome("m2", 6, failed=False)])
    assert log._drain.work()
    found = opening.open_history(state, FLEET).outcomes().to_pylist()
    assert [(row["machine_id"], row["failed"], row["component"]) for row in found] == [
        ("m1", True, "c"), ("m2", True, None), ("m2", False, None),
    ]  # fmt: skip


def test_what_was_lost_is_told_in_the_log_itself(state: State) -> None:
    log = the_log(state)
    log.append(scored(1, latency=np.zeros(1)))
    assert log._drain.work()
    (loss,) = opening.open_history(state, FLEET).losses(Selection()).to_pylist()
    assert loss["records"] == 3


def test_the_journal_lies_where_a_variable_says(
    state: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MILLWRIGHT_JOURNAL", str(tmp_path / "elsewhere"))
    log = the_log(state)
    log.append(scored(1))
    assert len(list((tmp_path / "elsewhere" / "local" / FLEET).iterdir())) == 1
    assert log_in(tmp_path / "j").status().waiting == 0
