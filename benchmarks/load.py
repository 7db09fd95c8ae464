"""Load for an HTTP service of this machine, from one event loop, by connections that are kept.

Closed loop: each connection asks again as soon as it was answered. Open loop: requests come when a
schedule says, whether others were answered or not, and one that has to wait for a connection has
waited all the same: its latency counts from its time in the schedule (no coordinated omission).
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.benchmark import Measured

Ask = Callable[[int], Awaitable[object]]  # about the machine of that number


@dataclass
class Record:
    """The latencies of what was answered, in seconds; what was not, and why not at first."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    reason: str = ""

    def fail(self, err: Exception) -> None:
        """Count a request without an answer."""
        self.reason = self.reason or str(err) or type(err).__name__
        self.failed += 1

    def measured(self, result: object, **more: float) -> Measured:
        """The seconds of a thousand requests, and what else is to be told."""
        rate = len(self.latencies) / self.seconds
        ordered = sorted(self.latencies)
        shown = {f"p{share * 100:g}_ms": 1000 * percentile(ordered, share) for share in (0.5, 0.99)}
        details = {"requests_per_second": rate, **shown, "most_ms": 1000 * ordered[-1]}
        return Measured(1000 / rate, {**details, "failed": self.failed, **more}, result)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that at least `share` of all values do not exceed (nearest rank)."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def schedule(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """When requests come, in seconds from the beginning: a Poisson process, as of many clients."""
    dice, moment = np.random.default_rng(seed), 0.0
    while (moment := moment + dice.exponential(1 / rate)) < seconds:
        yield moment


async def closed(asks: Sequence[Ask], machines: int, seconds: float, seed: int) -> Record:
    """Have every connection ask without a pause about machines at random."""
    record, began = Record(), time.perf_counter()

    async def keep_asking(ask: Ask, dice: np.random.Generator) -> None:
        while (before := time.perf_counter()) < began + seconds:
            try:
                await ask(int(dice.random() * machines))
            except Exception as err:
                record.fail(err)
                return  # the connection is gone
            record.latencies.append(time.perf_counter() - before)

    dice = np.random.default_rng(seed).spawn(len(asks))
    await asyncio.gather(*map(keep_asking, asks, dice))
    record.seconds = time.perf_counter() - began
    return record


async def opened(asks: Sequence[Ask], machines: int, moments: Iterator[float], seed: int) -> Record:
    """Ask about machines at random when the time has come, by whichever connection is free."""
    record, dice = Record(), np.random.default_rng(seed)
    due: asyncio.Queue[float | None] = asyncio.Queue()

    async def work(ask: Ask) -> None:
        while (moment := await due.get()) is not None:
            try:
                await ask(int(dice.random() * machines))
            except Exception as err:
                record.fail(err)
                continue  # what comes to it fails at once, and is counted
            record.latencies.append(time.perf_counter() - moment)

    workers = [asyncio.create_task(work(ask)) for ask in asks]
    began = time.perf_counter()
    for moment in moments:
        wait = began + moment - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        due.put_nowait(began + moment)
    for _ in workers:
        due.put_nowait(None)
    await asyncio.gather(*workers)
    record.seconds = time.perf_counter() - began
    return record
