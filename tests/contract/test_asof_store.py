"""The offline store, through Feast itself, against a plain Python oracle."""

import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RequestSource,
    ValueType,
)
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import (
    FileLoggingDestination,
    SavedDatasetFileStorage,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Row, answer

from millwright.errors import ConfigurationError, DataError, InputError
from millwright.stores import places, retrieval
from millwright.stores.asof import AsofDuckDBOfflineStore, AsofDuckDBOfflineStoreConfig
from millwright.stores.retrieval import AsofRetrievalJob

# Midnight before the clocks of Berlin go forward, at 01:00 UTC.
START = datetime(2025, 3, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
INSTANT = pa.timestamp("us", tz="UTC")

CONFIGURATION = """
project: contract
provider: local
registry:
  registry_type: sql
  path: sqlite:///{folder}/registry.db
  cache_ttl_seconds: 3600
online_store:
  type: sqlite
  path: {folder}/online.db
offline_store:
  type: millwright.stores.asof.AsofDuckDBOfflineStore
  memory_limit: 1GB
  threads: 2
  spill_folder: {folder}/spill
entity_key_serialization_version: 3
"""

machine = Entity(name="machine", join_keys=["machine_id"], value_type=ValueType.STRING)
slot = Entity(name="slot", join_keys=["slot"], value_type=ValueType.INT64)

KEYS = {
    "readings": (("machine_id", pa.string()),),
    "parts": (("machine_id", pa.string()), ("slot", pa.int64())),
    "notes": (("machine_id", pa.string()),),
}
FEATURES = {
    "readings": (("load", pa.float32()), ("count", pa.int64())),
    "parts": (("wear", pa.int64()),),
    "notes": (("note", pa.string()),),
}
LIVES = {"readings": 2 * HOUR, "parts": None, "notes": HOUR}
CREATED = {"readings": "created_timestamp", "parts": "created_timestamp", "notes": ""}
pytestmark = pytest.mark.filterwarnings("ignore:.*is an experimental feature:RuntimeWarning")
REFERENCES = [f"{view}:{name}" for view, names in FEATURES.items() for name, _ in names]
FEAST_TYPES = {
    pa.float32(): Float32, pa.float64(): Float64, pa.int64(): Int64, pa.string(): String,
}  # fmt: skip


def source(view: str, **changes: object) -> FileSource:
    parts = {
        "name": f"{view}_source",
        "path": view,  # relative to the repository
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": CREATED.get(view, "created_timestamp"),
    }
    return FileSource(**parts | changes)


def feature_view(view: str, entities: list[Entity]) -> FeatureView:
    return FeatureView(
        name=view,
        entities=entities,
        ttl=LIVES[view],
        schema=[Field(name=name, dtype=FEAST_TYPES[t]) for name, t in KEYS[view] + FEATURES[view]],
        source=source(view),
    )


readings = feature_view("readings", [machine])
parts = feature_view("parts", [machine, slot])
notes = feature_view("notes", [machine])
mapped = FeatureView(
    name="mapped",
    entities=[machine],
    schema=[Field(name="machine_id", dtype=String), Field(name="heat", dtype=Float64)],
    source=source(
        "mapped",
        path="mapped/all.parquet",
        field_mapping={
            "id": "machine_id", "at": "event_timestamp", "known": "created_timestamp", "T": "heat",
        },
    ),
)  # fmt: skip
plant = FeatureView(
    name="plant",
    entities=[],
    schema=[Field(name="weather", dtype=String)],
    source=source("plant", created_timestamp_column=""),
)
limits = RequestSource(name="limits", schema=[Field(name="limit", dtype=Float64)])


@on_demand_feature_view(
    sources=[readings, limits], schema=[Field(name="excess", dtype=Float64)], mode="pandas"
)
def overload(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"excess": inputs["load"].astype("float64") - inputs["limit"]})


pair = FeatureService(
    name="pair",
    features=[
        readings[["load"]].with_name("left").with_join_key_map({"machine_id": "left_id"}),
        readings[["load"]].with_name("right").with_join_key_map({"machine_id": "right_id"}),
        parts.with_join_key_map({"slot": "left_slot"}),
    ],
)


@pytest.fixture(scope="module", autouse=True)
def berlin() -> Iterator[None]:
    """The machine's clock is in a zone with summer time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, berlin: None) -> FeatureStore:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "feature_store.yaml").write_text(CONFIGURATION.format(folder=folder))
    store = FeatureStore(repo_path=str(folder))
    store.apply([machine, slot, readings, parts, notes, mapped, plant, overload, pair])
    return store


@pytest.fixture
def folder(store: FeatureStore) -> Path:
    """The repository, without rows in it."""
    for view in [*KEYS, "mapped", "plant"]:
        shutil.rmtree(store.repo_path / view, ignore_errors=True)
    return store.repo_path


def write(folder: Path, view: str, rows: Sequence[Row]) -> None:
    """Put rows into two files in folders of their own, in their order."""
    shutil.rmtree(folder / view, ignore_errors=True)
    for period, part in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
        if part:
            path = folder / view / f"period={period}" / "part.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(_table(view, part), path)


def _table(view: str, rows: Sequence[Row]) -> pa.Table:
    times = [("event_timestamp", INSTANT)]
    if CREATED[view]:
        times.append((CREATED[view], INSTANT))
    records = [
        (*row.key, row.event, *([row.created] * (len(times) - 1)), *row.values) for row in rows
    ]
    schema = pa.schema([*KEYS[view], *times, *FEATURES[view]])
    return pa.table([list(column) for column in zip(*records, strict=True)], schema=schema)


def entities(*times: datetime, **columns: Sequence[object]) -> pd.DataFrame:
    return pd.DataFrame({"event_timestamp": pd.to_datetime(list(times), utc=True), **columns})


moments = st.builds(
    lambda hours, ticks: START + hours * HOUR + ticks * TICK,
    st.integers(0, 5),
    st.integers(-1, 1),
)
machine_ids = st.sampled_from(["a", "b", None])
slots = st.sampled_from([1, 2, None])


@st.composite
def rows(draw: st.DrawFn, view: str) -> list[Row]:
    keys = st.tuples(machine_ids, slots) if view == "parts" else st.tuples(machine_ids)
    created = st.none() | moments if CREATED[view] else st.none()
    drawn = draw(st.lists(st.tuples(keys, moments, created), max_size=8))
    return [
        Row(key, event, known, _values(view, number))
        for number, (key, event, known) in enumerate(drawn)
    ]


def _values(view: str, number: int) -> tuple[object, ...]:
    """Features that tell which row they are of; some are null."""
    every = {
        "readings": (number / 2, None if number % 3 == 0 else 2**60 + number),
        "parts": (number,),
        "notes": (f"note {number}",),
    }
    return every[view]


asked = st.lists(
    st.tuples(st.sampled_from(["a", "b", "unknown", None]), slots, moments), min_size=1, max_size=6
)


@settings(max_examples=80, deadline=None)
@given(
    data=st.fixed_dictionaries({view: rows(view) for view in KEYS}),
    asked=asked,
    zone=st.sampled_from([None, "UTC", "Europe/Berlin"]),
)
def test_every_answer_is_the_oracles(store, data, asked, zone):
    for view, history in data.items():
        write(Path(store.repo_path), view, history)
    machines, positions, times = zip(*asked, strict=True)
    frame = entities(
        *times,
        machine_id=np.array(machines, dtype=object),
        slot=pd.array(list(positions), dtype="Int64"),
        label=np.arange(len(asked), dtype="int8"),
    )
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_convert(zone)
    frame.index = range(len(asked), 0, -1)
    for as_known in (True, False):
        result = store.get_historical_features(
            frame, REFERENCES, filter_by_created_timestamp=as_known
        ).to_arrow()
        assert result["label"].to_pylist() == list(range(len(asked)))
        assert result["event_timestamp"].to_pylist() == list(times)
        for view, history in data.items():
            found = [
                answer(
                    history,
                    (who, where) if view == "parts" else (who,),
                    when,
                    as_known=as_known and bool(CREATED[view]),
                    time_to_live=LIVES[view],
                )
                for who, where, when in asked
            ]
            for index, (name, _) in enumerate(FEATURES[view]):
                expected = [None if row is None else row.values[index] for row in found]
                assert result[name].to_pylist() == expected, (view, name, as_known)


def test_rows_and_columns_of_the_entity_frame_come_back_as_they_were(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (0.5, 7))])
    frame = entities(
        *[START] * 4,
        machine_id=["b", "a", "a", "b"],
        label=np.array([1, 0, 1, 0], dtype="int8"),
        site=pd.Categorical(["x", "y", "x", None]),
        share=np.array([1, 2, 3, 4], dtype="float32"),
    )
    frame.index = [7, 7, 0, 3]
    given = frame.copy(deep=True)
    result = store.get_historical_features(frame, ["readings:load", "readings:count"]).to_df()
    pd.testing.assert_frame_equal(frame, given)
    pd.testing.assert_frame_equal(result[frame.columns], frame.reset_index(drop=True))
    assert result["load"].dtype == "float32"
    assert result["load"].fillna(-1).tolist() == [-1, 0.5, 0.5, -1]


def test_columns_of_empty_views_are_null_and_typed(store, folder):
    (folder / "readings").mkdir()
    frame = entities(START, START, machine_id=["a", "b"], slot=[1, 2])
    for as_known in (True, False):
        result = store.get_historical_features(
            frame, REFERENCES, filter_by_created_timestamp=as_known
        ).to_arrow()
        for features in FEATURES.values():
            for name, kind in features:
                assert result[name].null_count == 2
                assert result.schema.field(name).type == kind


def test_an_entity_frame_without_rows_is_answered_without_rows(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (0.5, 7))])
    job = store.get_historical_features(entities(machine_id=[]), ["readings:load"])
    assert job.to_df().columns.tolist() == ["event_timestamp", "machine_id", "load"]
    assert len(job.to_df()) == 0


def test_times_written_as_text_are_in_utc(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (0.5, 7))])
    frame = pd.DataFrame(
        {"event_timestamp": ["2025-03-29 23:59", "2025-03-30T00:00:00Z"], "machine_id": ["a", "a"]}
    )
    result = store.get_historical_features(frame, ["readings:load"]).to_df()
    assert result["load"].fillna(-1).tolist() == [-1, 0.5]


def test_full_feature_names_carry_the_view(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (0.5, 7))])
    frame = entities(START, machine_id=["a"], load=["mine"])
    job = store.get_historical_features(frame, ["readings:load"], full_feature_names=True)
    assert job.full_feature_names
    assert job.to_df().iloc[0].to_dict() == {
        "event_timestamp": pd.Timestamp(START),
        "machine_id": "a",
        "load": "mine",
        "readings__load": 0.5,
    }


def test_a_service_joins_one_view_twice_under_other_names_and_keys(store, folder):
    write(folder, "readings", [Row((k,), START, START, (v, 0)) for k, v in (("a", 1), ("b", 2))])
    write(folder, "parts", [Row(("a", 3), START, START, (9,))])
    frame = entities(
        START, START, left_id=["a", "b"], right_id=["b", "x"], machine_id="a", left_slot=[3, 4]
    )
    result = store.get_historical_features(
        frame, store.get_feature_service("pair"), full_feature_names=True
    ).to_arrow()
    assert result.drop_columns(frame.columns.tolist()).to_pydict() == {
        "left__load": [1, 2],
        "right__load": [2, None],
        "parts__wear": [9, None],
    }


def test_a_source_may_call_its_columns_otherwise(store, folder):
    path = folder / "mapped" / "all.parquet"
    path.parent.mkdir()
    pq.write_table(
        pa.table(
            {
                "id": ["a", "a"],
                "at": pa.array([START, START], INSTANT),
                "known": pa.array([START, START + HOUR], INSTANT),
                "T": [20.5, 21.5],
            }
        ),
        path,
    )
    frame = entities(START, START + HOUR, machine_id=["a", "a"])
    job = store.get_historical_features(frame, ["mapped:heat"], filter_by_created_timestamp=True)
    assert job.to_df()["heat"].tolist() == [20.5, 21.5]


def test_a_view_without_entities_is_joined_by_time_alone(store, folder):
    (folder / "plant").mkdir()
    pq.write_table(
        pa.table({"event_timestamp": pa.array([START], INSTANT), "weather": ["rain"]}),
        folder / "plant" / "part.parquet",
    )
    frame = entities(START - TICK, START, machine_id=["a", None])
    result = store.get_historical_features(frame, ["plant:weather"]).to_arrow()
    assert result["weather"].to_pylist() == [None, "rain"]


def test_on_demand_features_are_computed_on_the_rows_found(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (2.5, 0))])
    frame = entities(START, START, machine_id=["a", "b"], limit=[1.0, 1.0])
    result = store.get_historical_features(frame, ["overload:excess"]).to_df()
    assert result["excess"].fillna(-1).tolist() == [1.5, -1]


def test_a_saved_dataset_holds_what_was_retrieved(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (2.5, 2**60 + 1))])
    frame = entities(START, START + HOUR, START, machine_id=["a", "a", "b"], limit=[1.0, 2.0, 3.0])
    job = store.get_historical_features(frame, ["readings:count", "overload:excess"])
    assert job.metadata.keys == ["machine_id", "limit"]
    assert job.metadata.min_event_timestamp == START
    assert job.metadata.max_event_timestamp == START + HOUR
    storage = SavedDatasetFileStorage(path="datasets/first.parquet")
    with pytest.warns(RuntimeWarning, match="experimental"):
        dataset = store.create_saved_dataset(job, "first", storage, allow_overwrite=True)
    saved = dataset._retrieval_job.to_arrow()
    assert saved["machine_id"].to_pylist() == ["a", "a", "b"]
    assert saved["count"].to_pylist() == [2**60 + 1, 2**60 + 1, None]
    assert saved["excess"].to_pylist() == [1.5, 0.5, None]
    assert len(dataset.to_df()) == 3
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    assert [path.name for path in (folder / "datasets").iterdir()] == ["first.parquet"]


def test_a_dataset_saved_twice_into_a_folder_holds_its_rows_once(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (2.5, 1))])
    storage = SavedDatasetFileStorage(path=str(folder / "datasets" / "second"))
    job = store.get_historical_features(entities(START, machine_id=["a"]), ["readings:load"])
    for _ in range(2):
        job.persist(storage, allow_overwrite=True)
    assert pq.read_table(folder / "datasets" / "second").num_rows == 1


@pytest.mark.parametrize("latest", [True, False])
def test_materialize_loads_the_newest_rows_of_a_partitioned_folder(
    store, folder, monkeypatch, latest
):
    monkeypatch.setattr(store.config.materialization_config, "pull_latest_features", latest)
    history = [
        Row(("a",), START, START, (1, 1)),
        Row(("b",), START, START, (2, 2)),
        Row(("a",), START + HOUR, START + HOUR, (3, 3)),
        Row(("a",), START + HOUR, START + 2 * HOUR, (4, 2**60 + 4)),
        Row(("a",), START + 2 * HOUR + TICK, START, (6, 6)),
        Row(("a",), START - TICK, START, (7, 7)),
    ]
    if latest:  # Feast itself stumbles over a null key when it gets to see one
        history.append(Row((None,), START + HOUR, START, (5, 5)))
    write(folder, "readings", history)
    write(folder, "parts", [Row(("a", 1), START, START, (8,)), Row(("a", 2), START, START, (9,))])
    store.materialize(START, START + 2 * HOUR, ["readings", "parts", "notes"])
    online = store.get_online_features(
        ["readings:load", "readings:count", "parts:wear", "notes:note"],
        [{"machine_id": m, "slot": s} for m, s in (("a", 1), ("a", 2), ("b", 1), ("c", 1))],
    ).to_dict()
    assert online["load"] == [4, 4, 2, None]
    assert online["count"] == [2**60 + 4, 2**60 + 4, 2, None]
    assert online["wear"] == [8, 9, None, None]
    assert online["note"] == [None] * 4


def test_materialize_follows_the_names_of_the_source(store, folder):
    path = folder / "mapped" / "all.parquet"
    path.parent.mkdir()
    times = pa.array([START, START - HOUR], INSTANT)
    pq.write_table(
        pa.table({"id": ["a", "a"], "at": times, "known": times, "T": [20.5, 21.5]}), path
    )
    store.materialize(START - HOUR, START, ["mapped"])
    online = store.get_online_features(["mapped:heat"], [{"machine_id": "a"}]).to_dict()
    assert online["heat"] == [20.5]


def test_what_the_store_cannot_answer_is_refused(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (2.5, 1))])
    with pytest.raises(InputError, match="must be one SELECT"):
        store.get_historical_features("DROP TABLE x; SELECT 1", ["readings:load"])
    with pytest.raises(InputError, match="cannot be answered: Binder Error"):
        store.get_historical_features("SELECT nothing", ["readings:load"])
    with pytest.raises(InputError, match="joined by different keys"):
        store.get_historical_features(
            features=store.get_feature_service("pair"), start_date=START, full_feature_names=True
        )
    with pytest.raises(InputError, match="no column 'machine_id', by which 'readings'"):
        store.get_historical_features(entities(START, machine=["a"]), ["readings:load"])
    with pytest.raises(InputError, match="two columns 'load'"):
        store.get_historical_features(
            entities(START, machine_id=["a"], load=[1.0]), ["readings:load"]
        )
    with pytest.raises(InputError, match="cannot be read: Time data soon is not ISO8601"):
        frame = pd.DataFrame({"event_timestamp": ["soon"], "machine_id": ["a"]})
        store.get_historical_features(frame, ["readings:load"])
    with pytest.raises(InputError, match="the entity frame cannot be read"):
        store.get_historical_features(
            entities(START, START, machine_id=["a", 1]), ["readings:load"]
        )
    with pytest.raises(DataError, match="BIGINT in the cut-offs"):
        store.get_historical_features(entities(START, machine_id=[1]), ["readings:load"]).to_df()


def test_sources_elsewhere_are_refused(store):
    offline = AsofDuckDBOfflineStore()
    with pytest.raises(ConfigurationError, match="at gs://bucket/readings; this store reads"):
        offline.validate_data_source(store.config, source("readings", path="gs://bucket/readings"))
    with pytest.raises(ConfigurationError, match="is a RequestSource; this store reads FileSource"):
        offline.validate_data_source(store.config, limits)


def test_a_view_without_a_schema_is_inferred_from_the_files_and_not_their_folders(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (2.5, 1))])
    columns = AsofDuckDBOfflineStore().get_table_column_names_and_types_from_data_source(
        store.config, readings.batch_source
    )
    assert [name for name, _ in columns] == [
        "machine_id", "event_timestamp", "created_timestamp", "load", "count",
    ]  # fmt: skip


def test_a_query_may_name_files_and_the_sources_of_the_project(store, folder):
    write(folder, "readings", [Row((k,), START, START, (v, 0)) for k, v in (("a", 1), ("b", 2))])
    write(folder, "notes", [Row(("b",), START + HOUR, None, ("loud",))])
    job = store.get_historical_features(
        """SELECT event_timestamp, machine_id, 7 AS label FROM "notes_source" ORDER BY 1""",
        ["readings:load", "notes:note"],
    )
    assert job.to_df().to_dict("records") == [
        {"event_timestamp": pd.Timestamp(START + HOUR), "machine_id": "b", "label": 7,
         "load": 2, "note": "loud"},
    ]  # fmt: skip
    query = f"""
        SELECT event_timestamp AS moment, machine_id
        FROM '{folder}/readings/*/*.parquet' ORDER BY machine_id DESC
    """
    result = store.get_historical_features(query, ["readings:load"]).to_arrow()
    assert result.column_names == ["moment", "machine_id", "load"]
    assert result["load"].to_pylist() == [2, 1]


def test_without_entities_every_time_of_the_span_at_which_there_is_a_row_is_a_row(store, folder):
    late = START + 2 * HOUR
    write(folder, "readings", [
        Row(("b",), START, START, (2, 0)),
        Row(("a",), START, START, (1, 0)),
        Row(("a",), START, START + HOUR, (9, 0)),
        Row(("a",), late, late, (3, 0)),
        Row(("a",), START - TICK, START, (4, 0)),
        Row(("a",), late + TICK, late, (5, 0)),
        Row((None,), START, START, (6, 0)),
    ])  # fmt: skip
    write(folder, "notes", [Row(("a",), START + HOUR, None, ("loud",))])
    span = {"start_date": START, "end_date": late}
    for as_known, first in ((False, 9), (True, 1)):
        result = store.get_historical_features(
            features=["readings:load", "notes:note"], filter_by_created_timestamp=as_known, **span
        ).to_arrow()
        assert result.to_pydict() == {
            "event_timestamp": [START, START, START + HOUR, late],
            "machine_id": ["a", "b", "a", "a"],
            "load": [first, 2, 9, 3],
            "note": [None, None, "loud", "loud"],
        }


def test_views_with_fewer_keys_are_joined_to_the_rows_of_a_span(store, folder):
    write(folder, "parts", [Row(("a", 2), START, START, (20,)), Row(("a", 1), START, START, (10,))])
    write(folder, "readings", [Row(("a",), START - HOUR, START, (1, 0))])
    result = store.get_historical_features(
        features=["parts:wear", "readings:load"], start_date=START - HOUR, end_date=START
    ).to_arrow()
    assert result.column_names == ["event_timestamp", "machine_id", "slot", "wear", "load"]
    assert [result[name].to_pylist() for name in ("slot", "wear", "load")] == [
        [1, 2], [10, 20], [1, 1],
    ]  # fmt: skip


def test_a_span_without_rows_and_files_is_answered_without_rows(store, folder):
    job = store.get_historical_features(features=["readings:load"], start_date=START)
    assert job.to_df().columns.tolist() == ["event_timestamp", "machine_id", "load"]
    assert len(job.to_df()) == 0


def test_batches_are_the_table_with_on_demand_features_of_their_declared_type(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (2.5, 1))])
    frame = entities(*[START] * 5, machine_id=list("abaab"), limit=[1.0, 2.0, 3.0, 4.0, 5.0])
    job = store.get_historical_features(frame, ["readings:load", "overload:excess"])
    batches = list(job.to_arrow_batches(2))
    assert [batch.num_rows for batch in batches] == [2, 2, 1]
    assert pa.Table.from_batches(batches).to_pydict() == job.to_arrow().to_pydict()
    assert batches[-1].schema.field("excess").type == pa.float64()


@on_demand_feature_view(sources=[readings], schema=[Field(name="half", dtype=Int64)], mode="pandas")
def halves(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"half": inputs["load"] / 2})


def test_an_on_demand_feature_of_another_type_than_declared_is_named(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (1, 1))])
    job = AsofRetrievalJob(
        lambda: pa.table({"load": [1.0]}), None, None, [halves], full_feature_names=False
    )
    with pytest.raises(DataError, match="'halves' gives double for 'half', which is no int64"):
        list(job.to_arrow_batches())


def test_a_result_is_exported_as_parts_or_not_at_all(store, folder, monkeypatch):
    write(folder, "readings", [Row(("a",), START, START, (2.5, 1))])
    job = store.get_historical_features(entities(START, machine_id=["a"]), ["readings:load"])
    assert not job.supports_remote_storage_export()
    with pytest.raises(ConfigurationError, match="'staging_location'"):
        job.to_remote_storage()
    monkeypatch.setattr(store.config.offline_store, "staging_location", str(folder / "staging"))
    frame = entities(*[START] * 3, machine_id=["a", "b", "a"])
    job = store.get_historical_features(frame, ["readings:load"])
    assert job.supports_remote_storage_export()
    monkeypatch.setattr(retrieval, "ROWS_AT_ONCE", 2)
    paths = job.to_remote_storage()
    assert [pq.read_table(path)["load"].to_pylist() for path in paths] == [[2.5, None], [2.5]]
    monkeypatch.setattr(places, "write_parquet", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.to_remote_storage()
    assert len(list((folder / "staging").iterdir())) == 1


def frame_of(*rows: Row) -> pd.DataFrame:
    return _table("readings", rows).to_pandas()


def test_rows_written_to_a_folder_are_a_file_of_their_own_once(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (1, 1))])
    second = frame_of(Row(("a",), START + HOUR, START + HOUR, (2, None)))
    third = frame_of(Row(("a",), START + HOUR, START + HOUR, (3, 3)))
    for rows in (second, third, second):
        store.write_to_offline_store("readings", rows)
    frame = entities(START, START + HOUR, machine_id=["a", "a"])
    job = store.get_historical_features(frame, ["readings:load"])
    assert job.to_df()["load"].tolist() == [1, 3]
    names = sorted(path.name for path in (folder / "readings").glob("*.parquet"))
    assert [name[:11] for name in names] == ["rows-000001", "rows-000002"]
    assert not list((folder / "readings").glob(".*"))


def test_rows_written_to_a_single_file_take_the_place_of_their_like(store, folder):
    first = {"id": ["a", "b"], "at": [START, START], "known": [START, START], "T": [1.0, 2.0]}
    path = folder / "mapped" / "all.parquet"
    path.parent.mkdir()
    schema = pa.schema(
        [("id", pa.string()), ("at", INSTANT), ("known", INSTANT), ("T", pa.float64())]
    )
    pq.write_table(pa.table(first, schema=schema), path)
    times = pd.to_datetime([START, START + HOUR])
    rows = pd.DataFrame({"id": ["b", "b"], "at": times, "known": times, "T": [3.0, 4.0]})
    for _ in range(2):
        store.write_to_offline_store("mapped", rows)
        table = pq.read_table(path)
        assert table.schema.equals(schema)
        assert sorted(zip(table["id"].to_pylist(), table["T"].to_pylist(), strict=True)) == [
            ("a", 1.0), ("b", 3.0), ("b", 4.0),
        ]  # fmt: skip
    assert [found.name for found in path.parent.iterdir()] == ["all.parquet"]


def test_of_two_that_write_a_single_file_at_once_neither_loses_rows(store, folder):
    view, numbers = store.get_feature_view("mapped"), range(8)
    columns = {"id": pa.string(), "at": INSTANT, "known": INSTANT, "T": pa.float64()}

    def append(number: int) -> None:
        row = dict(zip(columns, (f"m{number}", START, START, float(number)), strict=True))
        rows = pa.Table.from_pylist([row], schema=pa.schema(columns))
        AsofDuckDBOfflineStore.offline_write_batch(store.config, view, rows, None)

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(append, numbers))) == 8
    written = pq.read_table(folder / "mapped" / "all.parquet")
    assert sorted(written["T"].to_pylist()) == list(numbers)
    assert len(list((folder / "mapped").iterdir())) == 1


def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(store, folder):
    write(folder, "readings", [Row(("a",), START, START, (1, 1))])
    view = store.get_feature_view("readings")
    good = _table("readings", [Row(("a",), START, START, (1, 1))])
    for rows, message in (
        (good.drop_columns("machine_id"), "have no column 'machine_id'; add it"),
        (good.append_column("laod", [[1]]), "has no column 'laod'; did you mean 'load'"),
        (good.set_column(3, "load", [["x"]]), "column 'load' is string and cannot be float"),
    ):
        with pytest.raises(DataError, match=message):
            AsofDuckDBOfflineStore.offline_write_batch(store.config, view, rows, None)
    assert not list((folder / "readings").glob("*.parquet"))


@pytest.mark.parametrize("partition_by", [None, ["__log_date"]])
def test_logged_features_are_appended_once_and_read_again(store, folder, partition_by):
    destination = FileLoggingDestination(path="logs", partition_by=partition_by)
    service = FeatureService(
        name="logged", features=[readings], logging_config=LoggingConfig(destination)
    )
    shutil.rmtree(folder / "logs", ignore_errors=True)
    days = [START.date(), START.date(), (START + 24 * HOUR).date()]
    logs = pa.table(
        {
            "machine_id": ["a", "b", "a"],
            "__log_timestamp": pa.array([START, START + HOUR, START + 24 * HOUR], INSTANT),
            "__log_date": pa.array(days, pa.date32()),
        }
    )
    (folder / "buffer").mkdir(exist_ok=True)
    pq.write_table(logs, folder / "buffer" / "log.parquet")
    for rows in (logs, logs, folder / "buffer"):
        store.write_logged_features(rows, service)
    found = AsofDuckDBOfflineStore.pull_all_from_table_or_query(
        store.config, destination.to_data_source(), ["machine_id"], [], "__log_timestamp"
    ).to_arrow()
    assert sorted(found["machine_id"].to_pylist()) == ["a", "a", "b"]
    folders = sorted(path.name for path in (folder / "logs").iterdir() if path.is_dir())
    assert folders == (["__log_date=2025-03-30", "__log_date=2025-03-31"] if partition_by else [])


def test_a_misspelt_option_of_the_store_is_refused():
    with pytest.raises(ValueError, match="memory_limt"):
        AsofDuckDBOfflineStoreConfig(memory_limt="1GB")
    with pytest.raises(ValueError, match="memory_limit"):
        AsofDuckDBOfflineStoreConfig(memory_limit="much")
