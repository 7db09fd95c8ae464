"""MLflow's own record and register, on SQLite: what we put in comes back by MLflow's own calls."""

import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
import xgboost
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from millwright.encoder import Encoder, Matrix
from millwright.fleet import load_fleet
from millwright.models import Classifier, predict
from millwright.registry import (
    CHALLENGER,
    CHAMPION,
    Version,
    find_alias,
    find_fingerprint,
    libraries,
    log_run,
    open_experiment,
    register,
    set_alias,
)
from millwright.settings import State, process_environment

# What MLflow says of itself when its model flavors are imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")

ENCODER = Encoder.of(load_fleet("simulated"))
TAGS = {"dataset_version": "d1", "git_revision": "g1"}
FILES = {"report.html": b"<p>report</p>", "plots/curve.svg": b"<svg/>"}


def grown(seed: int = 0) -> tuple[xgboost.Booster, Matrix]:
    """A small model, and rows with gaps."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((200, len(ENCODER.columns)), dtype=np.float32)
    booster = Classifier({"max_depth": 3}, 5, seed).fit(matrix, matrix[:, 0] > 0.5).booster
    assert booster is not None
    matrix[:, 1] = np.nan
    return booster, matrix[:20]


def registered(
    name: str, fingerprint: str, seed: int = 0, tags: Mapping[str, str] = TAGS
) -> Version:
    return register(name, *grown(seed)[:1], ENCODER, grown(seed)[1], fingerprint, tags)


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    """An empty MLflow, found as a run finds it."""
    state = State(tmp_path_factory.mktemp("home"), "local")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in process_environment(state).items():
            patch.setenv(name, value)
        open_experiment(state.mlflow_uri, "training", state.mlflow_artifacts)
        mlflow.set_experiment("training")
        yield state
        mlflow.set_tracking_uri(None)


def test_an_experiment_is_opened_once_and_keeps_its_files_where_it_was_told(state: State) -> None:
    before = mlflow.get_experiment_by_name("training")
    open_experiment(state.mlflow_uri, "training", state.mlflow_artifacts)
    found = mlflow.get_experiment_by_name("training")
    assert found.experiment_id == before.experiment_id
    assert found.artifact_location == state.mlflow_artifacts.as_uri()
    assert (state.root / "mlflow.db").is_file()


def test_a_fingerprint_is_registered_once() -> None:
    with mlflow.start_run() as first:
        one = registered("once", "f1")
    with mlflow.start_run():
        again = registered("once", "f1", seed=1)
        other = registered("once", "f2", seed=1)
    assert one == again
    assert (one.version, other.version) == (1, 2)
    assert one.run == first.info.run_id
    assert one.tags == {**TAGS, "fingerprint": "f1"}
    versions = MlflowClient().search_model_versions("name='once'")
    assert sorted(int(found.version) for found in versions) == [1, 2]
    assert find_fingerprint("once", "f2") == other
    assert find_fingerprint("once", "f3") is None
    assert find_fingerprint("nothing", "f1") is None


def test_the_same_fingerprint_of_another_model_is_another_version() -> None:
    with mlflow.start_run():
        one, other = registered("here", "f1"), registered("there", "f1")
    assert (one.name, one.version, other.name, other.version) == ("here", 1, "there", 1)


def test_a_registered_model_comes_back_by_its_alias_and_predicts_the_same() -> None:
    booster, rows = grown()
    with mlflow.start_run():
        set_alias(registered("loaded", "f1"), CHAMPION, {"gate": "passed"})
    loaded = mlflow.xgboost.load_model(f"models:/loaded@{CHAMPION}")
    assert predict(loaded, rows).tobytes() == predict(booster, rows).tobytes()
    wrapped = mlflow.pyfunc.load_model(f"models:/loaded@{CHAMPION}")
    schema = wrapped.metadata.get_input_schema()
    assert schema.input_names() == ENCODER.columns
    required = wrapped.metadata.get_model_info().signature.outputs
    assert required is not None


def test_a_stored_model_is_data_and_says_what_it_needs(tmp_path: Path) -> None:
    with mlflow.start_run():
        found = registered("stored", "f1")
    folder = Path(
        mlflow.artifacts.download_artifacts(
            f"models:/stored/{found.version}", dst_path=str(tmp_path)
        )
    )
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert "model.ubj" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle"))]
    needed = (folder / "requirements.txt").read_text().splitlines()
    assert {f"{name}=={version}" for name, version in libraries().items()} <= set(needed)


def test_an_alias_means_one_version_and_moves() -> None:
    with mlflow.start_run():
        one, two = registered("moved", "f1"), registered("moved", "f2")
    assert find_alias("moved", CHAMPION) is None
    set_alias(one, CHAMPION, {"gate": "passed", "release": "v1"})
    set_alias(two, CHALLENGER, {"gate": "refused"})
    champion, challenger = find_alias("moved", CHAMPION), find_alias("moved", CHALLENGER)
    assert champion is not None
    assert challenger is not None
    assert (champion.version, champion.run) == (1, one.run)
    assert champion.tags == {**one.tags, "gate": "passed", "release": "v1"}
    assert (challenger.version, challenger.tags["gate"]) == (2, "refused")

    set_alias(two, CHAMPION, {"gate": "passed"}, instead_of=CHALLENGER)
    champion = find_alias("moved", CHAMPION)
    assert champion is not None
    assert (champion.version, champion.tags["gate"]) == (2, "passed")
    assert find_alias("moved", CHALLENGER) is None


def test_an_alias_of_another_version_stays_where_it_is() -> None:
    with mlflow.start_run():
        one, two = registered("kept", "f1"), registered("kept", "f2")
    set_alias(one, CHALLENGER, {})
    set_alias(two, CHAMPION, {}, instead_of=CHALLENGER)
    challenger = find_alias("kept", CHALLENGER)
    assert challenger is not None
    assert challenger.version == 1


def test_a_register_that_does_not_answer_is_no_empty_one(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a champion would be taken for none, and a version registered again."""
    assert find_alias("nothing", CHAMPION) is None
    broken = tmp_path / "broken.db"
    shutil.copy(state.root / "mlflow.db", broken)
    with closing(sqlite3.connect(broken)) as connection:
        connection.execute("DROP TABLE model_versions")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{broken}")
    with pytest.raises(MlflowException, match="migration in unexpected state"):
        find_alias("nothing", CHAMPION)
    with pytest.raises(MlflowException, match="migration in unexpected state"):
        find_fingerprint("nothing", "f1")


