"""`python -m benchmarks.servers`: real servers for a benchmark, which end with the harness.

They are the project's own (`millwright.services`), with its settings, on ports of their own.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from millwright import terminal
from millwright.errors import MillwrightError
from millwright.services import postgres, redis_server
from millwright.services.addresses import VARIABLES, Addresses
from millwright.services.answers import ask
from millwright.services.lifecycle import ENDINGS
from millwright.services.process import Server, alive, end, end_leftovers, forget, start
from millwright.settings import REPOSITORY

PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Running:
    """Where servers are reached, and the ids of their processes."""

    urls: dict[str, str]
    pids: list[int]


@contextlib.contextmanager
def running(names: Sequence[str], folder: Path) -> Iterator[Running]:
    """Have servers run whose data lie in `folder`.

    Raises:
        MillwrightError: one does not start.
    """
    if not names:
        yield Running({}, [])
        return
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.servers", str(folder), *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,  # Ctrl-C is for the harness, which ends them in its own time
    ) as keeper:
        line = keeper.stdout.readline() if keeper.stdout else b""
        if not line:
            raise MillwrightError(f"the servers in {folder} did not start; their logs are there")
        try:
            yield Running(**json.loads(line))
        finally:
            if keeper.stdin:
                keeper.stdin.close()  # which is what the keeper waits for
            keeper.wait()


def main() -> int:
    """Start servers, say where they are, and end them when standard input is closed."""
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    for variable in VARIABLES.values():  # the ports of another environment
        os.environ.pop(variable, None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    addresses = Addresses(folder, lambda _: None)
    with contextlib.ExitStack() as stack:
        try:
            pids = [stack.enter_context(_started(name, folder, addresses)) for name in names]
        except MillwrightError as err:
            terminal.fail(str(err))
            return err.exit_code
        urls = {name: addresses.url(name) for name in names}
        sys.stdout.write(json.dumps({"urls": urls, "pids": pids}) + "\n")
        sys.stdout.flush()
        sys.stdin.buffer.read()
    return 0


@contextlib.contextmanager
def _started(name: str, folder: Path, addresses: Addresses) -> Iterator[int]:
    server = _prepared(name, folder / name, addresses)
    process = start(server)
    try:
        since = time.monotonic()
        while ask({name: addresses.url(name)}, 2)[name].version is None:
            if not alive(process) or time.monotonic() - since > PATIENCE:
                raise MillwrightError(f"{name} did not start; its log is {server.log}")
            time.sleep(0.05)
        yield process.pid
    finally:
        end(process, ENDINGS[name])
        forget(server.folder)


def _prepared(name: str, folder: Path, addresses: Addresses) -> Server:
    folder.mkdir(parents=True, exist_ok=True)
    end_leftovers(folder, ENDINGS[name], terminal.say)
    port, password = addresses.port(name), addresses.password(name)
    if name == "postgres":
        server = postgres.server(folder, port, password, terminal.say)
        postgres.prepare(server)
    else:
        server = redis_server.server(folder, port, password)
        redis_server.prepare(server)
    return server


if __name__ == "__main__":
    sys.exit(main())
