"""What can be held of `feast_suite` without a checkout of Feast: its stores read what it writes."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType
from feast.types import Float64
from feast_suite import stores
from feast_suite.plugin import s3  # noqa: F401

from millwright.stores.asof import AsofDuckDBOfflineStoreConfig
from millwright.stores.postgres import AsofPostgresOfflineStoreConfig

START = datetime(2025, 3, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
CREATORS = [creator for _, creator in stores.AVAILABLE_OFFLINE_STORES]
pytestmark = pytest.mark.filterwarnings("ignore:.*is an experimental feature:RuntimeWarning")


def test_both_stores_are_among_those_that_feast_s_tests_are_run_against() -> None:
    assert {AsofDuckDBOfflineStoreConfig, AsofPostgresOfflineStoreConfig} <= {
        creator.store for creator in CREATORS
    }


@pytest.fixture(params=CREATORS, ids=lambda creator: creator.__name__)
def creator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made = request.param(f"contract_{request.param_index}", fixture_request=request)
    for name, value in getattr(made, "mock_environ", {}).items():
        monkeypatch.setenv(name, value)
    yield made
    made.teardown()


def test_a_store_reads_the_frames_of_its_creator_and_saves_where_it_says(
    creator: Any, tmp_path: Path
) -> None:
    rows = pd.DataFrame(
        {
            "machine": [1, 1, 2],
            "load": [0.5, 0.75, None],
            "setting": [{"speed": "high"}, {"speed": "low"}, None],
            "event": pd.to_datetime([START, START + 2 * HOUR, START]),
            "created": pd.to_datetime([START] * 3),
        }
    )
    source = creator.create_data_source(
        rows, "readings", created_timestamp_column="created", timestamp_field="event"
    )
    machine = Entity(name="machine", join_keys=["machine"], value_type=ValueType.INT64)
    view = FeatureView(
        name="readings",
        entities=[machine],
        schema=[Field(name="load", dtype=Float64)],
        source=source,
    )
    store = FeatureStore(
        config=RepoConfig(
            project="contract",
            provider="local",
            registry=str(tmp_path / "registry.db"),
            offline_store=creator.create_offline_store_config(),
            online_store=stores.AVAILABLE_ONLINE_STORES["sqlite"][0],
            repo_path=tmp_path,
            entity_key_serialization_version=3,
        )
    )
    store.apply([machine, view])
    cutoffs = pd.DataFrame({"machine": [1, 2, 1], "event_timestamp": [START + HOUR] * 3})
    cutoffs.loc[2, "event_timestamp"] += HOUR
    found = store.get_historical_features(cutoffs, ["readings:load"])
    saved = store.create_saved_dataset(
        found, "training", creator.create_saved_dataset_destination(), allow_overwrite=True
    )
    for frame in (found.to_df(), store.get_saved_dataset(saved.name).to_df()):
        assert sorted(frame["load"].dropna()) == [0.5, 0.75]
        assert len(frame) == 3


def test_without_a_checkout_the_suite_says_where_to_get_one(tmp_path: Path) -> None:
    suite = Path(stores.__file__).parent
    ended = subprocess.run(
        [sys.executable, suite, "--feast", tmp_path], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "clone https://github.com/feast-dev/feast" in ended.stderr
