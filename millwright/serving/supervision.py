"""Keeps a service answering: one process serves, another stands by, and the socket outlives both.

The supervisor listens and never answers. A process that stands by has loaded everything and follows
the releases; it takes over within milliseconds when the one that serves ends or hangs, and
connections that come in between wait in the socket's queue. SIGHUP replaces both, by processes of
the code that is there now, and lets the old one finish what it has begun.

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
    def hangs(self) -> bool:
        """Whether it serves and gives no sign of life."""
        return self.ready and self.serving and time.monotonic() - self.heard > HUNG

    def end(self, how: int) -> None:
        """Have it end."""
        if self.process.poll() is None:
            self.process.send_signal(how)

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

        A first child that ends by itself before it was ready decides the code: what is wrong then
        would be wrong the next time too.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._heard)
        first = self._serving = self._new(now=True)
        while not {signal.SIGTERM, signal.SIGINT} & {*self._signals}:
            self._listen()
            code = first.process.poll()
            if code and not first.ready:
                return code
            if signal.SIGHUP in self._signals:
                self._signals.remove(signal.SIGHUP)
                self._replace()
            self._look()
        for child in self._all():
            child.end(signal.SIGTERM)
        for child in self._all():
            child.gone(GRACE)
        return 0

    def _heard(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signals.append(number)

    def _all(self) -> list[Child]:
        return [each for each in (self._serving, self._waiting, *self._ending) if each]

    def _listen(self) -> None:
        """Wait a little for what children say."""
        with selectors.DefaultSelector() as selector:
            for child in self._all():
                selector.register(child.line, selectors.EVENT_READ, child)
            for key, _ in selector.select(LOOK):
                key.data.listen()
                if key.data.process.poll() is not None:
                    time.sleep(0.01)  # an ended process has a line that is always readable

    def _look(self) -> None:
        """Replace what has ended or hangs, and have somebody stand by."""
        for child in [each for each in self._ending if each.process.poll() is not None]:
            child.gone(0)
            self._ending.remove(child)
        waiting = self._waiting
        if waiting and waiting.process.poll() is not None:
            self._ended(waiting)
            self._waiting = waiting = None
        if self._serving and self._serving.hangs:
            terminal.warn(f"process {self._serving.process.pid} hangs; ending it")
            self._serving.end(signal.SIGKILL)
            self._serving.process.wait()
        if self._serving and self._serving.process.poll() is not None:
            self._ended(self._serving)
            self._serving, self._waiting = waiting, None
            if self._serving:
                self._serving.go()
                terminal.say(f"process {self._serving.process.pid} takes over")
                self._next = max(self._next, time.monotonic() + SETTLING)
        if self._serving is None and time.monotonic() >= self._next:
            self._serving = self._new(now=True)
        elif self._wants_another() and time.monotonic() >= self._next:
            self._waiting = self._new(now=False)
        elif self._waiting and self._waiting.ready and self._waiting.serving:
            if self._serving:  # which is replaced
                self._serving.end(signal.SIGTERM)
                self._ending.append(self._serving)
            self._serving, self._waiting = self._waiting, None

    def _wants_another(self) -> bool:
        ready = self._serving is not None and self._serving.ready
        return self.standby and self._waiting is None and ready

    def _replace(self) -> None:
        """Have a new process serve as soon as it can."""
        terminal.say("replacing what serves")
        if self._waiting:
            self._waiting.end(signal.SIGTERM)
            self._ending.append(self._waiting)
        self._waiting = self._new(now=True)

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
