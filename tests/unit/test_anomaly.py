from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from millwright import anomaly, detectors
from millwright.detectors import Detector
from millwright.errors import MillwrightError
from millwright.fleet import Anomaly, load_fleet

START = pd.Timestamp("2025-01-01", tz="UTC")
HOUR = timedelta(hours=1)
FEATURES = ["volt", "heat"]
FLEET = load_fleet("simulated").model_copy(update={"anomaly": Anomaly(fit_window="3d")})
FIT_END = START + timedelta(days=3)
NONE = pd.DataFrame(
    {"machine_id": pd.Series(dtype=str), "timestamp": pd.Series(dtype="datetime64[us, UTC]")}
)


def make_windows(hours: int = 100, machines: int = 5) -> pd.DataFrame:
    """One row per machine and hour, all known in time."""
    chance = np.random.default_rng(0)
    times = [START + hour * HOUR for hour in range(hours) for _ in range(machines)]
    return pd.DataFrame(
        {
            "machine_id": [str(n) for _ in range(hours) for n in range(machines)],
            "event_timestamp": times,
            "created_timestamp": times,
            "volt": chance.normal(100, 5, len(times)).astype(np.float32),
            "heat": chance.normal(20, 1, len(times)).astype(np.float32),
        }
    )


def fit(windows: pd.DataFrame, failures: pd.DataFrame = NONE) -> Detector | None:
    return anomaly.fit(windows, failures, FEATURES, FLEET)


@pytest.fixture(scope="module")
def windows() -> pd.DataFrame:
    return make_windows()


@pytest.fixture(scope="module")
def detector(windows: pd.DataFrame) -> Detector:
    found = fit(windows)
    assert found
    return found


def test_it_learns_from_the_fit_window_less_a_horizon(detector: Detector) -> None:
    assert detector.fit_end == FIT_END
    assert detector.rows == 5 * (72 - 24 + 1)


@pytest.mark.parametrize("hours", [0, 1, 72])
def test_there_is_none_before_the_fit_window_is_full(hours: int) -> None:
    assert fit(make_windows(hours)) is None


def test_there_is_none_of_too_few_healthy_rows() -> None:
    assert fit(make_windows(machines=2)) is None
    assert fit(make_windows(machines=3)) is not None


def test_it_is_named_by_what_it_was_made_from(windows: pd.DataFrame, detector: Detector) -> None:
    shuffled = fit(windows.sample(frac=1, random_state=1))
    assert shuffled
    assert shuffled.version == detector.version
    other = windows.copy()
    other.loc[0, "volt"] += 1
    changed = fit(other)
    assert changed
    assert changed.version != detector.version


def test_what_was_known_after_the_fit_window_changes_nothing(
    windows: pd.DataFrame, detector: Detector
) -> None:
    late = windows.head(50).assign(
        created_timestamp=FIT_END + HOUR, volt=np.float32(999), heat=np.float32(999)
    )
    found = fit(pd.concat([windows, late], ignore_index=True))
    assert found
    assert found.version == detector.version


def test_of_two_versions_of_a_row_the_one_known_last_is_learnt(windows: pd.DataFrame) -> None:
    corrected = windows.head(50).assign(
        created_timestamp=START + 60 * HOUR, volt=np.float32(120), heat=np.float32(25)
    )
    replaced = windows.copy()
    replaced.loc[:49, ["volt", "heat"]] = corrected[["volt", "heat"]]
    both, only = fit(pd.concat([corrected, windows], ignore_index=True)), fit(replaced)
    assert both
    assert only
    assert both.rows == only.rows
    assert both.version == only.version


def test_rows_before_a_failure_are_not_learnt(windows: pd.DataFrame, detector: Detector) -> None:
    failures = pd.DataFrame({"machine_id": ["3"], "timestamp": [START + 40 * HOUR]})
    found = fit(windows, failures)
    assert found
    assert found.rows == detector.rows - 24


def test_more_rows_than_it_takes_are_thinned_out_the_same_every_time(
    windows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anomaly, "MOST_ROWS", 150)
    first, second = fit(windows), fit(windows)
    assert first
    assert second
    assert first.rows == 150
    assert first.version == second.version
    assert np.array_equal(first.score(windows), second.score(windows))


def test_what_is_unlike_the_healthy_rows_scores_higher(
    windows: pd.DataFrame, detector: Detector
) -> None:
    scores = detector.score(windows)
    assert scores.dtype == np.float32
    assert scores.shape == (len(windows),)
    assert ((scores > 0) & (scores <= 1)).all()
    odd = detector.score(pd.DataFrame({"heat": [30.0], "volt": [160.0]}))
    assert odd[0] > scores.max()
    assert np.median(scores) < 0.5 < odd[0]


def test_a_gap_counts_as_the_middle_and_no_rows_have_no_scores(detector: Detector) -> None:
    gap = pd.DataFrame({"volt": [None], "heat": [None]}, dtype="float32")
    middle = pd.DataFrame([detector.pipeline()[0].statistics_], columns=FEATURES)
    assert detector.score(gap) == detector.score(middle)
    assert detector.score(gap.iloc[:0]).shape == (0,)


def test_a_sensor_that_never_reads_is_no_obstacle(windows: pd.DataFrame) -> None:
    found = fit(windows.assign(heat=np.float32("nan")))
    assert found
    assert np.isfinite(found.score(windows)).all()


def test_a_saved_detector_scores_as_it_did(
    windows: pd.DataFrame, detector: Detector, tmp_path: Path
) -> None:
    detectors.save(detector, tmp_path)
    found = detectors.load(tmp_path / detector.version)
    assert (found.version, found.features) == (detector.version, detector.features)
    assert (found.fit_end, found.rows) == (detector.fit_end, detector.rows)
    assert np.array_equal(found.score(windows), detector.score(windows))


def test_a_saved_detector_is_not_written_again(detector: Detector, tmp_path: Path) -> None:
    detectors.save(detector, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    detectors.save(detector, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("fault", ["missing", "cut", "flipped", "unnamed", "emptied"])
def test_a_detector_that_is_not_whole_is_refused_with_its_place(
    fault: str, detector: Detector, tmp_path: Path
) -> None:
    folder = tmp_path / detector.version
    if fault != "missing":
        detectors.save(detector, tmp_path)
        model, facts = folder / "detector.skops", folder / "detector.json"
        if fault == "cut":
            model.write_bytes(model.read_bytes()[:1000])
        elif fault == "flipped":
            content = bytearray(model.read_bytes())
            content[len(content) // 2] ^= 1
            model.write_bytes(content)
        elif fault == "unnamed":
            facts.write_text("{}")
        else:
            model.write_bytes(b"")
    with pytest.raises(MillwrightError, match=f"{folder} cannot be read: .*; remove the folder"):
        detectors.load(tmp_path / detector.version)
