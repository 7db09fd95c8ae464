"""What a run says that it did, to machines and to people."""

import json
from pathlib import Path
from typing import Any

import pytest
from raw_tables import plant

from millwright import summary
from millwright.alarms import Threshold
from millwright.deployment import Deployment
from millwright.evaluation import Evaluation
from millwright.gate import decide, load_limits
from millwright.project import Project, Training
from millwright.publication import Registration, Released
from millwright.search import Found
from millwright.settings import State, load_settings
from millwright.sources import without_password
from millwright.training import Judgement

GOOD = Evaluation(
    rows=10_000, machines=100, machine_months=50, base_rate=0.02, average_precision=0.8,
    roc_auc=0.98, brier=0.01, precision=0.9, recall=0.8, failures=40, failures_caught=36,
    failures_flagged_late=1, median_warning_hours=20, alarms=60, false_alarms=20,
    false_alarms_per_machine_month=0.4, cost=234_000, cost_per_machine_month=4_680,
    cost_without_alarms=800_000, threshold=0.1, calibration_error=0.002, calibration=(),
    segments=(),
)  # fmt: skip
RULE = GOOD.model_copy(update={"average_precision": 0.3, "cost": 500_000})
SCORES = {
    "average_precision": 0.8, "roc_auc": 0.98, "failures": 40, "failures_caught": 36,
    "false_alarms_per_machine_month": 0.4, "cost": 234_000,
}  # fmt: skip
DEPLOYED = Deployment(
    status="deployed", version=7, before=5, url="http://127.0.0.1:8000", asked=True, compared=50,
    largest_difference=2e-9,
)  # fmt: skip
RUN = {"dataset_version": "d1", "seconds": 12.34, "peak_memory_mb": 1234}


def of_training(
    candidate: Evaluation = GOOD, champion: Evaluation | None = None, note: str = ""
) -> dict[str, Any]:
    baselines = {"rule": RULE, "logistic_regression": RULE}
    decision = decide(load_limits(), candidate, baselines, champion, 0)
    passed = decision.passed
    return summary.of_training(
        Judgement(
            candidate=candidate, baselines=baselines, champion=champion, contributions=(),
            champion_note=note,
            threshold=Threshold(value=0.125, cost=1, failures=4, curve=()),
        ),
        decision,
        Found(
            parameters={}, rounds=50, trials=24, ended_by="trials", average_precision=0.7,
            folds=(0.6, 0.8),
        ),
        Registration(
            name="plant_failure", version=7, run="r1", fingerprint="f1", passed=passed,
            rows={"training": 80_000, "validation": 50_000, "test": 10_000},
            reasons=tuple(map(str, decision.failures)), report="reports/model-v7.html",
        ),
        Released(alias="champion", path="releases/v7") if passed
        else Released(alias="challenger", path=None),
        DEPLOYED if passed else Deployment(status="not deployed"),
    )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(plant(), load_settings(), State(tmp_path, "local"), Training())


def test_a_promoted_model_is_told_to_machines_with_all_that_they_need() -> None:
    found = of_training(champion=RULE)
    assert json.loads(json.dumps(found)) == {
        "status": "promoted",
        "rows": {"training": 80_000, "validation": 50_000, "test": 10_000},
        "scores": SCORES,
        "baselines": {
            name: SCORES | {"average_precision": 0.3, "cost": 500_000}
            for name in ("rule", "logistic_regression")
        },
        "champion": SCORES | {"average_precision": 0.3, "cost": 500_000},
        "champion_note": "",
        "gate": {"passed": True, "failures": []},
        "search": {"trials": 24, "ended_by": "trials", "folds": [0.6, 0.8]},
        "threshold": 0.125,
        "model": {"name": "plant_failure", "version": 7, "alias": "champion", "run": "r1"},
        "release": "releases/v7",
        "deployment": {
            "status": "deployed",
            "version": 7,
            "url": "http://127.0.0.1:8000",
            "compared": 50,
            "before": 5,
            "asked": True,
            "largest_difference": 2e-9,
            "manifests": None,
        },
        "report": "reports/model-v7.html",
    }


def test_a_refused_model_has_no_release_and_its_reasons() -> None:
    found = of_training(RULE.model_copy(update={"roc_auc": None}))
    assert found["status"] == "refused"
    assert found["release"] is None
    assert found["champion"] == {}
    assert found["model"]["alias"] == "challenger"
    assert found["scores"]["roc_auc"] is None
    assert not found["gate"]["passed"]
    assert any("minimum_roc_auc" in reason for reason in found["gate"]["failures"])


