"""Threads that do what blocks, so that the service goes on answering."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class Workers:
    """Some threads, which end with the process however long a server keeps them waiting."""

    def __init__(self, count: int) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True).start()

    async def run(self, job: Callable[[], Result], seconds: float) -> Result:
        """Do `job` and give its result.

        Raises:
            TimeoutError: it was not done within `seconds`; if it had not begun, it never will.
        """
        future: Future[Result] = Future()
        self._jobs.put((future, job))
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)

    def _work(self) -> None:
        while True:
            future, job = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = job()
            except BaseException as err:  # raised where it is waited for
                future.set_exception(err)
            else:
                future.set_result(result)
