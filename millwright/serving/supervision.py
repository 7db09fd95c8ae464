"""Keeps a service answering: one process serves, another stands by, and the socket outlives both.

The supervisor listens and never answers. A process that stands by has loaded everything and follows
the releases; it takes over within milliseconds when the one that serves ends or hangs, and
connections that come in between wait in the socket's queue. SIGHUP replaces both, by processes of
the code that is there now, and lets the old one finish what it has begun. Nobody waits for one that
does not come to be ready: another is started beside it, and whoever is ready first serves.

A supervisor and its children talk in single bytes, and each ends when the other is gone.
"""

import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from millwright import terminal

READY, ALIVE, GO = b"r", b"a", b"g"
HEARTBEAT = 1.0  # seconds between two signs of life
HUNG = 10.0  # seconds without one, after which a process is ended
STARTING = 60.0  # seconds that a process has to be ready, after which it is ended
LATE = 10.0  # seconds after which, where one stands by, another is started beside an unready one
LOOK = 0.2  # seconds between two looks at children that say nothing
EARLY = 10.0  # seconds; a process that ends sooner was never well
PAUSES = (0.0, 0.5, 1, 2, 5, 10)  # seconds before the next start after so many early ends
SETTLING = 1.0  # seconds that a process which takes over has the machine for itself
GRACE = 15.0  # seconds that a process has to finish what it has begun


