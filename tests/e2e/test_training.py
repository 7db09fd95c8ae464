"""A training run, from an empty home to a released model, and the same run again."""

import json
import re
import subprocess
import sys
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from commands import FLEET, REPOSITORY, Clone, Ended, ForkedClone, contents, rewrite, user_folders

SUMMARY = {
    "pipeline", "environment", "fleet", "status", "dataset_version", "rows", "seconds",
    "peak_memory_mb", "scores", "baselines", "champion", "gate", "model", "release", "report",
}  # fmt: skip
SCORES = {
    "average_precision", "roc_auc", "failures", "failures_caught",
    "false_alarms_per_machine_month", "cost",
}  # fmt: skip
TRAINING = ("--pipeline", "training", "--fleet", FLEET)
MODEL = f"{FLEET}_failure"


@pytest.fixture(scope="module")
def inventory(forked: ForkedClone, trained: Ended) -> dict[str, Any]:
    """What MLflow and ZenML hold after the first run."""
    return forked.inventory(Path(trained.home))


@pytest.fixture(scope="module")
def again(forked: ForkedClone, trained: Ended, inventory: dict[str, Any]) -> Ended:
    """The same command once more, in the same home."""
    return forked.run(Path(trained.home), *TRAINING)


@pytest.fixture(scope="module")
def refused(
    forked: ForkedClone, again: Ended, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Ended, dict[str, Any]]:
    """Another model in the same home, judged by limits that none can meet; and what MLflow holds.

    The champion of before is judged beside it.
    """
    strict = forked.copy(tmp_path_factory.mktemp("strict"))
    pipelines = strict.folder / "configs" / "pipelines"
    rewrite(pipelines / "training.yaml", seed=1)
    rewrite(pipelines / "gate.yaml", minimum_average_precision=1.0, minimum_share_caught=1.0)
    ended = strict.run(Path(again.home), *TRAINING)
    return ended, strict.inventory(Path(again.home))


def test_the_exit_code_says_what_the_gate_said(trained: Ended) -> None:
    passed = trained.summary["gate"]["passed"]
    assert trained.code == (0 if passed else 3)
    assert trained.summary["status"] == ("promoted" if passed else "refused")
    assert bool(trained.summary["gate"]["failures"]) is not passed


def test_the_small_fleet_gets_a_model_that_passes(trained: Ended) -> None:
    assert trained.summary["gate"] == {"passed": True, "failures": []}
    assert trained.summary["model"]["alias"] == "champion"


def test_the_summary_for_machines_has_every_key_of_the_contract(trained: Ended) -> None:
    summary = trained.summary
    assert summary.keys() >= SUMMARY
    assert summary["rows"].keys() == {"training", "validation", "test"}
    assert all(rows > 0 for rows in summary["rows"].values())
    assert summary["baselines"].keys() == {"rule", "logistic_regression"}
    for scores in (summary["scores"], *summary["baselines"].values()):
        assert scores.keys() == SCORES
    assert summary["gate"].keys() == {"passed", "failures"}
    assert summary["model"].keys() >= {"name", "version", "alias"}
    assert summary["champion"] == {}
    assert 0 < summary["peak_memory_mb"] < 2000


def test_the_table_names_what_came_out(trained: Ended) -> None:
    table, summary = trained.stdout, trained.summary
    lines = {line.split("  ")[0]: line for line in table.splitlines()}
    for name, scores in (("model", summary["scores"]), *summary["baselines"].items()):
        line = lines[name.replace("_", " ")]
        assert f"average precision {scores['average_precision']:.3f}" in line
        assert f"{scores['failures_caught']} of {scores['failures']} failures caught" in line
    assert summary["dataset_version"] in lines["data"]
    assert "passed" in lines["gate"]
    assert f"{MODEL} version 1, alias champion" in lines["registered"]
    assert summary["report"] in lines["report"]
    assert summary["release"] in lines["release"]
    assert summary["model"]["run"] in lines["MLflow"]
    command, _, uri = lines["next"].split("  ")[-1].strip().rpartition(" ")
    assert command.endswith("mlflow ui --backend-store-uri")
    assert Path(command.split(" ")[0]).is_file()
    assert Path(uri.removeprefix("sqlite:///")).is_file()


def test_what_goes_on_is_told_on_stderr_and_only_there(trained: Ended) -> None:
    for stage in ("ingest from", "features", "training", "search"):
        assert stage in trained.stderr
    assert "reading telemetry" not in trained.stdout
    assert "Traceback" not in trained.stderr


