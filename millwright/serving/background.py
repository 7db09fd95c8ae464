"""The service of a fleet as a process of this machine that outlives the command that started it.

In its folder, `.millwright/<environment>/<fleet>/service`, lie its log, its record and its address.
"""

import http.client
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from millwright.errors import ConfigurationError, MillwrightError
from millwright.files import file_written_whole
from millwright.lock import held
from millwright.revision import code_version
from millwright.services.addresses import HOST, is_free
from millwright.services.process import (
    Server,
    alive,
    end,
    end_leftovers,
    forget,
    last_lines,
    read_record,
    running,
    start,
)
from millwright.settings import REPOSITORY, State, load_settings

Say = Callable[[str], None]
PORTS = range(8000, 8100)
# What the service is told of where everything is.
VARIABLES = (
    "MILLWRIGHT_FLEETS", "MILLWRIGHT_JOURNAL", "MILLWRIGHT_KEYS", "MILLWRIGHT_POSTGRES_URL",
    "MILLWRIGHT_REDIS_URL",
)  # fmt: skip
PATIENCE = 60.0  # seconds that a service has to answer, or to serve another release
PAUSE = 0.05
KEY = "MILLWRIGHT_KEY"  # what this process shows, where the service asks for keys
ANSWER = 5.0  # seconds for one answer
MOST_BYTES = 10_000_000  # of one answer


class Used(BaseModel):
    """The release that answers as champion."""

    model_config = ConfigDict(strict=True, frozen=True)

    version: int


class Ready(BaseModel):
    """What is read of the answer to `/ready`; `error` stands there instead where keys are asked."""

    model_config = ConfigDict(strict=True, frozen=True)

    ready: bool = False
    reason: str | None = None
    refused: str | None = None
    release: Used | None = None
    error: str | None = None


def address(state: State, fleet: str) -> str | None:
    """Where the service of a fleet answers, if it runs on this machine."""
    folder = state.service(fleet)
    port = _kept_port(folder)
    return f"http://{HOST}:{port}" if port and running(folder) else None


def ensure(state: State, fleet: str, say: Say) -> str:
    """Have the service run, with the code and settings that are there now, and give its URL.

    A running one of other code goes on answering until the new one can.

    Raises:
        ConfigurationError: nothing can be written in its folder.
        MillwrightError: it does not come to answer.
    """
    folder = state.service(fleet)
    with _in_hand(folder, say):
        end_leftovers(folder, signal.SIGTERM, say)
        process, url = running(folder), address(state, fleet)
        if process and url:
            server = _server(state, fleet, urlsplit(url).port or 0)
            if read_record(folder).get("fingerprint") == server.fingerprint:
                if ask(url, "/ready")[1].get("code") != code_version():
                    say(f"service: its code has changed; process {process.pid} replaces it")
                    process.send_signal(signal.SIGHUP)
                _await(server, process, url)
                return url
        if process:
            say(f"service: it is to run otherwise now; ending process {process.pid}")
            end(process, signal.SIGTERM)
        for _ in PORTS:
            try:
                return _started(state, fleet, say)
            except _TakenError as err:
                say(f"service: {err}; trying the next")
        raise MillwrightError(f"each of {len(PORTS)} ports was taken before the service had it")


def stop(state: State, fleet: str, say: Say) -> bool:
    """End the service of a fleet, if one runs here; false if none did."""
    folder = state.service(fleet)
    if not folder.is_dir():
        return False
    with _in_hand(folder, say):
        process = running(folder)
        if process:
            end(process, signal.SIGTERM)
            say(f"service of fleet {fleet}: process {process.pid} has ended")
        end_leftovers(folder, signal.SIGTERM, say)
        forget(folder)
        return process is not None


def await_release(url: str, version: int, patience: float = PATIENCE) -> None:
    """Wait until the service serves a version as champion.

    Raises:
        MillwrightError: it refuses it, or does not come to it.
    """
    ending = time.monotonic() + patience
    while True:
        status, said = readiness(url)
        used = said.release.version if said.release else None
        if status == 200 and used == version:
            return
        if used != version and re.search(rf"/v{version}\b", said.refused or ""):
            raise MillwrightError(f"the service at {url} refuses v{version}: {said.refused}")
        told = f"it answers {status}" if status else "it does not answer"
        told += f" by v{used}" if used else ""
        told += f": {said.reason or said.error}" if said.reason or said.error else ""
        if time.monotonic() > ending:
            raise MillwrightError(
                f"the service at {url} does not serve v{version} after {patience:g} s: {told}; "
                "look at its log"
            )
        time.sleep(PAUSE)


