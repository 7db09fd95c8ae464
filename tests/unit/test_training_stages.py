"""A training run over frames: what it refuses to learn from, and what it must not see."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xgboost
from raw_tables import contents, plant, raw, reading, take_in, write_csv

from millwright import publication, registry, release, training
from millwright.encoder import Encoder
from millwright.errors import DataError, MillwrightError, ReleaseError
from millwright.gate import decide, load_limits
from millwright.labels import label_cutoffs, select_cutoffs
from millwright.models import Classifier
from millwright.project import Project, Training
from millwright.publication import Candidate, Registration
from millwright.registry import Version
from millwright.release import Manifest, ServedView
from millwright.search import Found
from millwright.settings import State, load_settings
from millwright.splits import Folds, split_by_time
from millwright.training import (
    BASELINES,
    EXAMPLES,
    KEYS,
    TEST,
    VALIDATION,
    check_training_set,
    examples,
    judge,
    train_models,
)
from millwright.views import model_features

HOUR = timedelta(hours=1)
START = pd.Timestamp("2025-01-01", tz="UTC")
FLEET = plant(horizon="6h", lead_time="2h", test_window="8d")
FEATURES = model_features(FLEET)
FOUND = Found(
    parameters={"max_depth": 3, "eta": 0.3}, rounds=10, trials=1, ended_by="trials",
    average_precision=0.5, folds=(0.5, 0.5),
)  # fmt: skip
# Machine and hour; of each machine some in every part of the forty days.
FAILURES = [(str(1 + n % 3), 31 + 37 * n) for n in range(25)]

Prepared = tuple[Project, pd.DataFrame]
Trained = tuple[xgboost.Booster, pd.DataFrame]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose raw store knows of the failures."""
    home = tmp_path_factory.mktemp("home")
    found = Project(
        FLEET, load_settings(), State(home, "local"),
        Training(seed=3, folds=Folds(count=2), contribution_rows=50),
    )  # fmt: skip
    rows = [
        {"id": machine, "at": (START + hour * HOUR).isoformat(), "part": "pump"}
        for machine, hour in FAILURES
    ]
    machines = [{"id": number, "model": "m1", "age": 3} for number in (1, 2, 3)]
    tables = raw(reading(), failures=rows, machines=machines)
    folder = write_csv(home / "data", tables)
    take_in(FLEET, folder, found.state.raw(FLEET.name).parent)
    return found


@pytest.fixture(scope="module")
def frame(project: Project) -> pd.DataFrame:
    """A training set of which one feature says something about the label."""
    observed = pd.DataFrame(
        {"machine_id": ["1", "2", "3"], "first": START, "last": START + 40 * 24 * HOUR}
    )
    rows = select_cutoffs(observed, FLEET)
    failures = project.offline.failures()
    assert len(failures) == len(FAILURES)
    rows["label"] = label_cutoffs(rows, failures, FLEET.horizon)
    rng = np.random.default_rng(0)
    for name, kind in FEATURES.items():
        values = rng.standard_normal(len(rows)).astype(np.float32)
        rows[name] = values if kind == "float32" else np.where(values > 0, "m1", "m2")
    rows["heat_mean_3h"] += 2 * rows["label"].astype(np.float32)
    return rows


@pytest.fixture(scope="module")
def trained(project: Project, frame: pd.DataFrame) -> Trained:
    return train_models(frame, FOUND, project)


def given(frame: pd.DataFrame) -> pa.Table:
    """What the feature store gives: the columns in an order of its own, and one more."""
    columns = [*reversed(frame.columns)]
    return pa.Table.from_pandas(frame[columns].assign(more=1), preserve_index=False)


