"""The verb `predictions`."""

import csv
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from scored import START, scored

from millwright.__main__ import main
from millwright.prediction_log import opening
from millwright.prediction_log.records import Outcome
from millwright.settings import State, state

FLEET = "simulated"
HOUR = 3_600_000_000
WORDS = ["predictions", "--stack", "local"]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setenv("MILLWRIGHT_HOME", str(tmp_path / "home"))
    return state("local")


@pytest.fixture
def logged(local: State) -> State:
    """Four alarms and a quiet machine; one alarm came true, one did not, one failure was missed."""
    log = opening.open_log(local, FLEET)
    log.append(
        scored(0, rows=5, probabilities=np.array([0.9, 0.8, 0.7, 0.6, 0.1]), release=3)
    )  # fmt: skip
    log.append(scored(1, rows=1, probabilities=np.array([np.nan]), statuses=["unknown"], release=3))
    log.append(scored(2, latency=np.zeros(1)))
    log.report(
        [
            Outcome("m0", START + 2 * HOUR, failed=True),
            Outcome("m1", START + 50 * HOUR, failed=False),
            Outcome("m4", START + 3 * HOUR, failed=True),
        ]
    )
    log.start()
    log.close(10)
    waiting = opening.open_log(local, FLEET)
    waiting.append(scored(9, rows=2))
    waiting.close(1)
    return local


def test_a_table_says_what_was_answered_and_how_much_came_true(
    logged: State, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*WORDS, "--json", str(tmp_path / "j"), "--csv", str(tmp_path / "c")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "predictions of fleet simulated in environment local",
        "release 3, champion              6 predictions (1 degraded, 4 ok, 1 unknown), 4 alarms",
        "outcomes of release 3, champion  of 2 alarms with an outcome precision 0.500, "
        "of 2 failures recall 0.500; 2 have no outcome yet",
        "horizon                          24h",
        "waiting                          2 in the journal on this machine",
        "lost                             3",
    ]
    said = json.loads((tmp_path / "j").read_text())
    assert said["scores"] == [
        {
            "release": 3, "role": "champion", "predictions": 5, "known": 3, "alarms": 2,
            "failures": 2, "caught": 1, "precision": 0.5, "recall": 0.5,
        }
    ]  # fmt: skip
    assert (said["lost"], said["waiting"], said["aside"]) == (3, 2, [])
    with (tmp_path / "c").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = {row["machine_id"]: row["label"] for row in rows[:5]}
    assert labels == {"m0": "true", "m1": "false", "m2": "", "m3": "", "m4": "true"}


def test_a_time_and_a_machine_choose(logged: State, capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime.fromtimestamp(START / 1e6, UTC) + timedelta(seconds=1)
    assert main([*WORDS, "--since", moment.isoformat()]) == 0
    assert "1 predictions (1 unknown), 0 alarms" in capsys.readouterr().out
    assert main([*WORDS, "--machine", "m4"]) == 0
    assert "1 predictions (1 degraded), 0 alarms" in capsys.readouterr().out
    assert main([*WORDS, "--since", "2999-01-01"]) == 0
    assert "no prediction was logged yet" in capsys.readouterr().out


def test_what_was_put_aside_is_told(logged: State, capsys: pytest.CaptureFixture[str]) -> None:
    folder = opening.journals(logged, FLEET)
    (segment,) = folder.iterdir()
    shutil.copy(segment, f"{segment}.refused")
    assert main(WORDS) == 0
    assert f"{segment}.refused could not be taken into the log" in "".join(
        capsys.readouterr().err.split("\n")
    )


def test_a_damaged_file_is_told_in_a_sentence(
    logged: State, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((logged.predictions(FLEET) / "answers").glob("*.parquet"))
    path.write_bytes(b"PAR1")
    assert main(WORDS) == 1
    assert f"{path} cannot be read" in "".join(capsys.readouterr().err.split("\n"))


def test_predictions_can_be_written_to_a_file_of_any_name(logged: State, tmp_path: Path) -> None:
    assert main([*WORDS, "--csv", str(tmp_path / "\udcff")]) == 0
    assert len((tmp_path / "\udcff").read_text().splitlines()) == 7


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--since", "yesterday"], "--since yesterday is no time; write one such as 2025-01-31"),
        (["--since", "0001-01-01T00:00:00+23:59"], "+23:59 is no time; write one such as"),
        (["--machine", "\udcff"], "--machine '\\udcff' is no text in UTF-8"),
        (["--csv", "/nowhere/at/all"], "name another file with --csv"),
    ],
)
def test_what_cannot_be_is_refused(
    local: State, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(local.home).mkdir()
    if "--csv" in words:
        (local.home / "file").touch()
        words = ["--csv", str(local.home / "file" / "c")]
    assert main([*WORDS, *words]) == 2
    assert told in capsys.readouterr().err
