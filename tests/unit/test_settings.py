"""Where the project keeps its state, and what an environment may use."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from millwright import process
from millwright.errors import ConfigurationError
from millwright.settings import (
    REPOSITORY,
    Settings,
    State,
    load_settings,
    process_environment,
    state,
)

VALUES: dict[str, Any] = load_settings().model_dump()


def test_the_local_environment_is_the_usual_one() -> None:
    assert load_settings() == load_settings("local")
    assert load_settings().environment == "local"


def test_an_unknown_environment_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"no environment 'lokal'; did you mean 'local'"):
        load_settings("lokal")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("engine", "memory_limit", "2 gigabytes"),
        ("engine", "memory_limit", "GB"),
        ("engine", "memory_limit", "2GB; DROP TABLE x"),
        ("engine", "threads", 0),
        ("search", "trials", 0),
        ("search", "seconds", 0),
        ("search", "rows", -1),
        (None, "report_rows", 0),
        (None, "environment", "The Moon"),
        (None, "servers", "some"),
    ],
)
def test_what_cannot_be_is_refused(section: str | None, key: str, value: object) -> None:
    Settings.model_validate(VALUES)
    values = {**VALUES, section: {**VALUES[section], key: value}} if section else {
        **VALUES, key: value
    }  # fmt: skip
    with pytest.raises(ValidationError, match=key):
        Settings.model_validate(values)


def test_state_lies_in_the_repository_unless_another_home_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MILLWRIGHT_HOME", raising=False)
    assert state().home == REPOSITORY / ".millwright"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILLWRIGHT_HOME", "elsewhere")
    assert state("local") == State(tmp_path.resolve() / "elsewhere", "local")
    monkeypatch.setenv("MILLWRIGHT_HOME", "")
    assert state().home == REPOSITORY / ".millwright"


def test_asking_where_state_lies_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLWRIGHT_HOME", str(tmp_path / "home"))
    process_environment(state())
    state().releases("plant")
    assert list(tmp_path.iterdir()) == []


def folders(found: State, fleet: str) -> list[Path]:
    return [
        found.raw(fleet), found.quarantine(fleet), found.offline(fleet), found.detectors(fleet),
        found.releases(fleet), found.reports(fleet), found.predictions(fleet),
        found.journals(fleet),
    ]  # fmt: skip


def test_no_two_stores_share_a_folder(tmp_path: Path) -> None:
    one, other = State(tmp_path, "local"), State(tmp_path, "staging")
    every = [
        *folders(one, "a"), *folders(one, "b"), *folders(other, "a"), one.mlflow_artifacts,
        one.lock, one.incoming("a"), one.incoming("b"), one.zenml,
    ]  # fmt: skip
    assert len(set(every)) == len(every)
    assert all(path.is_relative_to(tmp_path) for path in every)
    assert one.mlflow_uri == f"sqlite:///{tmp_path}/local/mlflow.db"


def test_the_tools_are_told_where_the_state_lies_and_to_keep_quiet(tmp_path: Path) -> None:
    found = process_environment(State(tmp_path, "local"))
    assert found["ZENML_CONFIG_PATH"] == f"{tmp_path}/zenml"
    assert found["ZENML_LOCAL_STORES_PATH"].startswith(found["ZENML_CONFIG_PATH"])
    assert found["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/local/mlflow.db"
    assert found["ZENML_ANALYTICS_OPT_IN"] == "false"
    assert found["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_variable_chooses_the_environment_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILLWRIGHT_ENVIRONMENT", "staging")
    assert process.chosen(None).environment == "staging"
    assert process.chosen("local").environment == "local"
    monkeypatch.setenv("MILLWRIGHT_ENVIRONMENT", "stagin")
    with pytest.raises(ConfigurationError, match="'staging'"):
        process.chosen(None)