def test_the_report_lies_where_the_table_says(trained: Ended) -> None:
    page = Path(trained.summary["report"]).read_text(encoding="utf-8")
    assert trained.summary["dataset_version"] in page
    assert page.count("data:image/") + page.count("<svg") >= 5


def test_mlflow_holds_parameters_metrics_plots_and_pages(
    trained: Ended, inventory: dict[str, Any]
) -> None:
    run = inventory["mlflow"]["runs"][trained.summary["model"]["run"]]
    assert (run["status"], run["experiment"]) == ("FINISHED", "training")
    assert run["parameters"]["trials"] == "2"
    assert {"max_depth", "eta", "rounds", "seed", "threshold", "horizon"} <= run[
        "parameters"
    ].keys()
    precision = trained.summary["scores"]["average_precision"]
    assert run["metrics"]["average_precision"] == precision
    assert run["metrics"]["rule.average_precision"] < precision
    plots = {"precision_recall", "calibration", "cost", "contributions", "timeline"}
    assert {f"plots/{name}.png" for name in plots} <= set(run["artifacts"])
    assert {"report.html", "model_card.md"} <= set(run["artifacts"])
    files = {"fleet.yaml", "settings.yaml", "training.yaml", "gate.yaml"}
    assert {f"configuration/{name}" for name in files} <= set(run["artifacts"])


def test_the_registered_model_leads_back_to_data_code_and_features(
    clone: Clone, trained: Ended, inventory: dict[str, Any]
) -> None:
    model = inventory["mlflow"]["models"][MODEL]
    assert model["aliases"] == {"champion": 1}
    (version,) = model["versions"]
    run = inventory["mlflow"]["runs"][version["run"]]
    revision = (clone.folder / ".git" / "refs" / "heads").rglob("*")
    heads = [path.read_text(encoding="utf-8").strip() for path in revision if path.is_file()]
    for tags in (version["tags"], run["tags"]):
        assert tags["dataset_version"] == trained.summary["dataset_version"]
        assert tags["feature_service"] == f"{FLEET}_failure_v1"
        assert tags["environment"] == "local"
        assert [tags["git_revision"]] == heads
        assert tags["fingerprint"]
    assert version["tags"]["gate"] == "passed"
    assert version["run"] == trained.summary["model"]["run"]


def test_mlflow_can_load_the_champion(trained: Ended, inventory: dict[str, Any]) -> None:
    manifest = json.loads(Path(trained.summary["release"], "manifest.json").read_text("utf-8"))
    encoder = manifest["encoder"]
    categories = sum(len(values) - 1 for values in encoder["categories"].values())
    columns = len(encoder["features"]) + categories
    assert inventory["mlflow"]["columns"] == {f"{MODEL}@champion": columns}


def test_feast_reads_the_newest_features_as_the_document_says(clone: Clone, trained: Ended) -> None:
    document = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code.replace("simulated", FLEET)],
        env={**clone.environment(Path(trained.home)), "PYTHONPATH": str(clone.folder)},
        cwd=clone.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines()[1:])
    manifest = json.loads(Path(trained.summary["release"], "manifest.json").read_text("utf-8"))
    assert found.pop("machine_id") == "1"
    assert found.keys() == set(manifest["encoder"]["features"])
    for name, values in manifest["encoder"]["categories"].items():
        assert found.pop(name) in values
    assert all(isfinite(float(value)) for value in found.values())


def test_zenml_holds_the_runs_and_what_they_made(inventory: dict[str, Any]) -> None:
    # Batch inference is tested in a copy of this home, whose ZenML is the same.
    runs = [run for run in inventory["zenml"]["runs"] if run["pipeline"] != "inference"]
    assert [run["pipeline"] for run in runs] == ["ingest", "features", "training"]
    assert {run["status"] for run in runs} == {"completed"}
    assert {"report", "model_card", "decision", "judgement"} <= set(runs[-1]["artifacts"])
    assert "data_report" in runs[0]["artifacts"]
    assert inventory["zenml"]["stack"] == "local"


def test_the_release_proves_itself(clone: Clone, trained: Ended) -> None:
    home, release = Path(trained.home), trained.summary["release"]
    verified = clone.module(home, "releases", "verify", release)
    assert verified.code == 0, verified.stderr
    assert "200 examples predicted" in verified.stderr
    listed = clone.module(home, "releases", "list", "--fleet", FLEET)
    assert listed.code == 0, listed.stderr
    assert "v1  champion; learned until" in listed.stdout
    assert trained.summary["dataset_version"] in listed.stdout


