"""Real servers that a benchmark may kill, freeze and start again; they are of its own folder."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.steady import until
from millwright import terminal
from millwright.services import postgres, redis_server
from millwright.services.addresses import Addresses
from millwright.services.answers import ask
from millwright.services.lifecycle import ENDINGS
from millwright.services.process import Server, alive, end, end_leftovers, forget, last_lines, start

PATIENCE = 20.0  # seconds that a server may take to end


class Breakable:
    """A server that runs, and what can be done to it."""

    def __init__(self, server: Server, url: str, crash: signal.Signals) -> None:
        self.server = server
        self.url = url
        self._crash = crash
        self._process: psutil.Process | None = None

    def start(self) -> None:
        """Have it run and answer."""
        process = self._process = start(self.server)
        until(lambda: self._answers() or not alive(process), f"{self.server.name} does not start")
        if not alive(process):
            raise RuntimeError(f"{self.server.name} has ended: {last_lines(self.server.log)}")

    def kill(self) -> None:
        """End it as a crash would."""
        self._running.send_signal(self._crash)
        self._running.wait(PATIENCE)  # for all of its threads: the last one gives the port free

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have no process of it run meanwhile."""
        family = [self._running, *self._running.children(recursive=True)]
        for each in family:
            each.suspend()
        try:
            yield
        finally:
            for each in family:
                each.resume()

    def end(self) -> None:
        """End it for good."""
        if self._process:
            end(self._process, ENDINGS[self.server.name])
            forget(self.server.folder)

    @property
    def _running(self) -> psutil.Process:
        assert self._process  # noqa: S101 - it was started
        return self._process

    def _answers(self) -> bool:
        name = self.server.name
        return ask({name: self.url}, 2)[name].version is not None


@contextlib.contextmanager
def running_postgres(folder: Path) -> Iterator[Breakable]:
    """PostgreSQL with its data in `folder`; to crash it closes no connection in order."""
    addresses = Addresses(folder, _quiet)
    place = _place(folder, "postgres")
    server = postgres.server(
        place, addresses.port("postgres"), addresses.password("postgres"), terminal.say
    )
    postgres.prepare(server)
    yield from _run(Breakable(server, addresses.url("postgres"), signal.SIGQUIT))


@contextlib.contextmanager
def running_redis(folder: Path) -> Iterator[Breakable]:
    """Redis with its data in `folder`; to crash it is killed."""
    addresses = Addresses(folder, _quiet)
    place = _place(folder, "redis")
    server = redis_server.server(place, addresses.port("redis"), addresses.password("redis"))
    redis_server.prepare(server)
    yield from _run(Breakable(server, addresses.url("redis"), signal.SIGKILL))


def empty(redis: Breakable) -> None:
    """Kill Redis and start it again with nothing in it."""
    redis.kill()
    for file in redis.server.folder.glob("appendonly*"):
        file.unlink()
    redis.start()


def _run(server: Breakable) -> Iterator[Breakable]:
    server.start()
    try:
        yield server
    finally:
        server.end()


def _place(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    end_leftovers(place, ENDINGS[name], terminal.say)
    return place


def _quiet(_: str) -> None:
    """Which port it is, nobody has to know."""