def cutoffs(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[KEYS].copy()


def test_what_was_asked_for_is_a_training_set(project: Project, frame: pd.DataFrame) -> None:
    found = check_training_set(given(frame), cutoffs(frame), project)
    assert list(found.columns) == [*KEYS, *FEATURES]
    assert len(found) == len(frame)
    assert str(found["event_timestamp"].dtype) == "datetime64[us, UTC]"
    pd.testing.assert_frame_equal(found, frame[[*KEYS, *FEATURES]], check_dtype=False)


def test_some_features_may_be_missing_but_not_all(project: Project, frame: pd.DataFrame) -> None:
    numbers = [name for name, kind in FEATURES.items() if kind == "float32"]
    gaps = frame.copy()
    gaps.loc[5:, numbers] = np.nan
    check_training_set(given(gaps), cutoffs(frame), project)
    gaps[numbers] = np.float32(np.nan)
    with pytest.raises(MillwrightError, match="every feature of every cut-off is null"):
        check_training_set(given(gaps), cutoffs(frame), project)


def swapped(frame: pd.DataFrame) -> pd.DataFrame:
    order = np.arange(len(frame))
    order[[3, 7]] = 7, 3
    return frame.iloc[order]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda rows: rows.drop(index=5), "machine_id"),
        (lambda rows: rows.iloc[:-1], "machine_id"),
        (lambda rows: rows.iloc[:0], "machine_id"),
        (lambda rows: pd.concat([rows, rows.iloc[[-1]]]), "machine_id"),
        (swapped, "machine_id"),
        (lambda rows: rows[::-1], "machine_id"),
        (lambda rows: rows.assign(event_timestamp=rows["event_timestamp"] + HOUR),
         "event_timestamp"),
        (lambda rows: rows.assign(label=~rows["label"]), "label"),
    ],
    ids=["a row missing", "the last missing", "all missing", "a row more", "two swapped",
         "reversed", "later", "other labels"],
)  # fmt: skip
def test_rows_that_are_not_those_asked_for_are_refused(
    project: Project,
    frame: pd.DataFrame,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    key: str,
) -> None:
    with pytest.raises(MillwrightError) as caught:
        check_training_set(given(change(frame)), cutoffs(frame), project)
    assert f"asked for {len(frame):,} cut-offs, and the feature store gave" in str(caught.value)
    assert f"rows that differ in '{key}'" in str(caught.value)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_features_are_refused_by_name(
    project: Project, frame: pd.DataFrame, value: float
) -> None:
    wrong = frame.copy()
    wrong.loc[7, "heat_std_3h"] = value
    wrong.loc[9, "age"] = value
    with pytest.raises(MillwrightError, match=r"features are infinite: heat_std_3h, age"):
        check_training_set(given(wrong), cutoffs(frame), project)


def test_features_that_were_not_given_are_named(project: Project, frame: pd.DataFrame) -> None:
    with pytest.raises(MillwrightError, match=r"gave no age, anomaly_score for service 'plant_fai"):
        check_training_set(
            given(frame.drop(columns=["age", "anomaly_score"])), cutoffs(frame), project
        )


def test_the_windows_of_a_training_set_are_those_of_its_records(
    project: Project, frame: pd.DataFrame
) -> None:
    end = START + 40 * 24 * HOUR  # of the last reading
    moments = frame["event_timestamp"]
    expected = split_by_time(moments, end, FLEET, project.training.folds)
    assert training.split(frame, project) == expected


def test_folds_in_which_nothing_fails_are_left_out(project: Project, frame: pd.DataFrame) -> None:
    first, second = training.split(frame, project).folds
    quiet = frame.assign(label=frame["label"] & (frame["event_timestamp"] > first.end))
    with pytest.raises(DataError, match="no validation fold with failures to learn from"):
        training.split(quiet, project)
    some = frame.assign(label=frame["label"] & ~first.validation(frame["event_timestamp"]))
    assert training.split(some, project).folds == (second,)


