"""The service of a plant as it runs for real, supervised, and how it is looked at from outside."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.fault_plant import NAME
from benchmarks.small_disk import SmallDisk
from benchmarks.steady import until
from millwright.serving import background
from millwright.settings import REPOSITORY

OURS = ("MILLWRIGHT_", "MLFLOW_", "ZENML_")


class Service:
    """A supervised service: one process serves, another stands by."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self.log = log
        self.url = ""

    @property
    def serving(self) -> psutil.Process:
        """The process that answers: the oldest, for one that stands by takes over from it."""
        return min(self._family, key=lambda each: each.create_time())

    @property
    def lines(self) -> list[str]:
        """What it has said."""
        return self.log.read_text("utf-8", "replace").splitlines()

    def has_standby(self) -> bool:
        """Whether another process would take over at once."""
        standing = {int(line.split()[1]) for line in self.lines if line.endswith(" stands by")}
        family = {each.pid for each in self._family}
        return len(family) == 2 and bool((family - {self.serving.pid}) & standing)

    def ready(self) -> dict[str, Any]:
        """What `/ready` says."""
        found: dict[str, Any] = background.ask(self.url, "/ready")[1]
        return found

    def answers(self) -> bool:
        """Whether it says that predictions can be had."""
        return bool(self.ready().get("ready"))

    def gauge(self, name: str) -> float:
        """A figure of `/metrics`."""
        text = httpx.get(f"{self.url}/metrics", timeout=5, trust_env=False).text
        line = next(line for line in text.splitlines() if line.startswith(f"millwright_{name} "))
        return float(line.partition(" ")[2])

    @property
    def _family(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]


@contextlib.contextmanager
def serving(variables: Mapping[str, str], disk: SmallDisk, log: Path) -> Iterator[Service]:
    """The service of the plant to which `variables` lead, its journal on a small disk."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    words = ["serve", "--stack", "staging", "--fleet", NAME, "--port", "0", "--supervise"]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*disk.prefix, sys.executable, "-m", "millwright", *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=REPOSITORY,
            env={**kept, **variables, "MILLWRIGHT_JOURNAL": str(disk.folder)},
        )
    service = Service(process, log)
    try:
        until(lambda: _url(service), f"the service does not start; see {log}")
        service.url = _url(service)
        until(service.answers, f"the service is not ready; see {log}")
        until(service.has_standby, f"nobody stands by; see {log}")
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _url(service: Service) -> str:
    found = [line for line in service.lines if line.startswith("supervising ")]
    return found[0].split(" at ")[1] if found else ""
