"""Ctrl-C and SIGTERM: the run ends at once, says so, and the same command goes on from there."""

import json
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import FLEET, Ended, ForkedClone

TRAINING = ("--pipeline", "training", "--fleet", FLEET)
# What a run says, how many seconds later it is interrupted, and by what: while DuckDB reads and
# computes, while models are fitted, and while steps are handed over.
MOMENTS = (
    ("reading telemetry", 0.0, signal.SIGINT),
    ("features", 1.0, signal.SIGTERM),
    ("training", 2.5, signal.SIGINT),
    ("search", 0.05, signal.SIGINT),
    ("models", 0.05, signal.SIGTERM),
)
AT_ONCE = 5.0  # seconds; what a step takes does not come into it


@dataclass(frozen=True)
class Interrupted:
    """How a run ended that was interrupted by `by`."""

    by: signal.Signals
    code: int
    seconds: float
    stderr: str
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("interrupted") / "home"


@pytest.fixture(scope="module")
def interrupted(forked: ForkedClone, home: Path) -> list[Interrupted]:
    """One command in one home, interrupted at each of the moments."""
    return [interrupt(forked, home, number) for number in range(len(MOMENTS))]


def interrupt(clone: ForkedClone, home: Path, number: int) -> Interrupted:
    said, delay, by = MOMENTS[number]
    log, path = home.parent / f"{number}.log", home.parent / f"{number}.json"
    with log.open("w", encoding="utf-8") as stderr:
        process = clone.start(
            home, *TRAINING, "--json", str(path), stdout=subprocess.DEVNULL, stderr=stderr
        )
    while process.poll() is None and not says(log, said):
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(by)
    began = time.monotonic()
    code = process.wait(60)
    return Interrupted(
        by,
        code,
        time.monotonic() - began,
        log.read_text(encoding="utf-8"),
        json.loads(path.read_text(encoding="utf-8")),
    )


def says(log: Path, said: str) -> bool:
    lines = log.read_text(encoding="utf-8").splitlines()
    return any(
        line.strip() == said or line.startswith((f"  {said} (", f"  {said}: ")) for line in lines
    )


def test_an_interrupted_run_ends_at_once_with_the_code_of_its_signal(
    interrupted: list[Interrupted],
) -> None:
    assert [run.code for run in interrupted] == [128 + run.by for run in interrupted]
    assert max(run.seconds for run in interrupted) < AT_ONCE


def test_an_interrupted_run_says_so_in_one_line(interrupted: list[Interrupted]) -> None:
    for run in interrupted:
        errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert errors == ["error: interrupted; run the same command again to go on from here"]
        assert "Traceback" not in run.stderr
        assert run.summary["status"] == "failed"
        assert run.summary["error"].startswith("interrupted")
        assert run.summary["seconds"] > 0
        assert run.summary["peak_memory_mb"] > 0


def test_the_same_command_again_ends_as_if_nothing_had_been_and_no_artifact_were_lost(
    forked: ForkedClone, home: Path, interrupted: list[Interrupted], trained: Ended
) -> None:
    assert len(interrupted) == len(MOMENTS)
    shutil.rmtree(home / "zenml" / "artifacts")
    last = forked.run(home, *TRAINING)
    assert last.code == 0, last.stderr
    assert "is gone; making all anew" in last.stderr
    for key in ("status", "dataset_version", "rows", "scores", "baselines", "threshold", "search"):
        assert last.summary[key] == trained.summary[key], key
    assert last.summary["model"]["version"] == 1
