"""A run that is killed again and again ends, the last time, where an undisturbed one does.

SIGKILL lets nobody tidy up. What counts is that the same command, given again, finds its way from
whatever was left: half a database, a lock, a draft, a version that was registered and not released.
"""

import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import FLEET, Clone, Ended, ForkedClone, contents

TRAINING = ("--pipeline", "training", "--fleet", FLEET)
# The sign behind which a run is killed, the longest time after it in seconds, and how many times.
# A sign is a line that the run says, or a later one, or a file that is there.
MOMENTS = (
    ("zenml.db", 0.8, 3),
    ("reading machines", 1.5, 4),
    ("features", 6.0, 5),
    ("mlflow.db", 1.5, 2),
    ("training", 8.0, 4),
    ("MLmodel", 2.0, 1),
    ("model-v1.html", 2.0, 1),
)
LINES = ("reading machines", "features", "training")

pytestmark = pytest.mark.timeout(1500)


@dataclass(frozen=True)
class Killed:
    """The fleet's files after twenty kills, and the run that came to its end after them."""

    kills: int
    last: Ended


@pytest.fixture(scope="module")
def killed(forked: ForkedClone, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Twenty runs of one command in one home, killed at random moments, and one more."""
    folder = tmp_path_factory.mktemp("killed")
    chance = random.Random(20)
    kills = 0
    for stage, (sign, longest, times) in enumerate(MOMENTS):
        for number in range(times):
            log, delay = folder / f"{stage}-{number}.log", chance.uniform(0, longest)
            # Who came to the end first is started again, and given half the time.
            while not start_and_kill(forked, folder / "home", log, sign, delay):
                delay /= 2
            kills += 1
    return Killed(kills, forked.run(folder / "home", *TRAINING))


@pytest.fixture(scope="module")
def held(forked: ForkedClone, killed: Killed) -> dict[str, Any]:
    """What MLflow holds after all that."""
    found: dict[str, Any] = forked.inventory(Path(killed.last.home))["mlflow"]
    return found


def start_and_kill(clone: ForkedClone, home: Path, log: Path, sign: str, delay: float) -> bool:
    """Kill a run so long after the sign; whether it still ran."""
    with log.open("w", encoding="utf-8") as stderr:
        process = clone.start(home, *TRAINING, stdout=subprocess.DEVNULL, stderr=stderr)
    while process.poll() is None and not _is_there(sign, home, log):
        time.sleep(0.05)
    try:
        code = process.wait(delay)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    assert code == 0, log.read_text(encoding="utf-8")
    return False


def _is_there(sign: str, home: Path, log: Path) -> bool:
    if sign not in LINES:
        return any(home.rglob(sign))
    lines = {line.strip() for line in log.read_text(encoding="utf-8").splitlines()}
    return not lines.isdisjoint(LINES[LINES.index(sign) :])


def test_every_run_was_killed_and_none_failed(killed: Killed) -> None:
    assert killed.kills == sum(times for _, _, times in MOMENTS) == 20
    assert killed.last.code == 0, killed.last.stderr


def test_the_model_is_the_same_to_the_last_digit(killed: Killed, trained: Ended) -> None:
    for key in ("status", "dataset_version", "rows", "scores", "baselines", "threshold", "search"):
        assert killed.last.summary[key] == trained.summary[key], key
    releases = [Path(ended.summary["release"]) for ended in (killed.last, trained)]
    models = [(release / "model.ubj").read_bytes() for release in releases]
    assert models[0] == models[1]


def test_raw_store_and_feature_tables_are_the_same(killed: Killed, trained: Ended) -> None:
    found, expected = (
        contents(Path(ended.home) / "local" / FLEET, "*.parquet")
        for ended in (killed.last, trained)
    )
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    batches = Path(killed.last.home) / "local" / FLEET / "raw" / "batches"
    assert len(list(batches.iterdir())) == 1


def test_no_draft_is_left(killed: Killed) -> None:
    home = Path(killed.last.home)
    left = [str(path) for path in home.rglob("*") if "draft" in path.name or "partial" in path.name]
    assert left == []


def test_one_version_is_registered_and_released(
    clone: Clone, killed: Killed, held: dict[str, Any]
) -> None:
    model = held["models"][f"{FLEET}_failure"]
    assert model["aliases"] == {"champion": 1}
    (version,) = model["versions"]
    assert version["tags"]["release"] == "v1"
    releases = Path(killed.last.summary["release"]).parent
    assert sorted(path.name for path in releases.iterdir()) == [
        "champion",
        "champions.log",
        "traffic.lock",
        "traffic.pid",
        "v1",
    ]
    verified = clone.module(Path(killed.last.home), "releases", "verify", str(releases / "v1"))
    assert verified.code == 0, verified.stderr


def test_the_registered_version_leads_to_a_run_with_its_figures(
    killed: Killed, held: dict[str, Any]
) -> None:
    (version,) = held["models"][f"{FLEET}_failure"]["versions"]
    run = held["runs"][version["run"]]
    precision = killed.last.summary["scores"]["average_precision"]
    assert run["metrics"]["average_precision"] == precision
    assert {"report.html", "model_card.md"} <= set(run["artifacts"])
