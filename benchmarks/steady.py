"""`python -m benchmarks.steady`: requests at a steady rate, whoever answers, and each one noted.

The loop is open: a request goes out when it is due, however many are unanswered. When that is and
whom it asks about follows from a seed. It is a process of its own, so that nothing that the one who
breaks things does makes an answer look slow.
"""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import aiohttp

from millwright.settings import REPOSITORY

PATIENCE = 5.0  # seconds that an answer is waited for
MANY = 20  # machines in a request for more than one
RESET, SILENCE = 0, -1  # instead of a status: the connection broke, or nothing came


@dataclass(frozen=True)
class Order:
    """What is asked: of every `machines` one at random, of some `shares` of the requests 20."""

    url: str
    machines: Sequence[str]
    rate: float
    seed: int
    share: float = 0.05


@dataclass(frozen=True)
class Prediction:
    """What was said of one machine."""

    id: str
    machine: str
    status: str
    version: int
    probability: float | None


@dataclass(frozen=True)
class Answer:
    """What became of a request: `sent` is on the clock `time.monotonic`, `seconds` run from there.

    `late` are the seconds by which it went out after it was due: a machine that is busy with other
    things makes the asking late too. `status` is that of HTTP, RESET or SILENCE.
    """

    sent: float
    late: float
    seconds: float
    status: int
    pause: str | None
    predictions: Sequence[Prediction] = ()

    @property
    def at(self) -> float:
        """When it came."""
        return self.sent + self.seconds


@contextlib.contextmanager
def asking(order: Order, notes: Path) -> Iterator[None]:
    """Ask meanwhile, and have every answer in `notes` afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.steady", json.dumps(asdict(order)), str(notes)],
        stdin=subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        until(lambda: notes.is_file() or process.poll() is not None, "the load does not begin")
        yield
    finally:
        if process.stdin:
            process.stdin.close()  # which is what it waits for
        process.wait()
    if process.returncode:
        raise RuntimeError(f"the load ended by {process.returncode}")


def read(notes: Path) -> list[Answer]:
    """The answers that were noted, in the order in which they were sent."""
    answers = []
    for line in notes.read_text(encoding="utf-8").splitlines():
        sent, late, seconds, status, pause, predictions = json.loads(line)
        found = [Prediction(*each) for each in predictions]
        answers.append(Answer(sent, late, seconds, status, pause, found))
    return sorted(answers, key=lambda answer: answer.sent)


def until(reached: Callable[[], object], otherwise: str, seconds: float = 60) -> float:
    """Wait for something; gives when it was there.

    Raises:
        RuntimeError: it does not come.
    """
    ending = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > ending:
            raise RuntimeError(f"{otherwise} after {seconds:g} s")
        time.sleep(0.01)
    return time.monotonic()


async def _ask_on(order: Order, notes: TextIO, ended: threading.Event) -> None:
    dice, due = random.Random(order.seed), time.monotonic()  # noqa: S311 - no secret
    async with (
        aiohttp.ClientSession(
            order.url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(PATIENCE),
        ) as client,
        asyncio.TaskGroup() as asked,
    ):
        while not ended.is_set():
            due += dice.expovariate(order.rate)
            count = MANY if dice.random() < order.share else 1
            machines = dice.sample(order.machines, count)
            await asyncio.sleep(due - time.monotonic())
            asked.create_task(_ask(client, machines, due, notes))


async def _ask(
    client: aiohttp.ClientSession, machines: Sequence[str], due: float, notes: TextIO
) -> None:
    status, pause, predictions = RESET, None, []
    sent = time.monotonic()
    try:
        async with client.post("/v1/predict", json={"machines": machines}) as said:
            body = await said.read()
        seconds = time.monotonic() - sent
        status, pause = said.status, said.headers.get("retry-after")
        if status == 200:
            predictions = json.loads(body)["predictions"]
    except TimeoutError:
        status, seconds = SILENCE, time.monotonic() - sent
    except aiohttp.ClientError:
        seconds = time.monotonic() - sent
    names = ("id", "machine", "status", "version", "probability")
    told = [[each[name] for name in names] for each in predictions]
    notes.write(json.dumps([sent, sent - due, seconds, status, pause, told]) + "\n")


def main() -> None:
    """Ask as the order in the arguments says, until standard input is closed."""
    order, notes = Order(**json.loads(sys.argv[1])), Path(sys.argv[2])
    ended = threading.Event()
    threading.Thread(target=_await_end, args=(ended,), daemon=True).start()
    with notes.open("w", encoding="utf-8") as file:
        asyncio.run(_ask_on(order, file, ended))


def _await_end(ended: threading.Event) -> None:
    os.read(0, 1)
    ended.set()


if __name__ == "__main__":
    main()
