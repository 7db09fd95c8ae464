"""The lines that `make setup` adds to `activate`, read by a real shell."""

import subprocess
import sys
from pathlib import Path

import pytest

from millwright.activation import exports
from millwright.settings import State, process_environment

PATH = "/usr/bin:/bin"


def variables(script: str, shell: str = "sh", **given: str) -> dict[str, str]:
    """The environment of commands in a shell that has read `script`."""
    done = subprocess.run(
        [shell, "-c", f"set -eu\n{script}\nenv -0"],
        env={"PATH": PATH, **given}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose name a shell would stumble over."""
    path = tmp_path / 'it\'s $HOME `now`; "really"'
    monkeypatch.setenv("MILLWRIGHT_HOME", str(path))
    return path


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_sees_the_state_of_the_project(home: Path, shell: str) -> None:
    expected = process_environment(State(home, "local"))
    assert expected.items() <= variables(exports(), shell).items()


def test_a_variable_that_is_set_stays_and_an_empty_one_counts_as_unset(home: Path) -> None:
    found = variables(exports(), MLFLOW_TRACKING_URI="http://mine", DO_NOT_TRACK="")
    assert found["MLFLOW_TRACKING_URI"] == "http://mine"
    assert found["DO_NOT_TRACK"] == "true"
    assert found["ZENML_CONFIG_PATH"] == str(home / "zenml")


def test_reading_the_lines_twice_changes_nothing(home: Path) -> None:
    assert variables(exports() * 2) == variables(exports())


def test_the_module_prints_the_lines_and_makes_nothing(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "millwright.activation"],
        env={"PATH": PATH, "MILLWRIGHT_HOME": str(home)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == exports()
    assert done.stdout.startswith("\n#")
    assert not home.exists()
