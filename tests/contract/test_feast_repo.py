"""The feature repository as a person uses it: `feast` typed in its folder, on a copy of it."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from millwright.fleet import Fleet, load_fleet
from millwright.settings import REPOSITORY
from millwright.views import feature_views, published, service_name

FLEETS = ("azure_pdm", "simulated")
TABLES = (
    "entities", "data_sources", "feature_views", "feature_services", "on_demand_feature_views",
    "stream_feature_views",
)  # fmt: skip


@dataclass(frozen=True)
class Clone:
    """A copy of the repository, and Feast's command in it."""

    folder: Path

    @property
    def fleets(self) -> Path:
        return self.folder / "configs" / "fleets"

    def feast(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type `feast` and `words` in the feature repository; nothing of ours is exported."""
        theirs = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FEAST_", "MILLWRIGHT_"))
        }
        return subprocess.run(
            [str(Path(sys.executable).with_name("feast")), *words],
            cwd=self.folder / "feature_repo",
            env={**theirs, "PYTHONPATH": str(self.folder), "COLUMNS": "500"},
            capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip

    def told(self, *words: str) -> str:
        """What a command that goes well says."""
        done = self.feast(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def definitions(self) -> dict[tuple[str, str], bytes]:
        """What the registry holds, by kind and name: the definitions without their times."""
        found = {}
        path = self.folder / ".millwright" / "local" / "registry.db"
        with closing(sqlite3.connect(path)) as connection:
            for table in TABLES:
                cursor = connection.execute(f"SELECT * FROM {table}")
                columns = [column[0] for column in cursor.description]
                for row in cursor:
                    values = dict(zip(columns, row, strict=True))
                    name = next(v for k, v in values.items() if k.endswith("_name"))
                    proto = next(v for k, v in values.items() if k.endswith("_proto"))
                    found[table, str(name)] = proto
        return found


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The copy, after its first `feast apply`."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("feature_repo", "configs", "millwright"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=leave)
    (folder / ".millwright" / "local").mkdir(parents=True)  # as `make setup` leaves it
    found = Clone(folder)
    found.told("apply")
    return found


def expected(*fleets: Fleet) -> set[tuple[str, str]]:
    """What is to be published for `fleets`."""
    names = {("entities", "machine")}
    for fleet in fleets:
        views = [published(fleet, view.name) for view in feature_views(fleet)]
        names |= {("feature_views", view) for view in views}
        names |= {("data_sources", f"{view}_source") for view in views}
        names |= {
            ("feature_services", service_name(fleet, model)) for model in ("failure", "anomaly")
        }
    return names


def named(found: Clone) -> set[tuple[str, str]]:
    # Feast has an entity of its own for views without one.
    return set(found.definitions()) - {("entities", "__dummy")}


def rows(text: str) -> list[str]:
    """The first column of a table of Feast's."""
    return [line.split()[0] for line in text.splitlines()[1:] if line.strip()]


def test_feast_apply_publishes_what_every_fleet_has(clone: Clone) -> None:
    assert named(clone) == expected(*map(load_fleet, FLEETS))
