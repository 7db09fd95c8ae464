"""What there is of an environment's servers: where they are, whether they answer, their data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from millwright.endpoints import named, started_here, without_password
from millwright.services.addresses import Addresses
from millwright.services.answers import Answer, ask
from millwright.services.lifecycle import SERVERS
from millwright.services.process import last_lines, running
from millwright.settings import State


@dataclass(frozen=True)
class Status:
    """One server: `elsewhere` if a variable names it, else whether its process runs here."""

    name: str
    state: Literal["running", "stopped", "elsewhere"]
    answers: bool
    url: str | None
    version: str | None
    pid: int | None
    data_bytes: int | None
    problem: str | None
    log: str | None

    def summary(self) -> dict[str, Any]:
        """For machines."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


def status(state: State) -> list[Status]:
    """Every server of an environment; each is asked whether it answers."""
    given = {name: url for name in SERVERS if (url := named(name, state))}
    here = {k: v for k, v in started_here(state).items() if k in SERVERS and k not in given}
    pids = {name: found.pid for name in here if (found := running(state.services / name))}
    asked = {**given, **{name: url for name, url in here.items() if name in pids}}
    answers = ask(asked)
    return [
        _one(state, name, {**here, **given}.get(name), name in given, pids.get(name), answers)
        for name in SERVERS
    ]


def table(found: Sequence[Status]) -> dict[str, str]:
    """A line for each server."""
    return {each.name: _line(each) for each in found}


def logs(state: State) -> dict[str, Path]:
    """Where each server writes what it does."""
    return {name: state.services / name / "log" for name in SERVERS}


def end_of_log(state: State, server: str, lines: int) -> str:
    """The last lines of a server's log, without passwords."""
    secrets = Addresses(state.services, print).passwords.values()
    return last_lines(logs(state)[server], lines, list(secrets))


def _one(
    state: State, name: str, url: str | None, given: bool, pid: int | None,
    answers: dict[str, Answer],
) -> Status:  # fmt: skip
    answer = answers.get(name, Answer())
    places = {"mlflow": state.mlflow_artifacts}
    return Status(
        name=name,
        state="elsewhere" if given else "running" if pid else "stopped",
        answers=answer.version is not None,
        url=without_password(url) if url else None,
        version=answer.version,
        pid=pid,
        data_bytes=None if given else _size(places.get(name, state.services / name)),
        problem=answer.problem,
        log=None if given else str(logs(state)[name]),
    )


def _size(folder: Path) -> int:
    """How many bytes the files in `folder` have; they may come and go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _line(each: Status) -> str:
    parts: list[str] = [each.state]
    if each.url:
        parts.append(each.url)
    if each.version:
        parts.append(f"version {each.version}")
    if each.problem:
        parts.append(each.problem)
    if each.pid:
        parts.append(f"process {each.pid}")
    if each.data_bytes:
        parts.append(f"{each.data_bytes / 1e6:,.1f} MB of data")
    return ", ".join(parts)