def test_every_row_that_judges_has_a_score_of_every_model(
    project: Project, frame: pd.DataFrame, trained: Trained
) -> None:
    _, scores = trained
    windows, moments = training.split(frame, project), frame["event_timestamp"]
    names = [training.score_of(name) for name in (*BASELINES, "model")]
    assert list(scores.columns) == [*KEYS, "part", *names]
    assert not scores.isna().any(axis=None)
    for part, mask in (
        (VALIDATION, windows.validation(moments)), (TEST, windows.test.validation(moments))
    ):  # fmt: skip
        rows = scores[scores["part"] == part]
        pd.testing.assert_frame_equal(
            rows[KEYS].reset_index(drop=True), frame.loc[mask, KEYS].reset_index(drop=True)
        )


def test_a_training_run_is_the_same_again_with_any_number_of_threads(
    project: Project, frame: pd.DataFrame, trained: Trained
) -> None:
    settings = project.settings.model_copy(
        update={"engine": project.settings.engine.model_copy(update={"threads": 1})}
    )
    told: list[tuple[int, int]] = []
    booster, scores = train_models(
        frame, FOUND, replace(project, settings=settings), lambda *done: told.append(done)
    )
    before, expected = trained
    assert booster.save_raw() == before.save_raw()
    pd.testing.assert_frame_equal(scores, expected, check_exact=True)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_no_model_learns_from_the_rows_that_judge_it(
    project: Project, frame: pd.DataFrame, trained: Trained
) -> None:
    windows, moments = training.split(frame, project), frame["event_timestamp"]
    later = np.asarray(moments > windows.folds[-1].start)
    flipped = frame.assign(label=frame["label"] ^ later)
    _, scores = train_models(flipped, FOUND, project)
    _, expected = trained
    models = [training.score_of(name) for name in (*BASELINES, "model")]
    judged = windows.folds[-1].validation(expected["event_timestamp"])
    pd.testing.assert_frame_equal(
        scores.loc[judged, models], expected.loc[judged, models], check_exact=True
    )
    # The model of the test window has learned from them, so the flip was seen.
    tested = expected["part"] == TEST
    name = training.score_of("model")
    assert (scores.loc[tested, name] != expected.loc[tested, name]).any()


def test_nothing_learns_from_the_test_window(
    project: Project, frame: pd.DataFrame, trained: Trained
) -> None:
    windows = training.split(frame, project)
    later = np.asarray(frame["event_timestamp"] > windows.test.train_end)
    numbers = [name for name, kind in FEATURES.items() if kind == "float32"]
    spoilt = frame.assign(label=frame["label"] ^ later)
    spoilt.loc[later, numbers] *= -3
    booster, scores = train_models(spoilt, FOUND, project)
    before, expected = trained
    assert booster.save_raw() == before.save_raw()
    validation = expected["part"] == VALIDATION
    pd.testing.assert_frame_equal(scores[validation], expected[validation], check_exact=True)


def test_examples_are_rows_of_the_test_window(project: Project, frame: pd.DataFrame) -> None:
    found = examples(frame, project)
    tested = training.split(frame, project).test.validation(frame["event_timestamp"])
    encoded = Encoder.of(FLEET).encode(frame[tested])
    assert found.shape == (EXAMPLES, len(Encoder.of(FLEET).columns))
    known = {row.tobytes() for row in encoded}
    assert all(row.tobytes() in known for row in found)
    few = frame[frame["event_timestamp"] >= frame["event_timestamp"].max() - HOUR]
    whole = pd.concat([frame[~tested], few], ignore_index=True)
    assert len(examples(whole, project)) == len(few)


def test_thresholds_are_chosen_without_the_test_window(
    project: Project, frame: pd.DataFrame, trained: Trained
) -> None:
    booster, scores = trained
    found = judge(frame, scores, booster, project)
    turned = scores.copy()
    tested = turned["part"] == TEST
    names = [training.score_of(name) for name in (*BASELINES, "model")]
    turned.loc[tested, names] = 1 - turned.loc[tested, names]
    again = judge(frame, turned, booster, project)
    assert again.threshold == found.threshold
    assert again.candidate != found.candidate
    assert (found.champion, found.champion_note) == (None, "")
    assert set(found.baselines) == set(BASELINES)
    sizes = {each.rows for each in (found.candidate, *found.baselines.values())}
    assert sizes == {int(tested.sum())}
    assert found.contributions[0].feature == "heat_mean_3h"


