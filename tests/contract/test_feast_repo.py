"""The feature repository as a person uses it: `feast` typed in its folder, on a copy of it."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from millwright.configuration import load
from millwright.fleet import Fleet, load_fleet
from millwright.settings import REPOSITORY
from millwright.views import feature_views, published, service_name

FLEETS = ("azure_pdm", "simulated")
MODELS: tuple[Literal["failure", "anomaly"], ...] = ("failure", "anomaly")
TABLES = ("entities", "data_sources", "feature_views", "feature_services")


@dataclass(frozen=True)
class Clone:
    """A copy of the repository, and Feast's command in it."""

    folder: Path

    @property
    def fleets(self) -> Path:
        return self.folder / "configs" / "fleets"

    def feast(self, *words: str, at: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Type `feast` and `words`, in the feature repository; nothing of ours is exported."""
        theirs = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FEAST_", "MILLWRIGHT_"))
        }
        return subprocess.run(
            [str(Path(sys.executable).with_name("feast")), *words],
            cwd=at or self.folder / "feature_repo",
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


@pytest.fixture
def copy(clone: Clone, tmp_path: Path) -> Clone:
    """A copy to change."""
    return Clone(Path(shutil.copytree(clone.folder, tmp_path / "clone")))


def expected(*fleets: Fleet) -> set[tuple[str, str]]:
    """What is to be published for `fleets`; Feast has an entity of its own for views without."""
    names = {("entities", "machine"), ("entities", "__dummy")}
    for fleet in fleets:
        views = [published(fleet, view.name) for view in feature_views(fleet)]
        names |= {("feature_views", view) for view in views}
        names |= {("data_sources", f"{view}_source") for view in views}
        services = [service_name(fleet, model) for model in MODELS]
        names |= {("feature_services", service) for service in services}
    return names


def of_kind(kind: str, names: set[tuple[str, str]]) -> list[str]:
    return sorted(name for each, name in names if each == kind)


def first_column(text: str) -> list[str]:
    """The names in a table of Feast's."""
    head, *rows = text.splitlines()
    assert head.split()[0] == "NAME"
    return sorted(row.split()[0] for row in rows if row.strip())


def test_feast_apply_publishes_what_every_fleet_has(clone: Clone) -> None:
    names = expected(*map(load_fleet, FLEETS))
    assert set(clone.definitions()) == names
    views = clone.told("feature-views", "list")
    assert first_column(views) == of_kind("feature_views", names)


def test_the_service_of_a_model_has_every_feature_in_the_order_of_its_columns(
    clone: Clone,
) -> None:
    listed = clone.told("feature-services", "list")
    assert first_column(listed) == of_kind("feature_services", set(clone.definitions()))
    found = dict(row.split(maxsplit=1) for row in listed.splitlines()[1:])
    for fleet in map(load_fleet, FLEETS):
        assert found[service_name(fleet, "failure")].split(", ") == [
            f"{published(fleet, view.name)}:{feature}"
            for view in feature_views(fleet)
            for feature in view.features
        ]


def test_each_definition_says_whose_it_is_what_it_is_and_what_it_belongs_to(clone: Clone) -> None:
    dump = json.loads(clone.told("registry-dump"))
    kinds = ("entities", "dataSources", "featureViews", "featureServices")
    found = [each.get("spec", each) for kind in kinds for each in dump[kind]]
    ours = [each for each in found if each["name"] != "__dummy"]
    assert len(ours) == len(expected(*map(load_fleet, FLEETS))) - 1
    for each in ours:
        assert each["owner"] == "maintenance-planning", each["name"]
        assert len(each["description"]) > 15, each["name"]
        assert each["tags"], each["name"]
    for each in ours:
        if each["name"] != "machine":
            assert each["name"].startswith(each["tags"]["fleet"])


def test_applying_twice_changes_nothing(clone: Clone) -> None:
    before = clone.definitions()
    clone.told("apply")
    assert clone.definitions() == before


def test_a_plan_finds_no_change_after_apply(clone: Clone) -> None:
    assert "No changes to registry" in clone.told("plan")


def test_a_fleet_that_is_added_as_a_file_appears(copy: Clone) -> None:
    text = (copy.fleets / "simulated.yaml").read_text(encoding="utf-8")
    text = text.replace("name: simulated", "name: presses").replace("  volt:", "  force:")
    (copy.fleets / "presses.yaml").write_text(text, encoding="utf-8")
    copy.told("apply")
    added = load(copy.fleets / "presses.yaml", Fleet)
    found = copy.definitions()
    assert set(found) == expected(*map(load_fleet, FLEETS), added)
    assert b"force_mean_1h" in found["feature_views", "presses_sensor_step"]
    assert b"volt_mean_1h" in found["feature_views", "simulated_sensor_step"]


def test_a_broken_fleet_file_is_named_with_its_line_and_publishes_nothing(copy: Clone) -> None:
    before = copy.definitions()
    path = copy.fleets / "simulated.yaml"
    text = path.read_text(encoding="utf-8")
    line = text[: text.index("horizon:")].count("\n") + 1
    path.write_text(text.replace("horizon:", "horizont:"), encoding="utf-8")
    done = copy.feast("apply")
    assert done.returncode != 0
    assert done.stderr.endswith(f"{path}:{line}: unknown key 'horizont'; did you mean 'horizon'?\n")
    assert copy.definitions() == before


THEIR_CONFIGURATION = """
project: pumps
provider: local
registry: data/registry.db
offline_store:
  type: millwright.stores.asof.AsofDuckDBOfflineStore
online_store:
  type: sqlite
  path: data/online.db
entity_key_serialization_version: 3
"""
THEIR_DEFINITIONS = """
from feast import Entity, ValueType
pump = Entity(name="pump", join_keys=["pump_id"], value_type=ValueType.STRING)
"""


def test_in_another_project_feast_acts_on_that_one_alone(copy: Clone, tmp_path: Path) -> None:
    theirs = tmp_path / "pumps"
    theirs.mkdir()
    (theirs / "feature_store.yaml").write_text(THEIR_CONFIGURATION, encoding="utf-8")
    (theirs / "pumps.py").write_text(THEIR_DEFINITIONS, encoding="utf-8")
    before = copy.definitions()
    file = str(theirs / "feature_store.yaml")
    for words, place in {
        ("apply",): theirs,
        ("-c", str(theirs), "entities", "list"): tmp_path,
        (f"--chdir={theirs}", "--log-level", "info", "entities", "list"): tmp_path,
        ("-c", str(theirs), "-f", file, "entities", "list"): tmp_path,
    }.items():
        done = copy.feast(*words, at=place)
        assert (done.returncode, "environment:" in done.stderr) == (0, False), done.stderr
        assert (theirs / "data" / "registry.db").is_file()
        if "apply" in words:
            assert "project pumps" in done.stdout
        else:
            assert first_column(done.stdout) == ["pump"]
    assert copy.definitions() == before


def test_a_misspelt_option_of_another_project_is_one_line(copy: Clone, tmp_path: Path) -> None:
    text = THEIR_CONFIGURATION.replace("project: pumps", "project: pumps\nregistri: here")
    text = text.replace("Store\nonline", "Store\n  memory_limt: 2GB\nonline")
    (tmp_path / "feature_store.yaml").write_text(text, encoding="utf-8")
    done = copy.feast("apply", at=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "memory_limt" in done.stderr


def test_without_a_checkout_feast_is_feasts_own(copy: Clone, tmp_path: Path) -> None:
    shutil.rmtree(copy.folder / "feature_repo")
    shutil.rmtree(copy.folder / "configs")
    done = copy.feast("version", at=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Feast SDK Version" in done.stdout