class Child:
    """A process of the service, and what is known of it."""

    def __init__(self, command: Sequence[str], listening: socket.socket) -> None:
        self.line, theirs = socket.socketpair()
        self.line.settimeout(0)
        self.started = self.heard = time.monotonic()
        self.ready = self.serving = False
        self.asked: float | None = None  # when it was asked to end
        with theirs:
            handles = (listening.fileno(), theirs.fileno())
            options = ["--inherited", ",".join(map(str, handles))]
            self.process = subprocess.Popen([*command, *options], pass_fds=handles)

    def listen(self) -> None:
        """Take in what it says."""
        try:
            said = self.line.recv(1024)
        except OSError:
            return
        if said:
            self.heard = time.monotonic()
        if READY in said:
            self.ready = True
            if not self.serving:
                terminal.say(f"process {self.process.pid} stands by")

    def go(self) -> None:
        """Have it serve, as soon as it is ready."""
        if not self.serving:
            self.serving, self.heard = True, time.monotonic()
            try:
                self.line.send(GO)
            except OSError:
                return  # it has ended; whoever looks next sees that

    @property
    def ended(self) -> bool:
        """Whether it had ended when it was last looked at: all of one round judge by the same."""
        return self.process.returncode is not None

    @property
    def late(self) -> bool:
        """Whether it should have been ready by now."""
        return not self.ready and time.monotonic() - self.started > LATE

    @property
    def hangs(self) -> bool:
        """Whether it does not come to be ready, gives no sign of life, or does not end as asked."""
        now = time.monotonic()
        if self.asked is not None:
            return now - self.asked > GRACE
        if not self.ready:
            return now - self.started > STARTING
        return self.serving and now - self.heard > HUNG

    def end(self) -> None:
        """Ask it to end."""
        self.asked = time.monotonic()
        self.process.terminate()

    def kill(self) -> None:
        """End it, whatever it does."""
        terminal.warn(f"process {self.process.pid} hangs; ending it")
        self.process.kill()
        self.process.wait()

    def gone(self, patience: float) -> None:
        """Wait until it is gone, and see to it."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.line.close()


class Supervisor:
    """Keeps a child of `command` serving on a socket, and another standing by if `standby`."""

    def __init__(self, command: Sequence[str], listening: socket.socket, *, standby: bool) -> None:
        self.command = command
        self.listening = listening
        self.standby = standby
        self._serving: Child | None = None
        self._waiting: Child | None = None
        self._ending: list[Child] = []
        self._early = 0
        self._next = 0.0
        self._signals: list[int] = []

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; gives the exit code.

        A first child that ends before it was ready decides the code, as long as nothing was to
        replace it: what is wrong then would be wrong the next time too.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._heard)
        first = self._serving = self._new(now=True)
        try:
            while not {signal.SIGTERM, signal.SIGINT} & {*self._signals}:
                self._listen()
                if signal.SIGHUP in self._signals:
                    self._signals.remove(signal.SIGHUP)
                    self._replace()
                code = self._verdict(first)
                if code:
                    return code
                self._look()
            return 0
        finally:
            self._end()

    def _verdict(self, first: Child) -> int | None:
        """The exit code to end with, if the first child has failed and is all that there is."""
        replaced = self._serving is not first or (self._waiting and self._waiting.serving)
        code = first.process.returncode
        if not code or first.ready or replaced:
            return None
        if code > 0:
            return code  # it has said what is wrong
        terminal.fail(
            f"process {first.process.pid} was ended by signal {-code} ({signal.strsignal(-code)}) "
            "before it was ready; see who ends it (a system short of memory does) and start again"
        )
        return 1

    def _end(self) -> None:
        """End all children."""
        for child in self._all():
            child.end()
        ending = time.monotonic() + GRACE
        for child in self._all():
            child.gone(max(0.0, ending - time.monotonic()))

    def _heard(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signals.append(number)

    def _all(self) -> list[Child]:
        return [each for each in (self._serving, self._waiting, *self._ending) if each]

    def _listen(self) -> None:
        """Wait a little for what children say, and look which have ended."""
        with selectors.DefaultSelector() as selector:
            for child in self._all():
                selector.register(child.line, selectors.EVENT_READ, child)
            for key, _ in selector.select(LOOK):
                key.data.listen()
        for child in self._all():
            if child.process.poll() is not None:
                time.sleep(0.01)  # an ended process has a line that is always readable

    def _look(self) -> None:
        """Replace what has ended or hangs, and have somebody stand by."""
        for child in self._all():
            if child.hangs:
                child.kill()
        self._bury()
        self._move_up()
        if time.monotonic() >= self._next:
            if self._serving is None:
                self._serving = self._new(now=True)
            elif self.standby and not self._waiting and (self._serving.ready or self._serving.late):
                self._waiting = self._new(now=False)

    def _bury(self) -> None:
        """See to what has ended."""
        for child in [each for each in self._ending if each.ended]:
            child.gone(0)
            self._ending.remove(child)
        if self._waiting and self._waiting.ended:
            self._ended(self._waiting)
            self._waiting = None
        if self._serving and self._serving.ended:
            self._ended(self._serving)
            self._serving = None

    def _move_up(self) -> None:
        """Have who waits serve, if it is to replace who does, or if nobody does, or not yet."""
        waiting, serving = self._waiting, self._serving
        if waiting is None:
            return
        if serving:
            if not waiting.ready or (serving.ready and not waiting.serving):
                return
            self._retire(serving)
        waiting.go()
        what = "takes over" if waiting.ready else "serves as soon as it is ready"
        terminal.say(f"process {waiting.process.pid} {what}")
        self._serving, self._waiting = waiting, None
        self._next = max(self._next, time.monotonic() + SETTLING)

    def _replace(self) -> None:
        """Have a new process serve as soon as it can."""
        terminal.say("replacing what serves")
        if self._waiting:
            self._retire(self._waiting)
        self._waiting = self._new(now=True)

    def _retire(self, child: Child) -> None:
        child.end()
        self._ending.append(child)

    def _new(self, *, now: bool) -> Child:
        child = Child(self.command, self.listening)
        if now:
            child.go()
        return child

    def _ended(self, child: Child) -> None:
        code, lived = child.process.returncode, time.monotonic() - child.started
        terminal.warn(f"process {child.process.pid} ended by {code} after {lived:.0f} s")
        child.gone(0)
        self._early = self._early + 1 if lived < EARLY or not child.ready else 0
        self._next = time.monotonic() + PAUSES[min(self._early, len(PAUSES) - 1)]


class Post:
    """A child's side: it says that it is ready, waits for its turn, and goes on saying it lives."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def wait(self, meanwhile: Callable[[], None]) -> bool:
        """Wait for the turn to serve, doing something now and then; false if none will come.

        It is done beside the waiting, and goes on if the turn comes then: that can be any moment.
        """
        ended = threading.Event()
        threading.Thread(target=_repeat, args=(meanwhile, ended), daemon=True).start()
        self._line.settimeout(None)
        try:
            self._line.send(READY)
            return self._line.recv(1) == GO
        except OSError:
            return False
        finally:
            ended.set()

    def watch(self) -> None:
        """Say that this process lives, until the supervisor is gone; then end as if asked to."""
        threading.Thread(target=self._watch, daemon=True).start()

    def alive(self) -> None:
        """One sign of life."""
        try:
            self._line.send(ALIVE, socket.MSG_DONTWAIT)
        except OSError:
            return  # the supervisor is gone, or reads nothing at the moment

    def _watch(self) -> None:
        self._line.settimeout(None)
        try:
            while self._line.recv(1):
                pass
        except OSError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)


def _repeat(work: Callable[[], None], ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        work()
