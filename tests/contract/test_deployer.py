"""The deployer in a real ZenML: the pointer decides, and ZenML's record follows it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from millwright.settings import REPOSITORY, State, process_environment


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a new home."""
    state = State(tmp_path_factory.mktemp("home"), "local")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ZENML_", "MLFLOW_", "MILLWRIGHT_"))
    }
    ours = {"MILLWRIGHT_HOME": str(state.home), "COLUMNS": "300"}
    return {**kept, **process_environment(state), **ours}


@pytest.fixture(scope="module")
def told(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the story tells."""
    path = tmp_path_factory.mktemp("story") / "told.json"
    story = Path(__file__).with_name("deployer_story.py")
    run([sys.executable, str(story), str(path)], variables)
    return json.loads(path.read_text())


def run(command: Sequence[str], variables: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=variables, cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr  # where ZenML prints its tables


def state_of(champion: str | None, *records: tuple[str, str]) -> dict[str, Any]:
    return {"champion": champion, "records": [list(each) for each in records],
            "stored": len(records)}  # fmt: skip


def test_a_deployed_release_is_the_champion_and_is_recorded(told: Any) -> None:
    assert told["nothing"] == state_of(None)
    assert told["first"] == state_of("v1", ("1", "active"))
    assert told["second"] == state_of("v2", ("1", "inactive"), ("2", "active"))


def test_deploying_again_changes_neither_pointer_nor_record(told: Any) -> None:
    assert told["again"] == told["first"]
    assert told["again_same"]


def test_a_release_that_does_not_prove_itself_is_not_deployed(told: Any) -> None:
    assert "ReleaseError: the release" in told["broken_refused"]
    assert "was changed after it was written" in told["broken_refused"]
    assert "predicts otherwise than when it was written" in told["other_refused"]
    assert "is a release of environment 'staging'" in told["foreign_refused"]
    assert told["refused"] == told["second"]


def test_what_is_in_use_is_neither_stopped_nor_deleted(told: Any) -> None:
    assert told["stop_refused"].startswith("RefusedDeploymentError: release v2 of fleet 'plant'")
    assert "release v2 of fleet 'plant' is in use and cannot be stopped" in told["stop_refused"]
    assert "release v2 of fleet 'plant' is in use and cannot be deleted" in told["delete_refused"]
    assert told["stopped"] == told["second"]


def test_starting_an_earlier_release_brings_it_back(told: Any) -> None:
    assert told["back"] == state_of("v1", ("1", "active"), ("2", "inactive"))


def test_zenml_s_own_deploy_model_sets_the_pointer_though_it_knows_the_release(told: Any) -> None:
    assert told["by_zenml"] == told["second"]


def test_a_record_may_go_and_comes_back_with_its_release(told: Any) -> None:
    assert told["deleted"] == state_of("v2", ("2", "active"))
    assert told["by_hand"] == state_of("v1", ("1", "active"), ("2", "inactive"))


def test_a_champion_that_was_spoilt_is_shown_as_an_error(told: Any) -> None:
    assert told["spoilt"] == state_of("v2", ("1", "inactive"), ("2", "error"))


def test_releases_are_found_by_what_they_are(told: Any) -> None:
    assert told["running"] == ["2"]
    assert told["of_another_name"] == 0


def test_a_release_is_active_when_its_service_says_so(told: Any) -> None:
    *found, url = told["ready"]
    assert found == ["active", "", f"{url}/v1/predict"]
    status, why, _ = told["behind"]
    assert (status, why.partition("/ready ")[2]) == ("pending_startup", "still serves version 1")
    status, why, _ = told["not_ready"]
    assert (status, why.partition("/ready ")[2]) == ("pending_startup", "answers 503")
    status, why, _ = told["away"]
    assert (status, why.partition("/ready ")[2]) == ("error", "cannot be reached or is no service "
                                                              "of ours")  # fmt: skip
    assert told["urls_stored"] == 2


def test_zenml_typed_by_hand_shows_what_is_deployed(told: Any, variables: dict[str, str]) -> None:
    zenml = str(Path(sys.executable).with_name("zenml"))
    listed = run([zenml, "model-deployer", "models", "list"], variables)
    assert listed.count("plant_failure") == 2
    assert listed.count("model-serving") == 2
    used = next(line for line in listed.splitlines() if "❗" in line).split()[1]
    done = subprocess.run(
        [zenml, "model-deployer", "models", "stop", used],
        env=variables, cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Error: release v2 of fleet 'plant' is in use and cannot be stopped" in done.stderr
    assert "Traceback" not in done.stderr
