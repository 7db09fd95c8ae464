"""The client of the serving benchmark: what it counts, and how it waits for nobody."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from benchmarks import load
from benchmarks.connection import Connection, RefusedError, post

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def test_a_percentile_is_the_least_value_that_enough_do_not_exceed() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    shares = (0.0, 0.25, 0.26, 0.5, 0.99, 1.0)
    assert [load.percentile(values, share) for share in shares] == [1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    ordered = sorted(np.random.default_rng(1).random(1001).tolist())
    for share in (0.5, 0.9, 0.99):
        expected = np.percentile(ordered, 100 * share, method="inverted_cdf")
        assert load.percentile(ordered, share) == expected


def test_a_schedule_has_its_rate_and_is_the_same_again() -> None:
    moments = list(load.schedule(500, 20, seed=1))
    assert moments == list(load.schedule(500, 20, seed=1)) != list(load.schedule(500, 20, seed=2))
    assert len(moments) == pytest.approx(10_000, rel=0.05)
    assert moments[0] > 0 and moments[-1] < 20
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert np.std(gaps) == pytest.approx(1 / 500, rel=0.1)  # as of many clients, not of a clock


def test_figures_are_of_what_was_answered() -> None:
    record = load.Record(2.0, [0.004, 0.002, 0.001, 0.003], failed=1)
    measured = record.measured("result", unlogged=0)
    assert (measured.seconds, measured.result) == (500.0, "result")
    assert measured.details == {
        "requests_per_second": 2.0, "p50_ms": 2.0, "p99_ms": 4.0, "most_ms": 4.0,
        "failed": 1, "unlogged": 0,
    }  # fmt: skip


def test_a_connection_is_kept_and_an_answer_may_come_in_pieces() -> None:
    connections: list[object] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while request := await _request(reader):
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request) + request
            for piece in (answer[:20], answer[20:45], answer[45:]):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async def client(port: int) -> list[bytes]:
        connection = await Connection.open(port)
        answers = [await connection.ask(post("/", body)) for body in (b"one", b"another")]
        connection.close()
        return answers

    assert _served(handle, client) == [b"one", b"another"]
    assert len(connections) == 1


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}", b""])
def test_a_refusal_and_the_end_of_the_connection_are_failures(answer: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        writer.write(answer)
        writer.close()

    async def client(port: int) -> None:
        connection = await Connection.open(port)
        with pytest.raises(RefusedError, match=r"503|ended"):
            await connection.ask(post("/", b"{}"))
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="ended"):  # at once, and not after some patience
            await connection.ask(post("/", b"{}"))

    _served(handle, client)


def test_a_closed_loop_asks_again_as_soon_as_it_is_answered() -> None:
    at_once = most = 0

    async def ask(_: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1

    record = asyncio.run(load.closed([ask] * 3, 10, seconds=0.05, seed=1))
    assert (most, record.failed) == (3, 0)
    assert len(record.latencies) > 3


def test_a_closed_loop_counts_what_fails_and_says_why() -> None:
    async def ask(_: int) -> None:
        raise RefusedError("no")

    record = asyncio.run(load.closed([ask, ask], 10, seconds=5, seed=1))
    assert (record.failed, record.reason, record.latencies) == (2, "no", [])


def test_in_an_open_loop_who_waits_for_a_connection_has_waited() -> None:
    """One connection, three requests at once, each of 50 ms: the last has waited for all three."""

    async def ask(_: int) -> None:
        await asyncio.sleep(0.05)

    record = asyncio.run(load.opened([ask], 10, iter([0.0, 0.0, 0.0]), seed=1))
    first, second, third = record.latencies
    assert first >= 0.05 and second >= 0.1 and third >= 0.15


def test_an_open_loop_does_not_wait_for_answers() -> None:
    asked: list[float] = []

    async def ask(_: int) -> None:
        asked.append(time.perf_counter())
        if len(asked) == 1:
            while len(asked) < 4:  # the first is answered when all others were asked
                await asyncio.sleep(0)

    moments = [0.0, 0.01, 0.02, 0.03]
    record = asyncio.run(load.opened([ask] * 2, 10, iter(moments), seed=1))
    assert len(record.latencies) == 4
    assert all(after >= before for before, after in itertools.pairwise(asked))
    assert asked[-1] - asked[0] >= 0.02


async def _request(reader: asyncio.StreamReader) -> bytes:
    """The body of the next request; nothing at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    return await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))


def _served(handle: Handle, client: Callable[[int], Awaitable[Any]]) -> Any:
    async def both() -> Any:
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            return await asyncio.wait_for(client(server.sockets[0].getsockname()[1]), 20)

    return asyncio.run(both())