def write_champion(project: Project, booster: xgboost.Booster, **changes: Any) -> None:
    values = {
        "name": project.model_name, "version": 1, "fleet": "plant", "fingerprint": "f",
        "feature_service": project.service, "encoder": Encoder.of(FLEET), "threshold": 0.4,
        "views": ServedView.all_of(FLEET), "costs": FLEET.costs,
        "horizon": "6h", "lead_time": "2h", "learned_until": START, "dataset_version": "d",
        "detector_version": None, "code_version": "c", "git_revision": None, "mlflow_run": "r",
        "environment": "local", "libraries": {},
    }  # fmt: skip
    manifest = Manifest.model_validate(values | changes)
    folder = project.state.releases("plant")
    rows = np.zeros((1, len(manifest.encoder.columns)), dtype=np.float32)
    release.set_champion(folder, release.write(folder, manifest, booster, rows))


@pytest.fixture
def copied(project: Project, tmp_path: Path) -> Project:
    """The project with its raw store and no release."""
    found = replace(project, state=State(tmp_path, "local"))
    shutil.copytree(project.state.raw("plant"), found.state.raw("plant"))
    return found


def test_the_champion_is_judged_on_the_same_rows_by_its_own_threshold(
    copied: Project, frame: pd.DataFrame, trained: Trained
) -> None:
    booster, scores = trained
    write_champion(copied, booster)
    found = judge(frame, scores, booster, copied)
    assert found.champion is not None
    assert found.champion_note == ""
    assert found.champion.threshold == 0.4
    for figure in ("rows", "average_precision", "roc_auc", "brier"):
        assert getattr(found.champion, figure) == getattr(found.candidate, figure)


def test_a_champion_that_reads_other_features_is_passed_over_and_says_why(
    copied: Project, frame: pd.DataFrame, trained: Trained
) -> None:
    booster, scores = trained
    encoder = Encoder.of(FLEET)
    more = encoder.model_copy(update={"features": (*encoder.features, "colour", "weight")})
    matrix = np.zeros((50, len(more.columns)), dtype=np.float32)
    other = Classifier({}, 1, seed=0).fit(matrix, np.arange(50) % 2 == 0).booster
    assert other is not None
    gone = ServedView(
        name="plant_paint", features={"colour": "float32", "weight": "float32"}, time_to_live=None
    )
    write_champion(copied, other, encoder=more, views=(*ServedView.all_of(FLEET), gone))
    found = judge(frame, scores, booster, copied)
    assert found.champion is None
    assert found.champion_note == "v1 reads features that are no longer made: colour, weight"


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"horizon": "24h"},
         "v1 answers another question: its horizon is 24h and its lead time 2h, where the fleet "
         "file now says 6h and 2h"),
        ({"lead_time": "1h"},
         "v1 answers another question: its horizon is 6h and its lead time 1h, where the fleet "
         "file now says 6h and 2h"),
    ],
    ids=["horizon", "lead time"],
)  # fmt: skip
def test_a_champion_that_was_asked_another_question_is_passed_over_and_says_why(
    copied: Project, frame: pd.DataFrame, trained: Trained, changes: dict[str, str], note: str
) -> None:
    booster, scores = trained
    write_champion(copied, booster, **changes)
    found = judge(frame, scores, booster, copied)
    assert (found.champion, found.champion_note) == (None, note)


def test_a_model_has_learned_up_to_the_end_of_the_horizon_of_its_last_cutoff(
    project: Project, frame: pd.DataFrame
) -> None:
    window, moments = training.split(frame, project).test, frame["event_timestamp"]
    found = training.learned_until(frame, project)
    assert type(found) is datetime
    assert found == moments[window.training(moments)].max() + FLEET.horizon
    assert found <= window.start


