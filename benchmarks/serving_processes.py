"""The servers of the serving benchmarks: each started on a free port and a processor of its own.

What is measured runs on the first processor that there is, alone; the client and the servers that
everybody shares, Redis and PostgreSQL, on the last. A contender without a server of its own has the
first for itself. They end with the process that started them, which is a group of its own.
"""

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import psutil

from benchmarks.benchmark import Case
from benchmarks.serving_plant import NAME, RELEASES
from millwright.errors import MillwrightError
from millwright.postgres.connection import connect
from millwright.prediction_log.postgres_sink import schema_of
from millwright.services.process import last_lines
from millwright.settings import REPOSITORY, State
from millwright.sql import quoted

PROCESSORS = sorted(os.sched_getaffinity(0))
MEASURED, SHARED = PROCESSORS[0], PROCESSORS[-1]
PATIENCE = 120.0  # seconds that a server may take to start
BUSY = 10.0  # percent of a processor; below it a server has nothing to do
DRAINED = 15.0  # seconds that the prediction log has to be whole
PROGRAMS = Path(sys.executable).parent

_STARTED: list["subprocess.Popen[bytes]"] = []


def settle(case: Case, processor: int) -> None:
    """Have the shared servers where they belong, and this process on `processor`."""
    for pid in case.pids:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            for task in process.threads():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(task.id, {SHARED})
    os.sched_setaffinity(0, {processor})


def start_millwright(case: Case) -> int:
    """The port of our service, as the environment of staging has it, with an empty log."""
    _empty_log(case)
    state = staging(case)
    shutil.copytree(case.data / RELEASES, state.releases(NAME), dirs_exist_ok=True)
    command = [sys.executable, "-m", "millwright", "serve", "--stack", "staging", "--fleet", NAME]
    port = _started("millwright", command, case, "/ready")
    _calm(psutil.Process(_STARTED[-1].pid))
    return port


def start_feast(case: Case, repository: Path) -> int:
    """The port of `feast serve`: without an access log, and not started anew now and then."""
    command = [str(PROGRAMS / "feast"), "--chdir", str(repository), "serve", "--no-access-log"]
    command += ["--workers", "1", "--max-requests", "0", "--max-requests-jitter", "0"]
    command += ["--keep-alive-timeout", "120", "--registry_ttl_sec", "3600"]
    return _started("feast", command, case, "/health")


def start_mlflow(case: Case) -> int:
    """The port of `mlflow models serve`: in this environment, without an access log."""
    command = [str(PROGRAMS / "mlflow"), "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", str(case.data / "mlflow"), "--workers", "1"]
    return _started("mlflow", command, case, "/ping")


def start_constant(case: Case, body: bytes) -> int:
    """The port of a server that answers everything with `body`."""
    file = case.scratch / "body"
    file.write_bytes(body)
    command = [sys.executable, "-m", "benchmarks.constant", str(file)]
    return _started("constant", command, case, "/")


def logged(case: Case, expected: int) -> int:
    """How many predictions are in the log, once `expected` are or some time has passed."""
    ending = time.monotonic() + DRAINED
    with closing(connect(case.servers["postgres"])) as connection, connection.cursor() as cursor:
        while True:
            cursor.execute(f"SELECT count(*) FROM {quoted(schema_of(NAME))}.predictions")
            (found,) = cursor.fetchone()
            connection.commit()
            if found >= expected or time.monotonic() > ending:
                return int(found)
            time.sleep(0.2)


def end_servers() -> None:
    """End every server that was started here."""
    for process in _STARTED:
        process.terminate()
        process.wait()
    _STARTED.clear()


def staging(case: Case) -> State:
    """Where our service of the contender keeps its state."""
    return State(case.scratch / "home", "staging")


def variables(case: Case) -> dict[str, str]:
    """Where everything is, for our service and for MLflow, which asks nobody outside."""
    state = staging(case)
    return {
        "FEAST_USAGE": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MILLWRIGHT_HOME": str(state.home),
        "MILLWRIGHT_FLEETS": str(case.data / "fleets"),
        "MILLWRIGHT_POSTGRES_URL": case.servers["postgres"],
        "MILLWRIGHT_REDIS_URL": case.servers["redis"],
        "UVICORN_LOG_LEVEL": "error",
        "UVICORN_ACCESS_LOG": "false",
        "UVICORN_TIMEOUT_KEEP_ALIVE": "120",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _empty_log(case: Case) -> None:
    with closing(connect(case.servers["postgres"])) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {quoted(schema_of(NAME))} CASCADE")
        connection.commit()


def _started(name: str, command: Sequence[str], case: Case, probe: str) -> int:
    """The port of a server that answers `probe` by now."""
    port, log = _free_port(), case.scratch / f"{name}.log"
    with _on(MEASURED), log.open("wb") as said:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=REPOSITORY,
            env={**os.environ, **variables(case)},
        )  # fmt: skip
    _STARTED.append(process)
    ending = time.monotonic() + PATIENCE
    while not _answers(port, probe):
        if process.poll() is not None or time.monotonic() > ending:
            raise MillwrightError(f"{name} did not start; the end of {log}:\n{last_lines(log)}")
        time.sleep(0.1)
    return port


def _calm(process: psutil.Process) -> None:
    """Wait until a server has made what it makes only when it answers already."""
    ending = time.monotonic() + PATIENCE
    while process.cpu_percent(0.5) > BUSY and time.monotonic() < ending:
        pass


def _answers(port: int, probe: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", probe)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def _on(processor: int) -> Iterator[None]:
    """Have what is started meanwhile run on `processor`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
