"""Starting and stopping an environment's servers so that a repetition, or a kill, does no harm.

`up` compares what runs with what should, and changes the difference. What a killed `up` has left
is found and ended by the next one, or by `down`.
"""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from millwright.endpoints import (
    VARIABLES,
    Endpoints,
    endpoints,
    example,
    named,
    without_password,
)
from millwright.errors import ConfigurationError, MillwrightError
from millwright.files import write_private
from millwright.lock import held
from millwright.services import mlflow_server, postgres, redis_server, schemas
from millwright.services.addresses import Addresses
from millwright.services.answers import ask, describe
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
from millwright.settings import State

Say = Callable[[str], None]
SERVERS = tuple(VARIABLES)
PATIENCE = {"postgres": 60.0, "redis": 60.0, "mlflow": 180.0}  # seconds until it has to answer
ENDINGS = {"postgres": postgres.ENDING, "redis": signal.SIGTERM, "mlflow": signal.SIGTERM}
PAUSE = 0.05  # seconds between two questions


def up(state: State, say: Say, *, may_start: bool = True) -> Endpoints:
    """Start the servers of an environment that do not run, but for those that variables name.

    Raises:
        ConfigurationError: a server is not named and may not be started here, or its port is taken.
        MillwrightError: a server did not start, or one that is named does not answer.
    """
    given = _given(state, may_start)
    answers = ask(given)
    problems = {name: answer.problem for name, answer in answers.items() if answer.problem}
    if problems:
        raise MillwrightError(
            f"{describe(given, problems)}; mend it, or unset "
            f"{', '.join(VARIABLES[name] for name in problems)} to use one that is started here"
        )
    for name, url in given.items():
        say(f"{name}: elsewhere, at {without_password(url)} ({VARIABLES[name]}), and it answers")
    _make_private(state.services)
    with held(state.services / "services.lock", say):
        _Start(state, given, say).all()
        return endpoints(state)


def down(state: State, say: Say) -> None:
    """Stop every server that was started here; others are left alone."""
    if not state.services.is_dir():
        say("no server was ever started here")
        return
    with held(state.services / "services.lock", say):
        for name in reversed(SERVERS):  # MLflow first, which needs PostgreSQL
            _stop(state.services / name, say)


class _Start:
    """One `up`: what is given, what is started, and where it is reached."""

    def __init__(self, state: State, given: dict[str, str], say: Say) -> None:
        self.state = state
        self.given = given
        self.say = say
        self.addresses = Addresses(state.services, say)
        self.urls = dict(given)

    def all(self) -> None:
        """Have every server answer."""
        # Redis first: PostgreSQL has to be prepared, and Redis comes up meanwhile.
        begun = [self._begin(name) for name in ("redis", "postgres") if name not in self.given]
        for server, since in begun:
            self._await(server, since)
        schemas.create(self.urls["postgres"], self._schemas())
        if "mlflow" not in self.given:
            self._await(*self._begin("mlflow"))

    def _schemas(self) -> list[str]:
        return ["feast_registry", *([] if "mlflow" in self.given else [mlflow_server.SCHEMA])]

    def _begin(self, name: str) -> tuple[Server, float]:
        """Have `name` run as it should; it need not answer yet."""
        folder = self.state.services / name
        _make_private(folder)
        end_leftovers(folder, ENDINGS[name], self.say)
        process = running(folder)
        wanted = self.addresses.wanted(name)
        if process and wanted:
            server = self._server(name, wanted)
            if read_record(folder).get("fingerprint") == server.fingerprint:
                self.addresses.ports.setdefault(name, wanted)
                self._publish(name)
                self.say(f"{name}: runs already (process {process.pid})")
                return server, time.monotonic()
        if process:
            self.say(f"{name}: its settings have changed; starting it anew")
            _stop(folder, self.say)
        server = self._server(name, self.addresses.port(name))
        self._publish(name)
        if name == "postgres":
            postgres.prepare(server)
        elif name == "redis":
            redis_server.prepare(server)
        process = start(server)
        self.say(f"{name}: started (process {process.pid})")
        return server, time.monotonic()

    def _server(self, name: str, port: int) -> Server:
        folder = self.state.services / name
        if name == "postgres":
            return postgres.server(folder, port, self.addresses.password(name), self.say)
        if name == "redis":
            return redis_server.server(folder, port, self.addresses.password(name))
        return mlflow_server.server(
            folder, port, self.urls["postgres"], self.state.mlflow_artifacts
        )

    def _publish(self, name: str) -> None:
        """Write down where `name` is, so that whoever needs it learns even if we are killed."""
        self.urls[name] = self.addresses.url(name)
        try:
            known = json.loads(self.state.endpoints.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        published = {**(known if isinstance(known, dict) else {}), name: self.urls[name]}
        if published != known:
            write_private(self.state.endpoints, json.dumps(published, indent=1) + "\n")

    def _await(self, server: Server, since: float) -> None:
        """Wait until `server` answers."""
        name = server.name
        url = {name: self.urls[name]}
        while True:
            process = running(server.folder)
            answer = ask(url, 2)[name]
            if answer.version and process:
                seconds = time.monotonic() - since
                where = without_password(self.urls[name])
                self.say(f"{name}: answers at {where} after {seconds:.1f} s")
                return
            if process is None or not alive(process):
                raise self._failure(server, "ended as soon as it was started")
            if time.monotonic() - since > PATIENCE[name]:
                raise self._failure(
                    server, f"{answer.problem}, {PATIENCE[name]:.0f} s after its start"
                )
            time.sleep(PAUSE)

    def _failure(self, server: Server, what: str) -> MillwrightError:
        secrets = list(self.addresses.passwords.values())
        said = last_lines(server.log, secrets=secrets)
        return MillwrightError(
            f"{server.name} {what}; to begin afresh: python -m millwright services down --stack "
            f"{self.state.environment}, and up again. The end of {server.log}:\n{said}"
        )


def _given(state: State, may_start: bool) -> dict[str, str]:
    """The servers that variables name."""
    found = {name: named(name, state) for name in SERVERS}
    missing = [name for name, url in found.items() if url is None]
    if missing and not may_start:
        ways = " ".join(f"{VARIABLES[name]}={example(name, state)}" for name in missing)
        raise ConfigurationError(
            f"environment '{state.environment}' runs on servers of yours, and nothing says where "
            f"{' and '.join(missing)} can be reached; name them: export {ways}"
        )
    return {name: url for name, url in found.items() if url is not None}


def _stop(folder: Path, say: Say) -> None:
    """Stop the server in `folder`, and whatever was left of an earlier one."""
    process = running(folder)
    if process is None:
        say(f"{folder.name}: not running")
    elif end(process, ENDINGS[folder.name]):
        say(f"{folder.name}: stopped (process {process.pid})")
    else:
        say(f"{folder.name}: did not end when it was asked to, and was killed ({process.pid})")
    end_leftovers(folder, ENDINGS[folder.name], say)
    forget(folder)


def _make_private(folder: Path) -> None:
    """Make `folder`, for its owner alone to look into."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(folder.stat().st_mode & 0o711)  # passing through may have been granted
    except OSError as err:
        raise ConfigurationError(
            f"cannot write to {folder}: {err.strerror}; give a folder that may be written, with "
            "MILLWRIGHT_HOME"
        ) from err