def test_a_champion_may_learn_up_to_the_test_window_and_no_further(
    copied: Project, frame: pd.DataFrame, trained: Trained
) -> None:
    booster, scores = trained
    start = training.split(frame, copied).test.start
    write_champion(copied, booster, learned_until=start)
    assert judge(frame, scores, booster, copied).champion is not None
    write_champion(copied, booster, learned_until=start + timedelta(minutes=1))
    found = judge(frame, scores, booster, copied)
    assert found.champion is None
    assert found.champion_note == (
        "v1 has learned from failures up to 2025-02-02 00:01, and the test window starts at "
        "2025-02-02 00:00 UTC"
    )


@pytest.mark.parametrize(("days", "fair"), [(6, True), (8, True), (10, False)])
def test_a_champion_is_not_judged_on_days_that_it_learned_from_when_the_test_window_grows(
    copied: Project, frame: pd.DataFrame, trained: Trained, days: int, fair: bool
) -> None:
    write_champion(copied, trained[0], learned_until=training.learned_until(frame, copied))
    fleet = FLEET.model_copy(update={"test_window": timedelta(days=days)})
    other = replace(copied, fleet=fleet)
    booster, scores = train_models(frame, FOUND, other)
    found = judge(frame, scores, booster, other)
    assert (found.champion is not None) is fair
    assert ("has learned from failures up to" in found.champion_note) is not fair


def passed(fingerprint: str) -> Registration:
    return Registration(
        name="plant_failure", version=1, run="r", fingerprint=fingerprint, rows={}, passed=True,
        reasons=(), report="report.html",
    )  # fmt: skip


def test_a_release_says_what_was_asked_of_it_and_until_when_it_learned(
    copied: Project, frame: pd.DataFrame, trained: Trained
) -> None:
    released = publication.release(copied, passed("f1"), frame, trained[0], 0.5)
    assert released.path is not None
    folder = copied.state.releases("plant")
    assert release.champion(folder) is None  # it is not in service yet
    release.set_champion(folder, Path(released.path))
    manifest = release.load(Path(released.path)).manifest
    assert (manifest.horizon, manifest.lead_time) == ("6h", "2h")
    assert manifest.learned_until == training.learned_until(frame, copied)
    # So the very model can be compared with itself when the run is made again.
    again = judge(frame, trained[1], trained[0], copied)
    assert again.champion is not None
    assert again.champion.average_precision == again.candidate.average_precision


def test_a_champion_is_not_overwritten_when_mlflow_counts_its_versions_anew(
    copied: Project, frame: pd.DataFrame, trained: Trained
) -> None:
    write_champion(copied, trained[0])
    folder = copied.state.releases("plant")
    before = contents(folder)
    with pytest.raises(ReleaseError, match=r"releases/v1 is the release of another model"):
        publication.release(copied, passed("f1"), frame, trained[0], 0.5)
    assert contents(folder) == before


def test_the_report_and_the_model_card_of_a_run_say_why_the_champion_was_not_compared(
    copied: Project, frame: pd.DataFrame, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    booster, scores = trained
    write_champion(copied, booster, horizon="24h")
    judgement = judge(frame, scores, booster, copied)
    decision = decide(
        load_limits(), judgement.candidate, judgement.baselines, judgement.champion, 0
    )
    version = Version("plant_failure", 2, "r", {})
    monkeypatch.setattr(registry, "register", lambda *_: version)
    monkeypatch.setattr(registry, "log_run", lambda *_, **__: "r")
    monkeypatch.setattr(Project, "configuration_files", {})  # this plant has none
    _, page, card = publication.register(
        Candidate(copied, "f2", frame, scores, booster, FOUND, judgement, decision)
    )
    for text in (page, card):
        assert "v1 answers another question: its horizon is 24h" in text
