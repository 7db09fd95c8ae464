"""The pipeline inference on a trained fleet: as of its last hour, and again."""

import csv
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from answered import assert_predicted_as_answered
from commands import FLEET, Clone, Ended, ForkedClone

from millwright.inference import table
from millwright.lock import held
from millwright.settings import State

AS_OF = datetime(2025, 5, 1, tzinfo=UTC)  # the end of the data
WORDS = ("--pipeline", "inference", "--fleet", FLEET, "--as-of", "2025-05-01T00:00Z")


@pytest.fixture(scope="module")
def home(trained: Ended, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained home, copied while no run changes it: others count what is in it."""
    copied = tmp_path_factory.mktemp("inference") / "home"
    with held(Path(trained.home) / "local" / "run.lock", print):
        shutil.copytree(trained.home, copied)
    return copied


@pytest.fixture(scope="module")
def once(clone: Clone, home: Path) -> Ended:
    return clone.run(home, *WORDS)


def test_a_past_time_gives_the_probabilities_that_the_service_gives(
    once: Ended, home: Path
) -> None:
    assert once.code == 0, once.stderr
    assert_predicted_as_answered(State(home, "local"), FLEET, AS_OF)


def test_the_summary_and_the_table_name_what_was_made(once: Ended, home: Path) -> None:
    summary = once.summary
    assert (summary["pipeline"], summary["status"], summary["machines"]) == (
        "inference",
        "done",
        30,
    )
    assert (summary["machines"], summary["statuses"]) == (30, {"ok": 30})
    assert summary["as_of"] == "2025-05-01T00:00:00+00:00"
    assert summary["release"] == str(home / "local" / FLEET / "releases" / "v1")
    work = summary["worklist"]
    with Path(work["csv"]).open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == work["machines"] == summary["alarms"]
    assert "Work list" in Path(work["html"]).read_text(encoding="utf-8")
    for place in (summary["predictions"], work["csv"], work["html"]):
        assert Path(place).is_relative_to(home)
        assert place in once.stdout
    assert "30: 30 ok" in once.stdout


def test_the_same_again_replaces_what_was_there(
    forked: ForkedClone, once: Ended, home: Path
) -> None:
    state = State(home, "local")
    before = table.read(state, FLEET, AS_OF)
    list_before = Path(once.summary["worklist"]["csv"]).read_bytes()
    again = forked.run(home, *WORDS, "--release", "v1")
    assert again.code == 0, again.stderr
    after = table.read(state, FLEET, AS_OF)
    assert after.drop(["computed_at", "run"]).equals(before.drop(["computed_at", "run"]))
    assert set(after["run"].to_pylist()).isdisjoint(before["run"].to_pylist())
    assert [path.name for path in state.batch_predictions(FLEET).glob("*.parquet")] == [
        "20250501T000000Z.parquet"
    ]
    assert Path(again.summary["worklist"]["csv"]).read_bytes() == list_before
