"""The public data: Microsoft's Azure predictive-maintenance tables, and a run on them."""

import os
from pathlib import Path

import pytest
from commands import REPOSITORY, Ended, ForkedClone

DATA = Path(os.environ.get("MILLWRIGHT_PDM", REPOSITORY.parent / "shared" / "data" / "pdm"))

pytestmark = pytest.mark.skipif(
    not (DATA / "PdM_telemetry.csv").is_file(),
    reason=f"the public data is not in {DATA}; MILLWRIGHT_PDM can name another folder",
)


@pytest.fixture(scope="module")
def run(forked: ForkedClone, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A training run on the public data, with the fleet file of the repository."""
    words = ("--pipeline", "training", "--fleet", "azure_pdm", "--data", str(DATA))
    shipped = forked.with_fleets(REPOSITORY / "configs" / "fleets")
    return shipped.run(tmp_path_factory.mktemp("public") / "home", *words)


def test_every_row_is_taken_in(run: Ended) -> None:
    assert run.summary["refused"] == 0, run.stdout
    assert run.summary["views"][0]["rows"] == 43_200


def test_the_model_is_promoted(run: Ended) -> None:
    assert run.code == 0, run.stdout + run.stderr
    assert run.summary["status"] == "promoted"
    assert run.summary["gate"] == {"passed": True, "failures": []}


def test_the_last_34_days_judge(run: Ended) -> None:
    report = Path(run.summary["report"]).read_text(encoding="utf-8")
    assert "2015-02-26" in report
    assert run.summary["scores"]["failures"] == 12


def test_failures_are_foreseen(run: Ended) -> None:
    scores = run.summary["scores"]
    assert scores["average_precision"] >= 0.80
    assert scores["failures_caught"] >= 10


def test_the_model_beats_both_baselines(run: Ended) -> None:
    precision = run.summary["scores"]["average_precision"]
    for name, baseline in run.summary["baselines"].items():
        assert precision > baseline["average_precision"], name
