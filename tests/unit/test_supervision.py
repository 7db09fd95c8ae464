"""Who serves when processes end: a supervisor over children that only say who they are."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from millwright.serving import supervision
from millwright.serving.supervision import ALIVE, GO, READY, Post

CHILD = """
import os, socket, sys, time
from pathlib import Path
folder, line = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[-1].split(",")[1]))
(folder / f"ready-{os.getpid()}").touch()
line.send(b"r")
if line.recv(1) == b"g":
    (folder / f"serving-{os.getpid()}").touch()
    while True:
        line.send(b"a")
        time.sleep(0.05)
"""
SUPERVISOR = """
import socket, sys
from millwright.serving.supervision import Supervisor
with socket.create_server(("127.0.0.1", 0)) as listening:
    command = [sys.executable, "-S", "-c", sys.argv[1], sys.argv[2]]
    sys.exit(Supervisor(command, listening, standby=True).run())
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, CHILD, str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    yield process
    process.terminate()
    assert process.wait(20) == 0
    assert process.stderr
    process.stderr.close()


def until(found: Callable[[], set[int]], count: int) -> set[int]:
    end = time.monotonic() + 20
    while len(pids := found()) < count:
        assert time.monotonic() < end, pids
        time.sleep(0.02)
    return pids


def test_who_stands_by_serves_on_when_process_after_process_ends_early(
    tmp_path: Path, supervisor: "subprocess.Popen[str]"
) -> None:
    def named(what: str) -> set[int]:
        return {int(path.name.partition("-")[2]) for path in tmp_path.glob(f"{what}-*")}

    for ended in range(3):
        serving = until(lambda: named("serving"), ended + 1)
        ready = until(lambda: named("ready"), ended + 2)
        assert len(serving) == ended + 1  # each came to serve when the one before it ended
        assert len(ready) == ended + 2
        (victim,) = [pid for pid in serving if Path(f"/proc/{pid}").exists()]
        os.kill(victim, signal.SIGKILL)
    until(lambda: named("serving"), 4)


def test_a_turn_comes_while_something_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "HEARTBEAT", 0.01)
    ours, theirs = socket.socketpair()
    begun, ended = threading.Event(), threading.Event()

    def prove() -> None:
        begun.set()
        ended.wait()

    with ours, theirs:
        theirs.settimeout(20)
        turns: list[bool] = []
        waiting = threading.Thread(target=lambda: turns.append(Post(ours).wait(prove)))
        waiting.start()
        assert theirs.recv(1) == READY
        assert begun.wait(20)
        theirs.send(GO)
        waiting.join(20)
        assert turns == [True]
        Post(ours).alive()
        assert theirs.recv(1) == ALIVE
    ended.set()


def test_no_turn_comes_from_a_supervisor_that_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        assert not Post(ours).wait(lambda: None)
