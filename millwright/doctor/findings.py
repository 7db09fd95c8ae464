"""What a check has found, and the environment that it looked at."""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from millwright.endpoints import SCHEMES, VARIABLES, example, named, started_here
from millwright.errors import MillwrightError
from millwright.fleet import Fleet, fleets_folder, load_fleet
from millwright.services.answers import SECONDS, Answer, ask
from millwright.services.process import running
from millwright.settings import Settings, State

Level = Literal["ok", "warning", "fault"]
# How a check begins that another one has to be mended for.
LEFT_OUT = "not examined"


@dataclass(frozen=True)
class Finding:
    """One line. `mend` is the command to type; `repair` does the same and says what it did."""

    check: str
    level: Level
    found: str
    mend: str | None = None
    repair: Callable[[], str] | None = field(default=None, compare=False)

    def summary(self) -> dict[str, Any]:
        """For machines."""
        return {
            "check": self.check,
            "level": self.level,
            "found": self.found,
            "mend": self.mend,
            "repairable": self.repair is not None,
        }


class Unanswered(MillwrightError):  # noqa: N818 - it says why a check was left out
    """A check needs a server that does not answer, of which another check speaks."""


@dataclass
class Patient:
    """The environment that is examined.

    `given` is the environment of the process as it was before anything was set for the libraries.
    Servers are asked once, by a thread that starts with the examination.
    """

    state: State
    settings: Settings
    given: Mapping[str, str]
    urls: dict[str, str] = field(default_factory=dict, repr=False)
    _answers: dict[str, Answer] = field(default_factory=dict)
    _asking: threading.Thread | None = None

    @property
    def environment(self) -> str:
        """Its name."""
        return self.state.environment

    @property
    def has_servers(self) -> bool:
        """Whether it has any."""
        return self.settings.servers != "none"

    def command(self, words: str) -> str:
        """A verb of ours, for this environment."""
        return f"python -m millwright {words} --stack {self.environment}"

    def run(self, pipeline: str, fleet: str) -> str:
        """The command that runs a pipeline."""
        return f"python run.py --pipeline {pipeline} --fleet {fleet} --stack {self.environment}"

    @property
    def apply(self) -> str:
        """The command that publishes the feature definitions."""
        return f"cd feature_repo && MILLWRIGHT_ENVIRONMENT={self.environment} feast apply"

    def begin_asking(self) -> None:
        """Find where the servers are, and ask them in the background."""
        if not self.has_servers:
            return
        for name in VARIABLES:
            try:
                url = named(name, self.state) or started_here(self.state).get(name)
            except MillwrightError as err:
                self._answers[name] = Answer(problem=str(err))
                continue
            if url:
                self.urls[name] = url
        self._asking = threading.Thread(
            target=lambda: self._answers.update(ask(self.urls)), daemon=True
        )
        self._asking.start()

    def answer(self, server: str) -> Answer:
        """What a server said when it was asked."""
        if self._asking and server in self.urls:
            self._asking.join(SECONDS + 3)
            return self._answers.get(server, Answer(problem="does not answer"))
        return self._answers.get(server, Answer(problem="has no URL that is known"))

    def needs(self, *servers: str) -> None:
        """Leave a check out that cannot be made without servers that are away.

        Raises:
            Unanswered: one of them is.
        """
        for name in servers if self.has_servers else ():
            if self.answer(name).problem:
                raise Unanswered(f"{LEFT_OUT}, because {name} does not answer")

    def needs_places(self) -> None:
        """Leave a check out whose configuration names servers that nobody knows the place of.

        Raises:
            Unanswered: one of them has no URL.
        """
        missing = set(VARIABLES) - set(self.urls) if self.has_servers else set()
        if missing:
            said = f"{LEFT_OUT}, because no URL of {' and '.join(sorted(missing))} is known"
            raise Unanswered(said)

    def silence(self, server: str) -> None:
        """Take note that a server stopped to answer, so that nothing waits for it again."""
        self._answers[server] = Answer(problem="has stopped to answer")

    def start(self, server: str) -> str:
        """The command that brings a server back, or names another."""
        given = self.given.get(VARIABLES[server], "").partition("://")[0] in SCHEMES[server]
        if self.settings.servers == "here" and not given:
            up = self.command("services up")
            # One that runs and does not answer has to be stopped first.
            hangs = running(self.state.services / server) is not None
            return f"{self.command('services down')} && {up}" if hangs else up
        return f"export {VARIABLES[server]}={example(server, self.state)}"

    def fleets(self) -> list[Fleet]:
        """The fleets of which the environment has something; a broken file is left out."""
        found = []
        for name in fleet_names():
            if (self.state.root / name).is_dir():
                try:
                    found.append(load_fleet(name))
                except MillwrightError:
                    continue  # the check of the fleet files says it
        return found


@dataclass(frozen=True)
class Check:
    """One thing to look at; `server` is the one that it waits for, `mend` what helps in doubt."""

    name: str
    look: Callable[[Patient], Iterable[Finding]]
    mend: str
    server: str | None = None


def fleet_names() -> list[str]:
    """The names of all fleet files."""
    return sorted(path.stem for path in fleets_folder().glob("*.yaml"))


def moved(path: Path) -> str:
    """The command that moves something damaged away."""
    return f"mv {quote(str(path))} {quote(f'{path}.damaged')}"
