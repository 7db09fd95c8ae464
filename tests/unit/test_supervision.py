"""Who serves when processes end: a supervisor over children that only say who they are."""

import json
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
from millwright.serving.supervision import ALIVE, GO, READY, Post, Supervisor

CHILD = """
import itertools, os, signal, socket, sys, time
from pathlib import Path
folder, plan, handles = Path(sys.argv[1]), sys.argv[2], sys.argv[-1].split(",")
line = socket.socket(fileno=int(handles[1]))
for number in itertools.count():
    try:
        (folder / f"turn-{number}").touch(exist_ok=False)
        break
    except FileExistsError:
        pass
task = dict(enumerate(plan.split(","))).get(number, "")
if task == "stays":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / f"started-{os.getpid()}").touch()
if task == "freezes":
    os.kill(os.getpid(), signal.SIGSTOP)
if task == "fails":
    sys.exit(3)
(folder / f"ready-{os.getpid()}").touch()
line.send(b"r")
if line.recv(1) == b"g":
    (folder / f"serving-{os.getpid()}").touch()
    while True:
        line.send(b"a")
        time.sleep(0.05)
"""
SUPERVISOR = """
import json, socket, sys
from millwright.serving import supervision
child, folder, plan, standby, limits = sys.argv[1:]
vars(supervision).update(json.loads(limits))
with socket.create_server(("127.0.0.1", 0)) as listening:
    command = [sys.executable, "-S", "-c", child, folder, plan]
    sys.exit(supervision.Supervisor(command, listening, standby=standby == "standby").run())
"""


class Supervised:
    """A supervisor whose children do in turn what a plan says, and all that come later serve."""

    def __init__(self, folder: Path, plan: str, *, standby: bool, limits: dict[str, float]) -> None:
        self.folder = folder
        words = [CHILD, str(folder), plan, "standby" if standby else "", json.dumps(limits)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, *words], stderr=subprocess.PIPE, text=True
        )

    def named(self, what: str) -> set[int]:
        """The ids of the processes that have come so far."""
        return {int(path.name.partition("-")[2]) for path in self.folder.glob(f"{what}-*")}

    def until(self, what: str, count: int) -> set[int]:
        until(lambda: len(self.named(what)) >= count)
        return self.named(what)

    def frozen(self) -> int:
        """The process that has stopped itself."""
        until(lambda: any(map(is_frozen, self.named("started"))))
        (pid,) = filter(is_frozen, self.named("started"))
        return pid

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def ends(self) -> tuple[int, str]:
        """Its exit code, when it ends by itself, and the last that it has said."""
        said = self.process.communicate(timeout=20)[1]
        return self.process.returncode, said.splitlines()[-1] if said else ""


Supervise = Callable[..., Supervised]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    """Start a supervisor; at the end it ends well, and so do all that it started."""
    started: list[Supervised] = []

    def start(plan: str = "", *, standby: bool = False, **limits: float) -> Supervised:
        started.append(Supervised(tmp_path, plan, standby=standby, limits=limits))
        return started[-1]

    yield start
    for each in started:
        if each.process.returncode is None:
            each.process.terminate()
            assert each.ends()[0] == 0
        assert not {pid for pid in each.named("started") if lives(pid)}


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def is_frozen(pid: int) -> bool:
    try:
        return ") T " in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False


def test_who_stands_by_serves_on_when_process_after_process_ends_early(
    supervise: Supervise,
) -> None:
    service = supervise(standby=True, SETTLING=0.2)
    for ended in range(3):
        serving = service.until("serving", ended + 1)
        ready = service.until("ready", ended + 2)
        assert len(serving) == ended + 1  # each came to serve when the one before it ended
        assert len(ready) == ended + 2
        (victim,) = filter(lives, serving)
        os.kill(victim, signal.SIGKILL)
    service.until("serving", 4)


def test_a_process_that_freezes_before_it_is_ready_is_replaced(supervise: Supervise) -> None:
    service = supervise("freezes", STARTING=1)
    frozen = service.frozen()
    assert frozen not in service.until("serving", 1)
    assert not lives(frozen)


def test_a_standby_that_freezes_while_it_starts_is_in_nobody_s_way(supervise: Supervise) -> None:
    service = supervise(",freezes", standby=True, LATE=0.3, GRACE=0.3)
    (first,) = service.until("serving", 1)
    frozen = service.frozen()
    os.kill(first, signal.SIGKILL)
    assert frozen not in service.until("serving", 2)
    until(lambda: not lives(frozen))


def test_beside_a_first_process_that_freezes_another_comes_to_serve(supervise: Supervise) -> None:
    service = supervise("freezes", standby=True, LATE=0.3, GRACE=0.3)
    frozen = service.frozen()
    assert frozen not in service.until("serving", 1)
    service.until("ready", 2)  # and again another stands by


def test_the_end_of_a_first_process_that_was_replaced_while_it_started_ends_nothing(
    supervise: Supervise,
) -> None:
    service = supervise("freezes")
    frozen = service.frozen()
    service.hang_up()
    service.until("serving", 1)
    os.kill(frozen, signal.SIGCONT)
    until(lambda: not lives(frozen))
    service.hang_up()
    service.until("started", 3)


def test_the_end_of_a_first_process_that_is_to_be_replaced_ends_nothing(
    supervise: Supervise,
) -> None:
    service = supervise("freezes,freezes")
    first = service.frozen()
    service.hang_up()
    service.until("started", 2)
    os.kill(first, signal.SIGKILL)
    until(lambda: not lives(first))
    os.kill(service.frozen(), signal.SIGCONT)
    assert first not in service.until("serving", 1)


def test_a_first_process_that_somebody_ends_while_it_starts_ends_the_service_with_a_sentence(
    supervise: Supervise,
) -> None:
    service = supervise("freezes")
    first = service.frozen()
    os.kill(first, signal.SIGKILL)
    code, said = service.ends()
    assert code == 1
    assert f"process {first} was ended by signal 9 (Killed) before it was ready" in said


def test_a_first_process_that_fails_gives_the_exit_code(supervise: Supervise) -> None:
    assert supervise("fails", standby=True).ends()[0] == 3


def test_a_first_process_that_ends_between_two_looks_is_judged_all_the_same() -> None:
    command = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        supervisor = Supervisor(command, listening, standby=False)
        first = supervisor._serving = supervisor._new(now=True)
        try:
            supervisor._listen()
            assert supervisor._verdict(first) is None
            first.process.kill()
            os.waitid(os.P_PID, first.process.pid, os.WEXITED | os.WNOWAIT)
            supervisor._look()
            supervisor._listen()
            assert supervisor._verdict(first) == 1
        finally:
            supervisor._end()


def test_a_replaced_process_that_does_not_end_as_asked_is_killed(supervise: Supervise) -> None:
    service = supervise("stays", GRACE=0.3)
    (first,) = service.until("serving", 1)
    service.hang_up()
    service.until("serving", 2)
    until(lambda: not lives(first))


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
