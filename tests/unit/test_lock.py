"""One run at a time: the next one waits, and is told for whom."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from millwright.errors import BusyError
from millwright.lock import held

FORK = multiprocessing.get_context("fork")
PATIENCE = 20.0


def hold(path: Path, holding: Event, enough: Event) -> None:
    with held(path, print):
        holding.set()
        enough.wait(PATIENCE)


@contextmanager
def another(path: Path) -> Iterator[tuple[BaseProcess, Event]]:
    """Another process that holds the lock until it is told that it is enough."""
    holding, enough = FORK.Event(), FORK.Event()
    process = FORK.Process(target=hold, args=(path, holding, enough))
    process.start()
    try:
        assert holding.wait(PATIENCE)
        yield process, enough
    finally:
        enough.set()
        process.join()


def test_a_lock_that_nobody_has_is_had_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        with held(tmp_path / "new" / "run.lock", said.append, patience=0):
            pass
    assert said == []


def test_another_process_waits_and_then_has_it(tmp_path: Path) -> None:
    path, said = tmp_path / "run.lock", []
    with another(path) as (process, enough):
        release = threading.Timer(0.2, enough.set)
        release.start()
        with held(path, said.append, PATIENCE):
            assert enough.is_set()  # and not before
            assert (tmp_path / "run.pid").read_text() == f"{os.getpid()}\n"
        release.join()
    assert said == [f"process {process.pid} is at work here; waiting for it"]


def test_patience_ends_and_names_who_has_it(tmp_path: Path) -> None:
    path, entered = tmp_path / "run.lock", False
    with another(path) as (process, _):
        with pytest.raises(BusyError) as caught, held(path, print, patience=0.1):
            entered = True
        assert process.is_alive()
    assert not entered
    assert str(caught.value) == (
        f"process {process.pid} still holds {path} after 0 s; let it end, or end it"
    )
    with held(path, print, patience=0):
        pass


def test_a_holder_that_is_killed_lets_go(tmp_path: Path) -> None:
    path, said = tmp_path / "run.lock", []
    with another(path) as (process, _):
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with held(path, said.append, patience=0):
            pass
    assert process.exitcode == -signal.SIGKILL
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
