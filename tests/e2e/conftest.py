"""What the end-to-end tests share: a copy of the project, and one training run in it.

Everything is done as a user does it: `python run.py ...` in a process of its own, its state in a
folder of the test's. The copy has a smaller budget, so that a run takes seconds, and is a git
repository of its own, so that whatever a run leaves in it shows.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from os.path import relpath
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import FLEET, REPOSITORY, Clone, Ended, ForkedClone, git, rewrite
from filelock import FileLock
from forking import Forks

from millwright.settings import State, process_environment


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test session, the same in each of its worker processes."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@contextmanager
def made_once(mark: Path) -> Iterator[bool]:
    """Whether what `mark` stands for is still to be made; only one worker is told so."""
    with FileLock(f"{mark}.lock"):
        yield not mark.exists()
        mark.touch()


@pytest.fixture(scope="session")
def clone(common: Path) -> Clone:
    """A copy of the project with a small budget, committed to a repository of its own."""
    made = Clone(common / "project", common / "fleets")
    with made_once(common / "cloned") as wanted:
        if wanted:
            _copy_project(made.folder)
            _write_fleets(made.fleets)
    return made


@pytest.fixture(scope="session")
def forked(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedClone]:
    """The same copy of the project, its runs forked from a process that has the libraries."""
    folder = tmp_path_factory.mktemp("forking")
    home = folder / "home"
    constants = {
        **process_environment(State(home, "local")), "ZENML_LOGGING_VERBOSITY": "CRITICAL",
    }  # fmt: skip
    forks = Forks({**clone.environment(home), **constants})
    yield ForkedClone(clone.folder, clone.fleets, forks)
    forks.close()
    assert [path for path in folder.rglob("*") if path.is_file()] == []  # imports keep nothing


@pytest.fixture(scope="session")
def trained(clone: Clone, common: Path) -> Ended:
    """The run that many tests look at: `--pipeline training` in an empty home."""
    return _ran_once(clone, common / "trained.json", common / "trained")


@pytest.fixture(scope="session")
def fresh(forked: ForkedClone, common: Path) -> Ended:
    """The same in another home, from another folder and by paths as they are seen from there."""
    folder = common / "elsewhere"
    folder.mkdir(exist_ok=True)
    seen = {"MILLWRIGHT_HOME": "home", "MILLWRIGHT_FLEETS": relpath(forked.fleets, folder)}
    return _ran_once(forked, common / "fresh.json", folder / "home", cwd=folder, variables=seen)


def _ran_once(clone: Clone, told: Path, home: Path, **more: Any) -> Ended:
    """A training run in `home`, made by the worker that asks first, and told in a file."""
    with made_once(told) as wanted:
        if wanted:
            ended = clone.run(home, "--pipeline", "training", "--fleet", FLEET, **more)
            told.write_text(json.dumps(asdict(ended)), encoding="utf-8")
    ended = Ended(**json.loads(told.read_text(encoding="utf-8")))
    assert ended.code in (0, 3), ended.stderr
    return ended


def _copy_project(folder: Path) -> None:
    listed = git(REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        source, target = REPOSITORY / name, folder / name
        if source.is_file() and not name.startswith(("tests/", "docs/")):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    for name in ("local", "staging"):
        settings = folder / "configs" / "environments" / name / "settings.yaml"
        serving = yaml.safe_load(settings.read_text(encoding="utf-8"))["serving"]
        rewrite(
            settings,
            search={"trials": 2, "seconds": 300, "rows": 12_000},
            serving=serving | {"start": False},  # no test leaves a service behind
        )
    rewrite(folder / "configs" / "pipelines" / "training.yaml", every="3h", contribution_rows=500)
    author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, *author, "-c", "commit.gpgsign=false", "commit", "--quiet", "-m", "Copy")


def _write_fleets(folder: Path) -> None:
    """The simulated fleet, smaller: 30 machines over 120 days."""
    folder.mkdir()
    path = folder / f"{FLEET}.yaml"
    shutil.copyfile(REPOSITORY / "configs" / "fleets" / "simulated.yaml", path)
    simulation = yaml.safe_load(path.read_text(encoding="utf-8"))["simulation"]
    simulation |= {"machines": 30, "days": 120, "start": "2025-01-01"}
    rewrite(
        path, name=FLEET, test_window="25d", anomaly={"fit_window": "15d"}, simulation=simulation
    )