def record(found: Version) -> str:
    return log_run(found, {"seed": 3, "folds": (1, 2)}, {"average_precision": 0.5}, TAGS, FILES)


def check_record(run: str, state: State) -> None:
    """That MLflow shows everything of the run that `record` gave it."""
    found = MlflowClient().get_run(run)
    data, folder = found.data, Path(found.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(state.mlflow_artifacts)
    assert data.params == {"seed": "3", "folds": "(1, 2)"}
    assert data.metrics == {"average_precision": 0.5}
    assert data.tags.items() >= {**TAGS, "model_version": "1"}.items()
    for name, content in FILES.items():
        assert (folder / name).read_bytes() == content


def test_a_run_keeps_parameters_figures_tags_and_files(state: State) -> None:
    with mlflow.start_run() as active:
        found = registered("recorded", "f1")
        run = record(found)
        assert record(found) == run  # done twice, it is the same record
    assert run == active.info.run_id == found.run
    check_record(run, state)


def test_the_run_that_registered_a_version_is_completed_by_the_next(state: State) -> None:
    with mlflow.start_run() as killed:
        found = registered("completed", "f1")
    with mlflow.start_run() as active:
        again = registered("completed", "f1")
        assert record(again) == active.info.run_id
    assert again == found
    for run in (killed, active):
        check_record(run.info.run_id, state)


def test_a_record_needs_a_run() -> None:
    with mlflow.start_run():
        found = registered("alone", "f1")
    with pytest.raises(RuntimeError, match="no active run"):
        record(found)


def test_a_signature_takes_rows_with_gaps_and_names_its_columns(tmp_path: Path) -> None:
    with mlflow.start_run():
        found = registered("signed", "f1")
    model = mlflow.models.get_model_info(f"models:/signed/{found.version}")
    signature = json.loads(json.dumps(model.signature.to_dict()))
    columns = json.loads(signature["inputs"])
    assert [column["name"] for column in columns] == ENCODER.columns
    assert {column["type"] for column in columns} == {"float"}
