"""What became known after a cut-off changes nothing in its training row.

The rows come the whole way: simulator, ingest, features, and Feast with the definitions of
`feature_repo/`.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
import yaml

from millwright import feast_store, training
from millwright.fleet import FLEETS, Simulation
from millwright.ingest import ingest
from millwright.project import Project, open_project
from millwright.simulator import simulate
from millwright.sources import open_source

NOW = datetime(2026, 6, 1, tzinfo=UTC)
START = datetime(2025, 1, 1, tzinfo=UTC)
SIMULATION = Simulation(machines=5, days=60, start=START, seed=3, gap_share=0.01, late_share=0.05)
CORRECTED = START + timedelta(days=45)


@pytest.fixture
def fleets(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "fleets"
    folder.mkdir()
    values = yaml.safe_load((FLEETS / "simulated.yaml").read_text())
    values["anomaly"] = {"fit_window": "10d"}
    values["test_window"] = "15d"
    (folder / "simulated.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setenv("MILLWRIGHT_FLEETS", str(folder))
    return folder


def opened(home: Path, monkeypatch) -> Project:
    monkeypatch.setenv("MILLWRIGHT_HOME", str(home))
    project = open_project("simulated", "local")
    project.state.root.mkdir(parents=True)
    return project


def take_in(project: Project, folder: Path) -> None:
    ingest(
        project.fleet,
        open_source(folder, project.fleet),
        project.raw,
        project.state.quarantine("simulated"),
        project.settings.engine,
        now=NOW,
    )


def training_set(project: Project) -> pd.DataFrame:
    project.offline.update()
    feast_store.apply(project.state)
    store = feast_store.open_store(project.state)
    cutoffs = training.select_cutoffs(project)
    found = store.get_historical_features(
        entity_df=cutoffs,
        features=store.get_feature_service(project.service),
        filter_by_created_timestamp=True,
    ).to_arrow()
    return training.check_training_set(found, cutoffs, project)


def altered(folder: Path, target: Path, table: str, change) -> Path:
    """The tables of `folder` with one of them changed."""
    target.mkdir()
    for path in folder.glob("*.parquet"):
        frame = pl.read_parquet(path)
        (change(frame) if path.stem == table else frame).write_parquet(target / path.name)
    return target


def test_a_correction_after_a_cutoff_changes_no_training_row_before_it(
    tmp_path, monkeypatch, fleets
):
    tables = tmp_path / "tables"
    project = opened(tmp_path / "home", monkeypatch)
    simulate(project.fleet, SIMULATION, tables)
    take_in(project, tables)
    before = training_set(project)
    known = CORRECTED + timedelta(hours=1)

    def correct(frame: pl.DataFrame) -> pl.DataFrame:
        """Every reading of ten days says something else, and that became known much later."""
        span = pl.col("datetime").is_between(CORRECTED - timedelta(days=10), CORRECTED)
        return frame.filter(span).with_columns(
            volt=pl.col("volt") + 20, received_at=pl.lit(known).dt.cast_time_unit("us")
        )

    take_in(project, altered(tables, tmp_path / "corrected", "telemetry", correct))
    after = training_set(project)
    early = (before["event_timestamp"] < known).to_numpy()
    pd.testing.assert_frame_equal(before[early], after[early])
    # The correction did arrive: what was asked after it sees it.
    assert not before[~early].equals(after[~early])


def test_what_fails_later_changes_no_feature(tmp_path, monkeypatch, fleets):
    tables = tmp_path / "tables"
    first = opened(tmp_path / "first", monkeypatch)
    simulate(first.fleet, SIMULATION, tables)
    take_in(first, tables)
    as_it_was = training_set(first)

    def shift(frame: pl.DataFrame) -> pl.DataFrame:
        """Failures behind the detector's fit window happen five hours later."""
        late = pl.col("datetime") > START + timedelta(days=11)
        later = pl.duration(hours=5)
        return frame.with_columns(
            pl.when(late).then(pl.col(name) + later).otherwise(pl.col(name)).alias(name)
            for name in ("datetime", "received_at")
        )

    second = opened(tmp_path / "second", monkeypatch)
    take_in(second, altered(tables, tmp_path / "shifted", "failures", shift))
    shifted = training_set(second)
    features = [name for name in as_it_was if name != "label"]
    pd.testing.assert_frame_equal(as_it_was[features], shifted[features])
    assert not as_it_was["label"].equals(shifted["label"])
