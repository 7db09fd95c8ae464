"""Commands of the project, run as a user runs them: each in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import yaml
from forking import Forks

REPOSITORY = Path(__file__).parents[2]
FLEET = "small"
FOREIGN = (
    "ZENML_", "MLFLOW_", "FEAST_", "MILLWRIGHT_", "GIT_", "PYTEST_", "PYTHON", "XDG_", "MPL", "UV_",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """A command that has ended; `cpu` is what it and its children took of a processor, in s.

    `beside` is what lay in the folder of its home by then.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    cpu: float
    home: str
    summary: dict[str, Any] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)

    @property
    def error(self) -> str:
        """The one line that says why the command failed."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stdout + self.stderr
        return lines[0]


@dataclass(frozen=True)
class Clone:
    """A copy of the project in `folder`, with the fleet files of `fleets`."""

    folder: Path
    fleets: Path

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a user who has set nothing but where state and fleets are."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        user = user_folders(home)
        for folder in user.values():
            folder.mkdir(parents=True, exist_ok=True)
        return {
            **kept,
            **{name: str(folder) for name, folder in user.items()},
            "MILLWRIGHT_HOME": str(home),
            "MILLWRIGHT_FLEETS": str(self.fleets),
        }

    def start(self, home: Path, *words: str, script: str = "run.py", **more: Any) -> Any:
        """Start a script of the project, at the head of a process group of its own."""
        return subprocess.Popen(
            [sys.executable, str(self.folder / script), *words],
            env={**self.environment(home), **more.pop("variables", {})},
            cwd=more.pop("cwd", self.folder),
            stdout=more.pop("stdout", subprocess.PIPE),
            stderr=more.pop("stderr", subprocess.PIPE),
            text=True,
            start_new_session=True,
            **more,
        )

    def run(self, home: Path, *words: str, **more: Any) -> Ended:
        """Run a pipeline to its end, with a summary for machines."""
        home.parent.mkdir(parents=True, exist_ok=True)
        path = home.parent / f"{home.name}-summary.json"
        path.unlink(missing_ok=True)
        ended = self.finish(self.start(home, *words, "--json", str(path), **more), home)
        summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        beside = sorted(each.name for each in home.parent.iterdir())
        return Ended(**{**asdict(ended), "summary": summary, "beside": beside})

    def finish(self, process: Any, home: Path) -> Ended:
        """Wait for a command that was started."""
        before, began = _children_cpu(), time.monotonic()
        stdout, stderr = process.communicate()
        return Ended(
            process.returncode,
            stdout,
            stderr,
            time.monotonic() - began,
            _children_cpu() - before,
            str(home),
        )

    def module(self, home: Path, *words: str) -> Ended:
        """Run `python -m millwright` to its end."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "millwright", *words],
            env=self.environment(home),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        return Ended(
            done.returncode, done.stdout, done.stderr, time.monotonic() - began, 0.0, str(home)
        )

    def inventory(self, home: Path) -> dict[str, Any]:
        """What MLflow and ZenML hold, as `inventory.py` finds it."""
        found: dict[str, Any] = self.ask(home, "inventory.py")
        return found

    def ask(self, home: Path, script: str, *words: str) -> Any:
        """What a script that lies beside this one says, as JSON, of the home."""
        path, variables = Path(__file__).with_name(script), {"PYTHONPATH": str(self.folder)}
        process = self.start(home, *words, script=str(path), variables=variables, cwd=home)
        done = self.finish(process, home)
        assert done.code == 0, done.stderr
        return json.loads(done.stdout)

    def changes(self) -> str:
        """What differs in the copy from what was put there, as git says it."""
        return git(self.folder, "status", "--porcelain")

    def copy(self, folder: Path) -> Self:
        """Another copy, for a test that changes something in it."""
        shutil.copytree(self.folder, folder / "project", ignore=shutil.ignore_patterns(".git"))
        shutil.copytree(self.fleets, folder / "fleets")
        return replace(self, folder=folder / "project", fleets=folder / "fleets")

    def with_fleets(self, fleets: Path) -> Self:
        """The same copy with other fleet files."""
        return replace(self, fleets=fleets)


@dataclass(frozen=True)
class ForkedClone(Clone):
    """A copy of the project whose scripts are started with the libraries imported already.

    It is for tests of what a run does; those of how it starts have a process of their own.
    """

    forks: Forks

    def start(self, home: Path, *words: str, script: str = "run.py", **more: Any) -> Any:
        """Fork a script of the project, at the head of a process group of its own."""
        environment = {**self.environment(home), **more.pop("variables", {})}
        folder = more.pop("cwd", self.folder)
        return self.forks.start(self.folder / script, words, env=environment, cwd=folder, **more)

    def finish(self, process: Any, home: Path) -> Ended:
        """Wait for a run that was forked; it is the child of another process."""
        return replace(super().finish(process, home), cpu=process.cpu)


def user_folders(home: Path) -> dict[str, Path]:
    """The home and the scratch folder of the user whose state is in `home`; empty at first."""
    user = home.parent / f"{home.name}-user"
    return {"HOME": user / "home", "TMPDIR": user / "tmp"}


def rewrite(path: Path, **changes: Any) -> None:
    """Change top-level keys of a YAML file."""
    values = yaml.safe_load(path.read_text(encoding="utf-8")) | changes
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def contents(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Every file below `folder`, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


def git(folder: Path, *words: str) -> str:
    """What git says in `folder`, whatever repository this process was started in."""
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        env={k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
