"""One run at a time: the next one waits, and is told for whom."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from millwright.errors import BusyError, InputError
from millwright.lock import held

PATIENCE = 20.0
HOLDER = """
import sys
from pathlib import Path
from millwright.lock import held
with held(Path(sys.argv[1]), print):
    print("holding", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process


def test_a_lock_that_nobody_has_is_had_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        with held(tmp_path / "new" / "run.lock", said.append, patience=0):
            pass
    assert said == []


def test_another_process_waits_and_then_has_it(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    told: list[str] = []
    with another(path) as process:

        def end() -> None:
            time.sleep(0.1)  # we wait by then
            told.append("it ends")
            process.communicate()

        def say(text: str) -> None:
            told.append(text)
            ending.start()

        ending = threading.Thread(target=end)
        with held(path, say, PATIENCE):
            told.append("ours")
            assert (tmp_path / "run.pid").read_text() == f"{os.getpid()}\n"
        ending.join()
    waiting = f"process {process.pid} is at work here; waiting for it"
    assert told == [waiting, "it ends", "ours"]


def test_patience_ends_and_names_who_has_it(tmp_path: Path) -> None:
    path, entered = tmp_path / "run.lock", False
    with another(path) as process:
        with pytest.raises(BusyError) as caught, held(path, print, patience=0.1):
            entered = True
        assert process.poll() is None
    assert not entered
    assert str(caught.value) == (
        f"process {process.pid} still holds {path} after 0 s; let it end, or end it"
    )
    with held(path, print, patience=0):
        pass


def test_a_holder_that_is_killed_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    said: list[str] = []
    with another(path) as process:
        process.kill()
        assert process.wait() == -signal.SIGKILL
        with held(path, said.append, patience=0):
            pass
    assert said == []


def test_a_block_that_fails_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with pytest.raises(KeyError), held(path, print):
        raise KeyError("a fault of the run")
    with held(path, print, patience=0):
        pass


def test_a_holder_that_left_no_name_is_another_process(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with another(path):
        (tmp_path / "run.pid").unlink()
        with pytest.raises(BusyError, match="another process still holds"), held(path, print, 0):
            pass


def test_a_lock_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    path = tmp_path / "file" / "run.lock"
    with (
        pytest.raises(InputError, match=f"cannot write {path}.*MILLWRIGHT_HOME"),
        held(path, print),
    ):
        raise AssertionError("it is not held")
