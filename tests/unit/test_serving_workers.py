"""Threads that do what blocks."""

import asyncio
import threading

import pytest

from millwright.serving.workers import Workers


def test_what_waits_behind_a_reading_that_hangs_is_given_up_and_never_done() -> None:
    hanging, done = threading.Event(), []

    async def story() -> str:
        workers = Workers(1)
        for job in (hanging.wait, lambda: done.append("late")):
            with pytest.raises(TimeoutError):
                await workers.run(job, 0.1)
        hanging.set()
        return await workers.run(lambda: "next", 10)

    assert asyncio.run(story()) == "next"
    assert done == []


def test_a_failure_is_raised_where_it_is_waited_for_and_the_thread_goes_on() -> None:
    def broken() -> None:
        raise ValueError("told")

    async def story() -> str:
        workers = Workers(1)
        with pytest.raises(ValueError, match="told"):
            await workers.run(broken, 10)
        return await workers.run(lambda: "next", 10)

    assert asyncio.run(story()) == "next"