def readiness(url: str) -> tuple[int, Ready]:
    """What a service says to `/ready`, with its status; 0 if nothing answers with a JSON object."""
    status, said = ask(url, "/ready")
    try:
        return status, Ready.model_validate(said)
    except ValidationError:
        return status, Ready(reason="what answers there is no service of Millwright")


def ask(url: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
    """What a service answers: its status and a JSON object; 0 and an empty one if not that.

    That is also what an answer counts as which takes too long, or is too long.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "millwright"}
    key = key or os.environ.get(KEY)
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        place = urlsplit(url)
        secure = place.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        with closing(kind(place.hostname or HOST, place.port, timeout=ANSWER)) as connection:
            method = "GET" if body is None else "POST"
            text = None if body is None else json.dumps(body)
            connection.connect()
            with _shut_late(connection.sock):
                connection.request(method, place.path.rstrip("/") + path, text, headers)
                answer = connection.getresponse()
                read = answer.read(MOST_BYTES + 1)
            said = json.loads(read) if len(read) <= MOST_BYTES else None
    except (OSError, ValueError, http.client.HTTPException):
        return 0, {}
    return (answer.status, said) if isinstance(said, dict) else (0, {})


@contextmanager
def _shut_late(line: socket.socket) -> Iterator[None]:
    """End a conversation that takes too long: a socket's own time starts anew with each byte."""

    def shut() -> None:
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    clock = threading.Timer(ANSWER, shut)
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


@contextmanager
def _in_hand(folder: Path, say: Say) -> Iterator[None]:
    """Have the folder of a service for oneself."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with held(folder / "service.lock", say):
            yield
    except OSError as err:
        raise ConfigurationError(
            f"cannot keep the service in {folder}: {err.strerror or err}; make room, or give a "
            "folder that may be written, with MILLWRIGHT_HOME"
        ) from err


class _TakenError(MillwrightError):
    """Another program came first to the port that was free a moment ago."""


def _started(state: State, fleet: str, say: Say) -> str:
    """Start the service on a port of its own, and give its URL when it answers there.

    Raises:
        _TakenError: another program has the port by now.
        MillwrightError: the service does not come to answer.
    """
    folder = state.service(fleet)
    port = _port(folder)
    server, url = _server(state, fleet, port), f"http://{HOST}:{port}"
    with file_written_whole(folder / "address") as draft:
        draft.write_text(url + "\n", encoding="utf-8")
    process = start(server)
    say(f"service: started (process {process.pid}), log {server.log}")
    _await(server, process, url)
    return url


def _server(state: State, fleet: str, port: int) -> Server:
    words = ["serve", "--stack", state.environment, "--fleet", fleet, "--port", str(port)]
    own = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return Server(
        name="service",
        folder=state.service(fleet),
        command=(sys.executable, "-m", "millwright", *words, "--supervise"),
        executable=Path(sys.executable),
        environment={**own, "PYTHONPATH": str(REPOSITORY), "MILLWRIGHT_HOME": str(state.home)},
        configuration=load_settings(state.environment).model_dump_json(),
    )


def _port(folder: Path) -> int:
    """The port that the service had, or the first that is free."""
    kept = _kept_port(folder)
    for port in ([kept] if kept else []) + list(PORTS):
        if is_free(port):
            return port
    raise MillwrightError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free for the service")


def _kept_port(folder: Path) -> int | None:
    """The port in the file `address`; none if it names none."""
    try:
        return urlsplit((folder / "address").read_text(encoding="utf-8").strip()).port
    except (OSError, ValueError):
        return None


def _await(server: Server, process: psutil.Process, url: str) -> None:
    """Wait until the service, and nobody in its place, answers with the code that is there now."""
    code, ending = code_version(), time.monotonic() + PATIENCE
    port = urlsplit(url).port or 0
    while not (_listens(process, port) and ask(url, "/ready")[1].get("code") == code):
        ended = not alive(process)
        if ended and not is_free(port):
            raise _TakenError(f"port {port} was taken meanwhile by another program")
        if ended or time.monotonic() > ending:
            raise MillwrightError(
                f"the service at {url} does not answer; the end of {server.log}:\n"
                f"{last_lines(server.log)}"
            )
        time.sleep(PAUSE)


def _listens(process: psutil.Process, port: int) -> bool:
    """Whether it is that process which listens on a port: another home's service may."""
    with suppress(psutil.Error):
        return any(
            each.status == psutil.CONN_LISTEN and each.laddr.port == port
            for each in process.net_connections("tcp")
        )
    return False
