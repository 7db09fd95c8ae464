"""A server as a process that outlives the command which started it, and that is found again.

What runs is known by its record: process id, time of creation and executable, since ids are used
again. A command that was killed before it could write the record is no loss: each process of a
server carries the server's folder in its environment.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from millwright.files import write_private
from millwright.services.account import Account

MARK = "MILLWRIGHT_SERVER"  # in the environment of every process of a server: its folder
PATIENCE = 20.0  # seconds that a server has to end by itself
OLD_LOG = 20_000_000  # bytes; a longer log is set aside at the next start
LAST_LINES = 15  # of a log, in an error message


@dataclass(frozen=True)
class Server:
    """How a server is started.

    `configuration` and `password` are what else its behaviour follows from: a running server with
    others is out of date.
    """

    name: str
    folder: Path
    command: Sequence[str]
    executable: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    configuration: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    account: Account = field(default_factory=Account)

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "log"

    @property
    def fingerprint(self) -> str:
        """The same for servers that do the same."""
        said = json.dumps(
            [list(self.command), dict(self.environment), self.configuration, self.password]
        )
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def start(server: Server) -> psutil.Process:
    """Start `server` in a session of its own, and record it."""
    if server.log.is_file() and server.log.stat().st_size > OLD_LOG:
        server.log.replace(server.log.with_suffix(".old"))
    with server.log.open("ab") as log:
        started = subprocess.Popen(
            [*server.account.prefix, *server.command],
            cwd=server.folder,
            env=marked_environment(server.folder, server.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **server.account.identity,
        )
    started.returncode = 0  # it outlives this command: nobody is going to wait for it
    process = psutil.Process(started.pid)
    _record(server, process)
    return process


def marked_environment(folder: Path, own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of the server in `folder`."""
    # Ours and MLflow's variables may hold passwords, and they mean our side of the connection.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MILLWRIGHT_", "MLFLOW_"))}
    return {**kept, **own, MARK: str(folder)}


def running(folder: Path) -> psutil.Process | None:
    """The process of the server in `folder`; one that was never recorded does not count."""
    record = read_record(folder)
    try:
        process = psutil.Process(int(record["pid"]))
        if (
            abs(process.create_time() - float(record["created"])) < 1
            and process.exe().removesuffix(" (deleted)") in record["executables"]
            and process.status() != psutil.STATUS_ZOMBIE
        ):
            return process
    except (KeyError, TypeError, ValueError, psutil.Error):
        pass
    return None


def read_record(folder: Path) -> dict[str, Any]:
    """What was written down when the server in `folder` was started; empty if nothing was."""
    try:
        record: dict[str, Any] = json.loads((folder / "process.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def alive(process: psutil.Process) -> bool:
    """Whether `process` still runs; one that only waits for its parent does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def end(process: psutil.Process, ending: int, patience: float = PATIENCE) -> bool:
    """End `process` and what it has started; false if it had to be killed."""
    family = [process]
    with contextlib.suppress(psutil.Error):
        family += process.children(recursive=True)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(ending)
        process.send_signal(signal.SIGCONT)  # a frozen one would not hear the first
    _, left = psutil.wait_procs(family, timeout=patience)
    left = [each for each in left if alive(each)]
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(left, timeout=patience)
    return not left


def end_leftovers(folder: Path, ending: int, say: Callable[[str], None]) -> None:
    """End every process of the server in `folder` but the one that is recorded and its own."""
    known = running(folder)
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(MARK) == str(folder)
            left = marked and process != known and known not in process.parents()
        except (psutil.Error, OSError):
            continue
        if left and alive(process):
            say(f"{folder.name}: ending process {process.pid}, which was left behind")
            end(process, ending)


def forget(folder: Path) -> None:
    """Remove the record of a server that has ended."""
    (folder / "process.json").unlink(missing_ok=True)


def last_lines(log: Path, count: int = LAST_LINES, secrets: Sequence[str] = ()) -> str:
    """The end of a log, without `secrets`."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 1000 * count))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    for secret in secrets:
        text = text.replace(secret, "***")
    return "\n".join(text.splitlines()[-count:])


def _record(server: Server, process: psutil.Process) -> None:
    # A path in the virtual environment may be a link, and the system names what it leads to. What
    # stands before the command is what the process is until it becomes the server.
    programs = [server.executable, *map(Path, server.account.prefix[:1])]
    known = {str(path) for each in programs for path in (each, each.resolve())}
    with contextlib.suppress(psutil.Error):
        known.add(process.exe())
    record = {
        "pid": process.pid,
        "created": process.create_time(),
        "executables": sorted(known),
        "fingerprint": server.fingerprint,
    }
    write_private(server.folder / "process.json", json.dumps(record, indent=1) + "\n")
