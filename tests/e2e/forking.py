"""Runs that begin where their imports would end: a process that has imported the libraries forks.

A run is of some seconds' work, and most of those are imports. Here one process imports what reads
neither settings nor the folders of a user, and starts no threads of its own; a run is a fork of it
that takes on the environment, the folder and the words it is given, and then does as `python
run.py` does, to the end of its interpreter. It leads a session and can be killed like any process.
"""

import gc
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# ZenML takes some of its constants from the environment, so that of its importer has to be a run's.
# Not here are MLflow, which brings Polars, Polars and DuckDB, which have threads at once, Feast,
# which makes a folder, and Matplotlib, which asks where that of its user is.
LIBRARIES = (
    "alembic.command", "bcrypt", "cryptography.fernet", "dask", "docker", "evidently.presets",
    "fastapi", "git", "google.protobuf.message", "httpx", "ibis", "jinja2",
    "numpy", "opentelemetry.sdk.trace", "optuna", "pandas", "passlib.hash", "PIL.Image", "plotly",
    "psycopg2", "pyarrow.dataset", "pyarrow.parquet", "pydantic", "pyparsing", "redis", "requests",
    "rich.progress", "scipy.sparse", "scipy.stats", "skops.io", "sklearn.ensemble",
    "sklearn.linear_model", "sklearn.metrics", "sklearn.pipeline", "sklearn.preprocessing",
    "sqlalchemy.orm", "sqlmodel", "xgboost", "yaml", "zenml", "zenml.alerter",
    "zenml.zen_stores.sql_zen_store",
)  # fmt: skip


class Forked:
    """A run that was forked; whoever has it uses it as a `subprocess.Popen`."""

    def __init__(self, channel: socket.socket, files: Sequence[Any]) -> None:
        self.returncode: int | None = None
        self.cpu = 0.0  # what it and its children took of a processor, in s
        self._channel, self._files = channel, files
        self.pid: int = self._told()["pid"]

    def poll(self) -> int | None:
        """The exit code, or minus the signal; None while it runs."""
        if self.returncode is None and select.select([self._channel], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._channel], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("run.py", timeout or 0.0)
            told = self._told()
            self._channel.close()
            self.returncode, self.cpu = told["code"], told["cpu"]
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def said(self) -> str:
        """What it has said on stderr by now."""
        return os.pread(self._files[1].fileno(), 1_000_000, 0).decode(errors="replace")

    def communicate(self) -> tuple[str, ...]:
        """What it said on stdout and on stderr, by when it has ended."""
        self.wait()
        said = []
        for file in self._files:
            file.seek(0)
            said.append(file.read().decode())
            file.close()
        return tuple(said)

    def _told(self) -> Any:
        told = self._channel.recv(1000)
        assert told, "the process that forks has ended"
        return json.loads(told)


class Forks:
    """The process that has imported the libraries, in an environment in which a run may import."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._nowhere = Path(os.devnull).open("wb")  # noqa: SIM115 - closed in `close`
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert self._control.recv(1), "the libraries cannot be imported"

    def start(
        self,
        script: Path,
        words: Sequence[str],
        *,
        env: dict[str, str],
        cwd: Path,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
    ) -> Forked:
        """Fork a run of the script; what is not to go to a file is kept until it has ended."""
        files = [self._file(wanted) for wanted in (stdout, stderr)]
        asked = {"script": str(script), "words": words, "env": env, "cwd": str(cwd)}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            handles = [*(file.fileno() for file in files), theirs.fileno()]
            socket.send_fds(self._control, [json.dumps(asked).encode()], handles)
        return Forked(ours, files)

    def close(self) -> None:
        """End the process; runs that go on are nobody's any more."""
        self._control.close()
        self._nowhere.close()
        self._process.wait(60)

    def _file(self, wanted: Any) -> Any:
        if wanted == subprocess.PIPE:
            return tempfile.TemporaryFile()
        return self._nowhere if wanted == subprocess.DEVNULL else wanted


def _serve(control: socket.socket) -> None:
    """Fork for whatever is asked for, until nobody can ask any more."""
    _import_libraries()
    control.send(b"!")
    while True:
        message, handles, _, _ = socket.recv_fds(control, 1_000_000, 3)
        while _has_ended_children():
            pass
        if not message:
            return
        _refuse_what_a_fork_would_break()
        if os.fork() == 0:
            control.close()
            _keep(json.loads(message), *handles)
            return
        for handle in handles:
            os.close(handle)


def _import_libraries() -> None:
    show, warnings.showwarning = warnings.showwarning, lambda *_, **__: None
    gc.disable()
    with warnings.catch_warnings():  # as where a run imports it
        importlib.import_module("evidently")
    for name in LIBRARIES:
        importlib.import_module(name)
    warnings.showwarning = show
    gc.enable()
    gc.freeze()  # a search for garbage would write to every page that the runs share


def _has_ended_children() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _refuse_what_a_fork_would_break() -> None:
    """A fork has no threads. BLAS ends its own before one, and jemalloc starts its own anew."""
    from threadpoolctl import threadpool_info

    known = 1 + sum(pool["num_threads"] - 1 for pool in threadpool_info())
    tasks = [path.read_text("utf-8").strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert threading.enumerate() == [threading.main_thread()]
    assert len(tasks) - tasks.count("jemalloc_bg_thd") <= known, tasks
    assert tempfile.tempdir is None  # it would be that of all


def _keep(asked: dict[str, Any], stdout: int, stderr: int, told: int) -> None:
    """Fork the run, and tell whoever asked for it what becomes of it."""
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _run(asked, stdout, stderr)
        return
    with socket.socket(fileno=told) as channel:
        channel.send(json.dumps({"pid": pid}).encode())
        _, status, used = os.wait4(pid, 0)
        ended = {
            "code": os.waitstatus_to_exitcode(status), "cpu": used.ru_utime + used.ru_stime
        }  # fmt: skip
        channel.send(json.dumps(ended).encode())
    os._exit(0)


def _run(asked: dict[str, Any], stdout: int, stderr: int) -> None:
    os.setsid()
    for handle, number in ((stdout, 1), (stderr, 2)):
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    script = asked["script"]
    sys.argv = [script, *asked["words"]]
    besides = asked["env"].get("PYTHONPATH")
    sys.path[:1] = [str(Path(script).parent), *([besides] if besides else [])]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
