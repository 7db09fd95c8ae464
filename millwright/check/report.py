"""What a check finds, and how it is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millwright.errors import ConfigurationError
from millwright.settings import REPOSITORY


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is missing or wrong: where it stands, what it is, and how it is mended.

    `yours` says that the files of the project cannot have it right, but a machine or plant can.
    """

    place: str
    wrong: str
    way_out: str
    yours: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.wrong}; {self.way_out}"


@dataclass(frozen=True)
class CheckReport:
    """All that was found about an environment, and what a run in it would use."""

    environment: str
    plan: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing and nothing is wrong."""
        return not self.findings

    def summary(self) -> dict[str, Any]:
        """What the run's summary for machines says of it."""
        return {
            "status": "complete" if self.complete else "incomplete",
            "complete": self.complete,
            "plan": list(self.plan),
            "findings": [vars(finding) for finding in self.findings],
        }

    def rows(self) -> dict[str, str]:
        """The lines of a table: what would be used, then everything that is in the way."""
        found = {
            str(number): f"{each.place}\n{each.wrong}; {each.way_out}"
            for number, each in enumerate(self.findings, start=1)
        }
        return {"would use": "\n".join(self.plan), **found, "complete": self._verdict()}

    def _verdict(self) -> str:
        if self.complete:
            return "yes"
        return f"no: {len(self.findings)} thing{'s' * (len(self.findings) > 1)} to mend"


def shown(path: Path) -> str:
    """A path as a reader knows it: from the repository's folder on, if it lies in there."""
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


def of_error(err: ConfigurationError) -> list[Finding]:
    """The findings of an error about a file: one for each of its lines."""
    found = []
    for line in str(err).replace(f"{REPOSITORY}/", "").splitlines():
        place, colon, rest = line.partition(": ")
        wrong, semicolon, way_out = (rest if colon else line).rpartition("; ")
        if not semicolon:
            wrong, way_out = way_out, "correct it"
        found.append(Finding(place if colon else "configs", wrong, way_out))
    return found