def test_a_person_reads_what_came_of_a_training_run(project: Project) -> None:
    table = summary.training_table(of_training(champion=RULE) | RUN, project)
    assert table["rows"] == (
        "80,000 to learn from (50,000 in validation folds), 10,000 to judge by"
    )
    assert table["model"] == (
        "average precision 0.800, ROC AUC 0.980, 36 of 40 failures caught, "
        "0.40 false alarms a machine and month, cost EUR 234,000"
    )
    assert table["logistic regression"].startswith("average precision 0.300")
    assert "champion" in table
    assert (table["gate"], table["release"]) == ("passed", "releases/v7")
    assert table["registered"] == "plant_failure version 7, alias champion"
    assert table["deployed"] == (
        "v7: 50 machines predicted online as offline, largest difference 2e-09"
    )
    assert table["service"].startswith("http://127.0.0.1:8000, log ")
    assert "serve --stop --stack local" in table["to end it"]
    assert table["before"].startswith("v5; back to it: ")
    assert "not asked" not in table
    assert table["took"] == "12.3 s, 1,234 MB at the peak"
    assert project.state.mlflow_uri in table["next"]
    assert all(isinstance(value, str) for value in table.values())


def test_a_person_reads_that_a_service_with_keys_was_not_asked(project: Project) -> None:
    again = DEPLOYED.model_copy(update={"before": 7, "asked": False})
    lines = summary.deployment_lines(again.model_dump(), project)
    assert "MILLWRIGHT_KEY" in lines["not asked"]
    assert "before" not in lines


def test_a_person_reads_what_a_training_run_took_in_first(project: Project) -> None:
    table = summary.training_table(of_training() | RUN | INGEST, project)
    assert table["telemetry"] == "1,000 read, 998 new, 2 refused"
    assert table["refused"] == "2 rows (1 out of range, 1 unknown machine)"
    assert "quarantine" in table
    assert table["gate"] == "passed"


def test_a_person_reads_why_a_model_was_refused(project: Project) -> None:
    found = of_training(RULE.model_copy(update={"roc_auc": None})) | RUN
    table = summary.training_table(found, project)
    assert table["gate"] == "refused: " + "\n".join(found["gate"]["failures"])
    assert table["release"] == "none: the gate refused the model"
    assert not {"deployed", "service", "to end it", "manifests"} & table.keys()
    assert "ROC AUC –" in table["model"]
    assert "champion" not in table


def test_machines_and_people_are_told_why_the_champion_was_not_compared(project: Project) -> None:
    note = "v3 reads features that are no longer made: volt_mean_3h"
    found = of_training(note=note)
    assert (found["champion"], found["champion_note"]) == ({}, note)
    assert found["status"] == "promoted"
    table = summary.training_table(found | RUN, project)
    assert table["champion"] == f"not compared: {note}"
    before = list(table)[: list(table).index("gate")]
    assert before[-2:] == ["logistic regression", "champion"]


def test_a_champion_that_was_made_again_is_no_rival(project: Project) -> None:
    table = summary.training_table(of_training(champion=GOOD) | RUN, project)
    assert table["champion"] == "the same in every score"


COUNTS = {"read": 0, "new": 0, "unchanged": 0, "corrections": 0, "refused": 0}
INGEST = RUN | {
    "batch": "b1",
    "tables": {
        "telemetry": COUNTS | {"read": 1000, "new": 998, "refused": 2},
        "failures": COUNTS | {"read": 3, "unchanged": 2, "corrections": 1},
    },
    "refused": 2,
    "reasons": {"out of range": 1, "unknown machine": 1},
    "quarantine": ["q/telemetry-1.parquet", "q/failures-1.parquet"],
    "data_report": "reports/batch-b1.html",
}


def test_a_person_reads_what_an_ingest_took_and_what_it_refused() -> None:
    assert summary.ingest_table(INGEST) == {
        "batch": "b1",
        "dataset": "d1",
        "telemetry": "1,000 read, 998 new, 2 refused",
        "failures": "3 read, 2 unchanged, 1 corrections",
        "refused": "2 rows (1 out of range, 1 unknown machine)",
        "quarantine": "q/telemetry-1.parquet\nq/failures-1.parquet",
        "report": "reports/batch-b1.html",
        "took": "12.3 s, 1,234 MB at the peak",
    }


def test_a_person_reads_that_there_was_nothing_new() -> None:
    found = summary.ingest_table(
        INGEST | {"batch": None, "refused": 0, "tables": {}, "data_report": None}
    )
    assert found["batch"] == "none: nothing new"
    assert not {"refused", "quarantine"} & set(found)


def test_a_person_reads_which_feature_tables_were_made() -> None:
    views = [{"view": "sensor_step", "rows": 1234, "made": ["2025-01"], "periods": 12}]
    assert summary.features_table(RUN | {"views": views}) == {
        "dataset": "d1",
        "sensor_step": "1,234 rows; 1 periods made anew",
        "took": "12.3 s, 1,234 MB at the peak",
    }


def test_a_path_is_shown_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert summary.relative(str(tmp_path / "data" / "x")) == "data/x"
    assert summary.relative("/elsewhere/x") == "/elsewhere/x"


@pytest.mark.parametrize(
    "url", ["postgresql://anna:secret@host/plant", "postgresql://anna@host/plant?password=secret"]
)
def test_a_database_is_shown_without_its_password(url: str) -> None:
    shown = summary.relative(without_password(url))
    assert "secret" not in shown
    assert shown.startswith("postgresql://anna")
    assert shown.endswith("@host/plant")