def test_a_release_with_one_flipped_bit_is_not_loaded(
    clone: Clone, trained: Ended, tmp_path: Path
) -> None:
    release = tmp_path / "v1"
    release.mkdir()
    for name, content in contents(Path(trained.summary["release"])).items():
        (release / name).write_bytes(content)
    model = bytearray((release / "model.ubj").read_bytes())
    model[len(model) // 2] ^= 1
    (release / "model.ubj").write_bytes(model)
    verified = clone.module(tmp_path, "releases", "verify", str(release))
    assert verified.code == 1
    assert "model.ubj" in verified.error


def test_nothing_is_written_outside_the_home(clone: Clone, again: Ended) -> None:
    assert clone.changes() == ""
    for folder in user_folders(Path(again.home)).values():
        assert list(folder.rglob("*")) == []
    assert not list(clone.folder.rglob("mlruns"))
    assert not (clone.folder / ".millwright").exists()


def test_the_same_run_again_doubles_nothing(
    forked: ForkedClone, trained: Ended, again: Ended, inventory: dict[str, Any]
) -> None:
    assert again.code == 0, again.stderr
    for key in ("dataset_version", "release", "report", "scores", "baselines"):
        assert again.summary[key] == trained.summary[key]
    assert again.summary["model"]["version"] == 1
    assert again.summary["champion"] == trained.summary["scores"]
    after = forked.inventory(Path(trained.home))
    assert len(after["mlflow"]["models"][MODEL]["versions"]) == 1
    releases = Path(trained.summary["release"]).parent
    assert sorted(path.name for path in releases.iterdir()) == [
        "champion",
        "champions.log",
        "traffic.lock",
        "traffic.pid",
        "v1",
    ]
    run = after["zenml"]["runs"][-1]
    cached = {name for name, status in run["steps"].items() if status == "cached"}
    assert cached == {"select_cutoffs", "fetch_features", "search_hyperparameters", "train_models"}
    assert len(after["zenml"]["runs"]) == len(inventory["zenml"]["runs"]) + 2


def test_a_fresh_home_gives_the_same_model_to_the_last_digit(trained: Ended, fresh: Ended) -> None:
    assert fresh.code == 0, fresh.stderr
    for key in ("dataset_version", "scores", "baselines", "threshold", "rows", "search"):
        assert fresh.summary[key] == trained.summary[key], key
    models = [
        Path(ended.summary["release"], "model.ubj").read_bytes() for ended in (trained, fresh)
    ]
    assert models[0] == models[1]


def test_a_run_from_another_folder_writes_into_its_home_alone(fresh: Ended) -> None:
    assert fresh.beside == ["home", "home-summary.json", "home-user"]
    assert Path(fresh.summary["release"]).is_relative_to(fresh.home)


def test_a_model_that_misses_limits_ends_as_refused_with_each_of_them(
    refused: tuple[Ended, dict[str, Any]],
) -> None:
    ended, _ = refused
    assert ended.code == 3
    assert "Traceback" not in ended.stderr
    assert ended.summary["status"] == "refused"
    assert ended.summary["release"] is None
    failures = ended.summary["gate"]["failures"]
    for limit in ("minimum_average_precision", "minimum_share_caught"):
        assert any(limit in failure for failure in failures)
        assert limit in ended.stdout


def test_a_refused_model_is_a_challenger_and_the_champion_stays(
    trained: Ended, refused: tuple[Ended, dict[str, Any]]
) -> None:
    ended, inventory = refused
    model = inventory["mlflow"]["models"][MODEL]
    assert model["aliases"] == {"champion": 1, "challenger": 2}
    challenger = next(each for each in model["versions"] if each["version"] == 2)
    assert challenger["tags"]["gate"] == "refused"
    for failure in ended.summary["gate"]["failures"]:
        assert failure in challenger["tags"]["gate_reasons"]
    assert ended.summary["champion"] == trained.summary["scores"]
    releases = Path(trained.summary["release"]).parent
    assert sorted(path.name for path in releases.iterdir()) == [
        "champion",
        "champions.log",
        "traffic.lock",
        "traffic.pid",
        "v1",
    ]
    assert (releases / "champion").read_text("utf-8") == "v1\n"
