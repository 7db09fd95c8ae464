"""The active stack as ZenML's files have it, and when ZenML itself has to be asked."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest
import yaml

from millwright import active_stack
from millwright.errors import ConfigurationError

STACK = UUID("10fa6752-59f3-49ff-845d-4a4328144f70")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of ZenML's, in a home, in which the stack `staging` is the active one."""
    found, database = tmp_path / "zenml", tmp_path / "a #%41? folder" / "zenml.db"
    for each in (found, database.parent):
        each.mkdir()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE stack (id CHAR(32), name VARCHAR)")
        connection.execute("INSERT INTO stack VALUES (?, 'staging')", [STACK.hex])
    for name in os.environ:
        if name.startswith(("ZENML_", "MILLWRIGHT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MILLWRIGHT_HOME", str(tmp_path))
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(found))
    monkeypatch.chdir(tmp_path)
    write(found, STACK, "sqlite", database)
    return found


def write(folder: Path, stack: object, driver: str, database: object) -> None:
    config = {
        "active_stack_id": str(stack), "store": {"driver": driver, "database": str(database)},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def test_the_name_is_read_where_zenml_keeps_it(folder: Path) -> None:
    assert active_stack.name() == "staging"


def test_a_command_learns_its_environment_without_zenml(folder: Path) -> None:
    code = (
        "import sys; from millwright import process; "
        "print(process.chosen(None).environment, 'zenml' in sys.modules)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "staging False\n"


@pytest.mark.parametrize(
    "variable",
    [
        "ZENML_ACTIVE_STACK_ID",
        "ZENML_REPOSITORY_PATH",
        "ZENML_REPOSITORY_DIRECTORY_NAME",
        "ZENML_STORE_URL",
    ],
)
def test_zenml_is_asked_where_a_variable_has_a_say(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "something")
    assert active_stack.name() is None


def test_zenml_is_asked_within_a_repository_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / ".zen").mkdir()
    monkeypatch.chdir(folder)
    assert active_stack.name() is None


def test_zenml_is_asked_about_what_is_not_as_it_is_known_to_be(folder: Path) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    there = config["store"]["database"]
    for stack, driver, database in (
        (UUID(int=0), "sqlite", there), ("no id", "sqlite", there), (None, "sqlite", there),
        (STACK, "mysql", "zenml"), (STACK, "sqlite", "zenml.db"), (STACK, "sqlite", folder),
        (STACK, "sqlite", f"{there}.gone"), (STACK, "sqlite", folder / "config.yaml"),
    ):  # fmt: skip
        write(folder, stack, driver, database)
        assert active_stack.name() is None, (stack, database)
    for text in ("", "[", "active_stack_id: 1", "store: 1"):
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        assert active_stack.name() is None, text
    (folder / "config.yaml").unlink()
    assert active_stack.name() is None


def test_zenml_is_asked_where_nothing_says_where_its_files_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZENML_CONFIG_PATH", "")
    assert active_stack.name() is None


def test_a_folder_above_that_may_not_be_looked_into_is_no_repository(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if path.name == ".zen":
            raise PermissionError(path)
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    assert active_stack.name() == "staging"


def test_a_stack_is_the_environment_of_its_name() -> None:
    assert active_stack.environment_of("staging") == "staging"
    assert active_stack.environment_of("default") == "local"
    with pytest.raises(ConfigurationError, match=r"'mine', .* \(local, production, staging\)"):
        active_stack.environment_of("mine")
