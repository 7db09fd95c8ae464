"""A project is its configuration; its fingerprint changes with all that a model follows from."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from raw_tables import plant, raw, reading, take_in, write_csv

from millwright import project as projects
from millwright import revision
from millwright.errors import ConfigurationError
from millwright.fleet import Simulation
from millwright.parquet_warehouse import ParquetWarehouse
from millwright.project import Project, Training, open_project
from millwright.revision import code_version, git_revision
from millwright.settings import REPOSITORY, State, load_settings
from millwright.splits import Folds


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(plant(), load_settings(), State(tmp_path / "home", "local"), Training())


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a little code."""
    folder = tmp_path / "repository"
    (folder / "millwright").mkdir(parents=True)
    (folder / "millwright" / "a.py").write_text("A = 1\n")
    (folder / "steps").mkdir()
    (folder / "README.md").write_text("words\n")
    monkeypatch.setattr(revision, "REPOSITORY", folder)
    return folder


def test_a_project_is_opened_by_names_and_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLWRIGHT_HOME", str(tmp_path / "home"))
    found = open_project("simulated", "local")
    assert found.fleet.name == "simulated"
    assert found.model_name == "simulated_failure"
    assert found.service == "simulated_failure_v1"
    assert found.raw.folder == tmp_path / "home" / "local" / "simulated" / "raw"
    assert isinstance(found.warehouse, ParquetWarehouse)
    assert found.warehouse.folder == tmp_path / "home" / "local" / "simulated" / "offline"
    assert found.training == Training()
    assert len(found.fingerprint()) == 16
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("fleet", "environment"), [("simulatd", "local"), ("simulated", "locla")])
def test_a_misspelt_name_is_answered_with_the_nearest(fleet: str, environment: str) -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean '(simulated|local)'"):
        open_project(fleet, environment)


def test_cutoffs_are_a_step_apart_unless_the_training_says_otherwise(project: Project) -> None:
    assert project.cutoff_distance == timedelta(hours=1)
    every = Training.model_validate({"every": "6h"})
    assert replace(project, training=every).cutoff_distance == timedelta(hours=6)


@pytest.mark.parametrize("values", [{"seed": -1}, {"seed": 2**32}, {"contribution_rows": 0}])
def test_a_training_is_possible(values: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Training.model_validate(values)


START = {"machines": 1, "days": 1, "start": "2025-01-01"}
SAME: dict[str, Callable[[Project], Project]] = {
    "nothing": lambda p: replace(p),
    "description": lambda p: replace(
        p, fleet=p.fleet.model_copy(update={"description": "x", "owner": "y"})
    ),
    "simulation": lambda p: replace(
        p, fleet=p.fleet.model_copy(update={"simulation": Simulation.model_validate(START)})
    ),
    "engine": lambda p: replace(p, settings=p.settings.model_copy(update={"report_rows": 1})),
    "place": lambda p: replace(p, state=State(p.state.home / "elsewhere", "local")),
}
OTHER: dict[str, Callable[[Project], Project]] = {
    "seed": lambda p: replace(p, training=Training(seed=1)),
    "folds": lambda p: replace(p, training=Training(folds=Folds(count=2))),
    "search": lambda p: replace(
        p,
        settings=p.settings.model_copy(
            update={"search": p.settings.search.model_copy(update={"trials": 1})}
        ),
    ),
    "costs": lambda p: replace(
        p,
        fleet=p.fleet.model_copy(update={"costs": p.fleet.costs.model_copy(update={"failure": 1})}),
    ),
    "horizon": lambda p: replace(p, fleet=plant(horizon="12h")),
    "name": lambda p: replace(p, fleet=plant(name="works")),
}


@pytest.mark.parametrize("what", SAME)
def test_a_fingerprint_does_not_depend_on_what_no_model_follows_from(
    project: Project, repository: Path, what: str
) -> None:
    assert SAME[what](project).fingerprint() == project.fingerprint()


@pytest.mark.parametrize("what", OTHER)
def test_a_fingerprint_changes_with_the_configuration(
    project: Project, repository: Path, what: str
) -> None:
    assert OTHER[what](project).fingerprint() != project.fingerprint()


def test_a_fingerprint_changes_with_the_libraries(
    project: Project, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.fingerprint()
    monkeypatch.setattr(projects, "version", lambda name: "0.0" if name == "xgboost" else "1.0")
    assert project.fingerprint() != before


def test_a_fingerprint_changes_with_code_and_data(
    project: Project, repository: Path, tmp_path: Path
) -> None:
    before = project.fingerprint()
    (repository / "millwright" / "a.py").write_text("A = 2\n")
    changed = project.fingerprint()
    folder = write_csv(tmp_path / "data", raw(reading()))
    take_in(project.fleet, folder, project.state.raw("plant").parent)
    assert len({before, changed, project.fingerprint()}) == 3
    again = take_in(project.fleet, folder, project.state.raw("plant").parent)
    assert again.batch is None
    assert replace(project).fingerprint() == project.fingerprint()


def test_a_code_version_changes_with_content_name_and_place(repository: Path) -> None:
    code = repository / "millwright" / "a.py"
    seen = [code_version()]
    code.write_text("A = 2\n")
    seen.append(code_version())
    code.rename(repository / "millwright" / "b.py")
    seen.append(code_version())
    (repository / "millwright" / "b.py").rename(repository / "steps" / "b.py")
    seen.append(code_version())
    (repository / "steps" / "b.py").write_text("A = 1\n")
    (repository / "steps" / "b.py").rename(code)
    assert len(set(seen)) == 4
    assert code_version() == seen[0]


def test_a_code_version_does_not_depend_on_what_is_no_code(repository: Path) -> None:
    before = code_version()
    (repository / "README.md").write_text("other words\n")
    (repository / "millwright" / "notes.txt").write_text("words\n")
    (repository / "tests").mkdir()
    (repository / "tests" / "test_a.py").write_text("words\n")
    assert code_version() == before


def test_a_code_version_covers_the_folders_that_there_are() -> None:
    for folder in ("millwright", "steps", "pipelines", "feature_repo"):
        assert folder in revision._CODE
        assert any((REPOSITORY / folder).glob("*.py"))


def test_a_revision_is_the_commit_and_whether_files_differ(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)

    def git(*words: str) -> str:
        author = ("-c", "user.name=Anna", "-c", "user.email=anna@example.org")
        command = ["git", "-C", str(repository), *author, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert git_revision() is None
    git("init", "--quiet")
    assert git_revision() is None  # no commit yet
    git("add", "README.md")
    git("commit", "--quiet", "--message", "first", "--no-gpg-sign")
    revision = git("rev-parse", "HEAD")
    assert git_revision() == revision
    (repository / "new.txt").touch()
    assert git_revision() == revision
    (repository / "README.md").write_text("other words\n")
    assert git_revision() == f"{revision}-dirty"


def test_there_is_no_revision_without_git(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shutil.which("git")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision() is None
