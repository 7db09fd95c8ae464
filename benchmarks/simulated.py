"""Simulated fleets for benchmarks of whole pipelines, and a home of its own to run them in."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.benchmark import Case
from millwright.fleet import load_fleet
from millwright.settings import REPOSITORY
from millwright.simulator import simulate


def description() -> dict[str, Any]:
    """What the fleet file of `make run` says."""
    path = REPOSITORY / "configs" / "fleets" / "simulated.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def make(case: Case, name: str, said: Mapping[str, Any]) -> None:
    """A fleet whose file says so, and its raw tables in the folder of its name."""
    fleets = _fleets(case)
    fleets.mkdir(exist_ok=True)
    text = yaml.safe_dump({**said, "name": name})
    (fleets / f"{name}.yaml").write_text(text, encoding="utf-8")
    os.environ["MILLWRIGHT_FLEETS"] = str(fleets)
    fleet = load_fleet(name)
    if fleet.simulation:
        simulate(fleet, fleet.simulation, case.data / name)


def at_home(case: Case) -> None:
    """Have all state in a home of its own, and no fleet but those of the data."""
    os.environ["MILLWRIGHT_FLEETS"] = str(_fleets(case))
    os.environ["MILLWRIGHT_HOME"] = str(case.scratch / "home")


def _fleets(case: Case) -> Path:
    return case.data / "fleets"
