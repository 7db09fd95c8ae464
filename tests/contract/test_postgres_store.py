"""The offline store over PostgreSQL, through Feast itself, beside the one over parquet."""

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy
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
from feast.data_source import DataSource, PushMode, PushSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
    SavedDatasetPostgreSQLStorage,
)
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import database

from millwright.errors import ConfigurationError, DataError, InputError
from millwright.stores import postgres_join
from millwright.stores.postgres import AsofPostgresOfflineStore, AsofPostgresOfflineStoreConfig
from millwright.stores.postgres_logs import AsofPostgresLoggingDestination
from millwright.stores.postgres_request import server_of
from millwright.stores.postgres_server import connect
from millwright.stores.postgres_writes import append, save
from millwright.stores.progress import reporting

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
entity_key_serialization_version: 3
offline_store:
"""
POSTGRES = """
  type: millwright.stores.postgres.AsofPostgresOfflineStore
  host: {host}
  database: {database}
  user: {user}
"""
DUCKDB = """
  type: millwright.stores.asof.AsofDuckDBOfflineStore
"""

machine = Entity(name="machine", join_keys=["machine_id"], value_type=ValueType.STRING)
slot = Entity(name="slot", join_keys=["slot"], value_type=ValueType.INT64)

TIMES = {"event_timestamp": INSTANT, "created_timestamp": INSTANT}
SCHEMAS = {
    "readings": {"machine_id": pa.string(), "load": pa.float32(), "count": pa.int64()} | TIMES,
    "parts": {"machine_id": pa.string(), "slot": pa.int64(), "wear": pa.float64()} | TIMES,
    "notes": {"machine_id": pa.string(), "note": pa.string(), "event_timestamp": INSTANT},
}
LIVES = {"readings": 2 * HOUR, "parts": None, "notes": HOUR}
FEAST_TYPES = {
    pa.float32(): Float32, pa.float64(): Float64, pa.int64(): Int64, pa.string(): String,
}  # fmt: skip
REFERENCES = ["readings:load", "readings:count", "parts:wear", "notes:note"]
limits = RequestSource(name="limits", schema=[Field(name="limit", dtype=Float64)])


def view(name: str, source: DataSource) -> FeatureView:
    columns = {n: FEAST_TYPES[t] for n, t in SCHEMAS[name].items() if n not in TIMES}
    return FeatureView(
        name=name,
        entities=[machine, slot] if "slot" in columns else [machine],
        ttl=LIVES[name],
        schema=[Field(name=n, dtype=dtype) for n, dtype in columns.items()],
        source=source,
    )


def times_of(name: str) -> dict[str, str]:
    created = "created_timestamp" if "created_timestamp" in SCHEMAS[name] else ""
    return {"timestamp_field": "event_timestamp", "created_timestamp_column": created}


def table(name: str) -> PostgreSQLSource:
    return PostgreSQLSource(name=f"{name}_source", table=f"features.{name}", **times_of(name))


readings = view("readings", PushSource(name="pushed", batch_source=table("readings")))
mapped = FeatureView(
    name="mapped",
    entities=[machine],
    schema=[Field(name="machine_id", dtype=String), Field(name="heat", dtype=Float64)],
    source=PostgreSQLSource(
        name="mapped_source",
        query='SELECT id, at, known, "T" FROM features.mapped WHERE "T" > 0',
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        field_mapping={
            "id": "machine_id", "at": "event_timestamp", "known": "created_timestamp", "T": "heat",
        },
    ),
)  # fmt: skip


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
    ],
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[FeatureStore]:
    """A store whose server has its clock elsewhere, and none of the tables yet."""
    folder = tmp_path_factory.mktemp("repository")
    with database(postgres) as text:
        url = sqlalchemy.make_url(text)
        place = {"host": url.query["host"], "database": url.database, "user": url.username}
        opened = opened_store(folder, POSTGRES.format(**place))
        opened.apply(
            [machine, slot, readings, view("parts", table("parts")), view("notes", table("notes")),
             mapped, overload, pair]
        )  # fmt: skip
        run(opened, f"ALTER DATABASE {url.database} SET TimeZone = 'Asia/Kathmandu'")
        run(opened, f"ALTER DATABASE {url.database} SET synchronous_commit = off")  # for speed
        yield opened


@pytest.fixture
def empty(store: FeatureStore) -> FeatureStore:
    """The store without any table."""
    run(store, "DROP SCHEMA IF EXISTS features CASCADE")
    run(store, "DROP SCHEMA IF EXISTS datasets CASCADE")
    return store


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The store over parquet, with the same views."""
    folder = tmp_path_factory.mktemp("parquet")
    opened = opened_store(folder, DUCKDB)
    views = [
        view(name, FileSource(name=f"{name}_source", path=name, **times_of(name)))
        for name in SCHEMAS
    ]
    opened.apply([machine, slot, *views])
    return opened


def opened_store(folder: Path, offline: str) -> FeatureStore:
    text = CONFIGURATION.format(folder=folder) + offline
    (folder / "feature_store.yaml").write_text(text)
    return FeatureStore(repo_path=str(folder))


def run(store: FeatureStore, sql: str) -> None:
    with connect(server_of(store.config)) as session:
        session.run(sql)


def rows_of(store: FeatureStore, table: str) -> list[dict[str, object]]:
    with connect(server_of(store.config)) as session:
        rows: list[dict[str, object]] = session.fetch(f"SELECT * FROM {table}").to_pylist()
    return rows


def rows(name: str, *records: tuple[object, ...]) -> pa.Table:
    schema = pa.schema(list(SCHEMAS[name].items()))
    columns = list(zip(*records, strict=True)) if records else [()] * len(schema)
    return pa.table([list(column) for column in columns], schema=schema)


def write(store: FeatureStore, name: str, *records: tuple[object, ...]) -> None:
    AsofPostgresOfflineStore.offline_write_batch(
        store.config, store.get_feature_view(name), rows(name, *records), None
    )


def entities(*times: datetime, **columns: Sequence[object]) -> pd.DataFrame:
    return pd.DataFrame({"event_timestamp": pd.to_datetime(list(times), utc=True), **columns})


moments = st.builds(
    lambda hours, ticks: START + hours * HOUR + ticks * TICK,
    st.integers(0, 5),
    st.integers(-1, 1),
)
machines = st.sampled_from(["a", "b", None])
slots = st.sampled_from([1, 2, None])
VALUES = {
    "readings": (st.sampled_from([0.5, math.nan, None]), st.sampled_from([1, 2**60 + 1, None])),
    "parts": (slots, st.sampled_from([1e300, -0.0, math.inf, None])),
    "notes": (st.sampled_from(["x", "", "Ä\n'\"\\", None]),),
}


def histories(name: str) -> st.SearchStrategy[list[tuple[object, ...]]]:
    created = [st.none() | moments] if "created_timestamp" in SCHEMAS[name] else []
    return st.lists(st.tuples(machines, *VALUES[name], moments, *created), max_size=10)


@settings(max_examples=12, deadline=None)
@given(
    data=st.fixed_dictionaries({name: histories(name) for name in SCHEMAS}),
    asked=st.lists(st.tuples(machines, slots, moments), min_size=1, max_size=10),
    zone=st.sampled_from([None, "UTC", "Europe/Berlin"]),
)
def test_every_answer_is_that_of_the_store_over_parquet(store, parquet, data, asked, zone):
    with connect(server_of(store.config)) as session:
        session.run("CREATE SCHEMA IF NOT EXISTS features")
        for name, records in data.items():
            stored = rows(name, *records)
            session.run(f"DROP TABLE IF EXISTS features.{name}")
            session.load("stored", stored)
            session.run(f"CREATE TABLE features.{name} AS SELECT * FROM stored")
            session.run("DROP TABLE stored")
            path = parquet.repo_path / name / "part.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(stored, path)
    who, where, times = zip(*asked, strict=True)
    frame = entities(*times, machine_id=np.array(who, dtype=object), n=range(len(asked)))
    frame["slot"] = pd.array(list(where), dtype="Int64")
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_convert(zone)
    for as_known in (True, False):
        job, there = (
            one.get_historical_features(frame, REFERENCES, filter_by_created_timestamp=as_known)
            for one in (store, parquet)
        )
        here, there = job.to_arrow(), there.to_arrow()
        assert here.schema.equals(there.schema)
        assert str(here.to_pylist()) == str(there.to_pylist())
        assert str(by_sql(job, here.schema).to_pylist()) == str(there.to_pylist())


def test_without_entities_the_rows_of_a_span_are_those_of_the_store_over_parquet(empty, parquet):
    stored = {
        "readings": [("b", 1.5, 1, START, START), ("a", 2.5, 2, START, START + HOUR),
                     ("Ä", 3.5, 3, START + HOUR, START), (None, 4.5, 4, START, START),
                     ("a", 5.5, 5, START + 2 * HOUR + TICK, START)],
        "notes": [("a", "x", START + HOUR), ("a", "x", START + HOUR), ("b", "y", START - TICK)],
    }  # fmt: skip
    for name, records in stored.items():
        write(empty, name, *records)
        path = parquet.repo_path / name / "part.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(rows(name, *records), path)
    asked = ["readings:load", "notes:note"]
    for as_known in (True, False):
        job, there = (
            one.get_historical_features(
                None, asked, start_date=START, end_date=START + 2 * HOUR,
                filter_by_created_timestamp=as_known,
            )
            for one in (empty, parquet)
        )  # fmt: skip
        here, there = job.to_arrow(), there.to_arrow()
        assert by_sql(job, here.schema).to_pylist() == here.to_pylist()
        assert here.schema.equals(there.schema)
        assert here.to_pylist() == there.to_pylist()
        assert here["machine_id"].to_pylist() == ["a", "b", "a", "Ä"]
        assert here["load"].to_pylist() == [None if as_known else 2.5, 1.5, 2.5, 3.5]


def test_before_the_first_rows_all_is_null_and_typed(empty):
    frame = entities(START, START, machine_id=["a", "b"], slot=[1, 2])
    for as_known in (True, False):
        result = empty.get_historical_features(
            frame, REFERENCES, filter_by_created_timestamp=as_known
        ).to_arrow()
        for reference in REFERENCES:
            name, feature = reference.split(":")
            assert result[feature].null_count == 2
            assert result.schema.field(feature).type == SCHEMAS[name][feature]
    empty.materialize(START - HOUR, START, ["readings", "parts", "notes"])
    online = empty.get_online_features(["readings:load"], [{"machine_id": "nobody"}]).to_dict()
    assert online["load"] == [None]


def test_rows_and_columns_of_the_entity_frame_come_back_as_they_were(empty):
    write(empty, "readings", ("a", 0.5, 7, START, START))
    frame = entities(
        *[START] * 4,
        machine_id=["b", "a", "a", "b"],
        label=np.array([1, 0, 1, 0], dtype="int8"),
        site=pd.Categorical(["x", "y", "x", None]),
        share=np.array([1, 2, 3, 4], dtype="float32"),
    )
    frame.index = [7, 7, 0, 3]
    result = empty.get_historical_features(frame, ["readings:load", "readings:count"]).to_df()
    pd.testing.assert_frame_equal(result[frame.columns], frame.reset_index(drop=True))
    assert result["load"].dtype == "float32"
    assert result["load"].fillna(-1).tolist() == [-1, 0.5, 0.5, -1]


def test_an_entity_frame_without_rows_is_answered_without_rows(empty):
    write(empty, "readings", ("a", 0.5, 7, START, START))
    job = empty.get_historical_features(entities(machine_id=[]), ["readings:load"])
    assert job.to_df().columns.tolist() == ["event_timestamp", "machine_id", "load"]
    assert len(job.to_df()) == 0


def test_cutoffs_may_be_a_query(empty):
    write(empty, "readings", ("a", 0.5, 7, START, START))
    query = "SELECT 'a' AS machine_id, timestamp '2025-03-30' AS event_timestamp, 1.5 AS price;"
    job = empty.get_historical_features(query, ["readings:load"])
    expected = [{"machine_id": "a", "event_timestamp": START, "price": 1.5, "load": 0.5}]
    result = job.to_arrow()
    assert result.to_pylist() == by_sql(job, result.schema).to_pylist() == expected


def test_a_query_of_cutoffs_is_run_when_rows_are_asked_for_and_once(empty):
    write(empty, "readings", ("a", 0.5, 7, START, START))
    run(empty, "CREATE SEQUENCE features.runs")
    query = "SELECT 'a' AS machine_id, timestamptz '2025-03-30Z' AS at, nextval('features.runs') n"
    job = empty.get_historical_features(query, ["readings:load"])
    assert [row["is_called"] for row in rows_of(empty, "features.runs")] == [False]
    assert job.metadata.min_event_timestamp == START
    for _ in range(2):
        assert job.to_df()[["n", "load"]].to_numpy().tolist() == [[1, 0.5]]


def by_sql(job: RetrievalJob, schema: pa.Schema) -> pa.Table:
    """The rows of the query that a job stands for, run in some other zone, with its `schema`."""
    with connect(job._server) as session:
        session.run("SET TimeZone = 'Asia/Kathmandu'")
        found = session.fetch(job.to_sql())
    kinds = [
        column if pa.types.is_null(kind.type) else kind
        for column, kind in zip(found.schema, schema, strict=True)
    ]
    return found.cast(pa.schema(kinds))


def test_a_service_joins_one_view_twice_under_other_names_and_keys(empty):
    write(empty, "readings", ("a", 1, 0, START, START), ("b", 2, 0, START, START))
    frame = entities(START, START, left_id=["a", "b"], right_id=["b", "x"], machine_id="a")
    result = empty.get_historical_features(
        frame, empty.get_feature_service("pair"), full_feature_names=True
    ).to_arrow()
    assert result.drop_columns(frame.columns.tolist()).to_pydict() == {
        "left__load": [1, 2],
        "right__load": [2, None],
    }


def test_a_source_may_be_a_query_and_call_its_columns_otherwise(empty):
    run(empty, "CREATE SCHEMA features")
    run(
        empty, 'CREATE TABLE features.mapped (id text, at timestamp, known timestamptz, "T" float8)'
    )
    run(
        empty,
        "INSERT INTO features.mapped VALUES ('a', '2025-03-30', '2025-03-30 00:00Z', 20.5), "
        "('a', '2025-03-30', '2025-03-30 01:00Z', 21.5), ('a', '2025-03-30', NULL, -1)",
    )
    frame = entities(START, START + HOUR, machine_id=["a", "a"])
    job = empty.get_historical_features(frame, ["mapped:heat"], filter_by_created_timestamp=True)
    assert job.to_df()["heat"].tolist() == [20.5, 21.5]
    empty.materialize(START - HOUR, START, ["mapped"])
    online = empty.get_online_features(["mapped:heat"], [{"machine_id": "a"}]).to_dict()
    assert online["heat"] == [21.5]


def test_on_demand_features_are_computed_and_saved_with_the_rest(empty, monkeypatch):
    write(empty, "readings", ("a", 2.5, 2**60 + 1, START, START))
    frame = entities(START, START, machine_id=["a", "b"], limit=[1.0, 1.0])
    job = empty.get_historical_features(frame, ["readings:count", "overload:excess"])
    assert job.metadata.keys == ["machine_id", "limit"]
    assert job.metadata.min_event_timestamp == job.metadata.max_event_timestamp == START
    monkeypatch.setattr(postgres_join, "ROWS_STREAMED", 1)
    batches = list(job.to_arrow_batches(1))
    assert pa.Table.from_batches(batches).to_pylist() == job.to_arrow().to_pylist()
    assert len(batches) == 2
    assert not job.supports_remote_storage_export()
    monkeypatch.setattr(empty.config.offline_store, "staging_location", "staged")
    staged = empty.get_historical_features(frame, ["readings:count", "overload:excess"])
    exported = pa.concat_tables(map(pq.read_table, staged.to_remote_storage()))
    assert exported.to_pylist() == job.to_arrow().to_pylist()
    told = []
    with reporting(lambda *progress: told.append(progress)):
        job.to_arrow()
    assert told[0][1:] == (0, 2)
    assert told[-1][1:] == (2, 2)
    storage = SavedDatasetPostgreSQLStorage("datasets.first")
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="experimental"):
            dataset = empty.create_saved_dataset(job, "first", storage, allow_overwrite=True)
    saved = dataset._retrieval_job.to_arrow()
    assert saved["count"].to_pylist() == [2**60 + 1, None]
    assert saved["excess"].to_pylist() == [1.5, None]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)


def test_logs_of_served_features_are_written_and_read_again(empty):
    feature = "readings__load"
    destination = AsofPostgresLoggingDestination("datasets.logs")
    service = FeatureService(
        name="logged", features=[readings[["load"]]], logging_config=LoggingConfig(destination)
    )
    empty.apply(service)
    service = empty.get_feature_service("logged")
    source = FeatureServiceLoggingSource(service, empty.project)
    served = {
        "machine_id": "a", feature: 0.5, f"{feature}__timestamp": START, f"{feature}__status": 2,
        "__log_timestamp": START, "__log_date": START.date(), "__request_id": "one",
    }  # fmt: skip
    logs = pa.Table.from_pylist([served, served], schema=source.get_schema(empty.registry))
    for _ in range(2):
        empty.write_logged_features(logs, service)
    provider = empty._get_provider()
    read = provider.retrieve_feature_service_logs(
        service, START, START, empty.config, empty.registry
    ).to_arrow()
    assert read.select(sorted(served)).to_pylist() == [dict(sorted(served.items()))] * 4
    with pytest.raises(ConfigurationError, match="FileLoggingDestination; this store writes"):
        AsofPostgresOfflineStore.write_logged_features(
            empty.config, logs, source, LoggingConfig(FileLoggingDestination(path="x")),
            empty.registry,
        )  # fmt: skip


def test_what_arrow_nests_is_kept_as_json(empty):
    event = pa.array([START, START], INSTANT)
    nested = pa.table({
        "machine_id": ["a", "b"],
        "event": event,
        "profile": pa.array([{"name": "x", "age": 3}, None]),
        "tags": pa.array([[("k", "v")], []], pa.map_(pa.string(), pa.string())),
        "parts": pa.array([[{"n": 1}], []]),
    })  # fmt: skip
    types = {field.name: field.type for field in nested.schema}
    for _ in range(2):
        append(
            server_of(empty.config), "features.nested", nested, ["machine_id"], "event", None, types
        )
    found = rows_of(empty, "features.nested")
    assert [{k: json.loads(v or "0") for k, v in row.items() if k in ("profile", "tags", "parts")}
            for row in found] == [
        {"profile": {"name": "x", "age": 3}, "tags": {"k": "v"}, "parts": [{"n": 1}]},
        {"profile": 0, "tags": {}, "parts": []},
    ]  # fmt: skip


def test_no_names_of_features_mean_all_columns_and_no_keys_feasts_dummy_entity(empty):
    write(empty, "readings", ("a", 0.5, 7, START, START), ("b", 1.5, 8, START, START))
    times = ("event_timestamp", "created_timestamp", START - HOUR, START)
    for pull in (
        AsofPostgresOfflineStore.pull_latest_from_table_or_query,
        AsofPostgresOfflineStore.pull_all_from_table_or_query,
    ):
        found = pull(empty.config, table("readings"), ["machine_id"], [], *times).to_arrow()
        assert set(found.column_names) == set(SCHEMAS["readings"])
        assert found.num_rows == 2
        found = pull(empty.config, table("readings"), [], ["count"], *times).to_arrow()
        assert found[DUMMY_ENTITY_ID].to_pylist()[-1] == DUMMY_ENTITY_VAL
        assert found["count"].to_pylist()[-1] == 8


def test_the_newest_rows_come_in_the_order_of_their_keys(empty):
    machines = [f"m{number * 7 % 100:02}" for number in range(100)]
    write(empty, "readings", *((m, 1, 1, START, START) for m in machines))
    found = AsofPostgresOfflineStore.pull_latest_from_table_or_query(
        empty.config, table("readings"), ["machine_id"], ["count"], "event_timestamp",
        "created_timestamp", START, START,
    ).to_arrow()  # fmt: skip
    assert found["machine_id"].to_pylist() == sorted(machines)


@pytest.mark.parametrize("latest", [True, False])
def test_materialize_loads_the_newest_rows(empty, monkeypatch, latest):
    monkeypatch.setattr(empty.config.materialization_config, "pull_latest_features", latest)
    write(
        empty,
        "readings",
        ("a", 1, 1, START, START),
        ("b", 2, 2, START, START),
        ("a", 3, 3, START + HOUR, START + HOUR),
        ("a", 4, 2**60 + 4, START + HOUR, START + 2 * HOUR),
        ("a", 6, 6, START + 2 * HOUR + TICK, START),
        ("a", 7, 7, START - TICK, START),
        *([(None, 5, 5, START + HOUR, START)] if latest else []),  # Feast stumbles over a null key
    )
    write(empty, "parts", ("a", 1, 8, START, START), ("a", 2, 9, START, START))
    empty.materialize(START, START + 2 * HOUR, ["readings", "parts", "notes"])
    online = empty.get_online_features(
        REFERENCES,
        [{"machine_id": m, "slot": s} for m, s in (("a", 1), ("a", 2), ("b", 1))],
    ).to_dict()
    assert online["load"] == [4, 4, 2]
    assert online["count"] == [2**60 + 4, 2**60 + 4, 2]
    assert online["wear"] == [8, 9, None]


def test_pulled_times_are_in_utc(empty):
    write(empty, "readings", ("a", 1, 1, START, START))
    job = AsofPostgresOfflineStore.pull_all_from_table_or_query(
        empty.config, table("readings"), ["machine_id"], ["load"], "event_timestamp"
    )
    assert job.to_arrow().to_pylist() == [{"machine_id": "a", "load": 1, "event_timestamp": START}]
    assert job.to_arrow().schema.field("event_timestamp").type == INSTANT


def test_rows_whose_keys_or_times_are_null_are_written_once_too(empty):
    for _ in range(2):
        write(empty, "readings", ("a", 1, None, START, None), (None, 2, 2, START, START))
        write(empty, "readings", ("a", 3, 3, START, START))
    assert sorted(row["load"] for row in rows_of(empty, "features.readings")) == [1, 2, 3]


def test_writers_of_a_table_that_is_not_there_yet_wait_for_each_other(empty):
    with ThreadPoolExecutor(6) as writers:
        list(
            writers.map(lambda n: write(empty, "readings", (str(n), n, n, START, START)), range(6))
        )
    assert sorted(row["load"] for row in rows_of(empty, "features.readings")) == [*range(6)]


def test_a_fault_in_saving_is_told_as_it_is_and_saves_nothing(empty):
    write(empty, "readings", ("a", 1, 1, START, START))
    server = server_of(empty.config)

    def broken() -> Iterator[pa.RecordBatch]:
        yield rows("readings", ("b", 1, 1, START, START)).to_batches()[0]
        raise DataError("no such thing")

    with pytest.raises(DataError, match=r"^no such thing$"):
        save(server, "features.readings", broken(), overwrite=True)
    for column, values, fault in (
        ("x" * 64, [1], "PostgreSQL has 63 bytes"),
        ("big", pa.array([2**63], pa.uint64()), "is uint64, which PostgreSQL cannot hold"),
    ):
        with pytest.raises(DataError, match=fault):
            batches = pa.table({column: values}).to_batches()
            save(server, "features.readings", iter(batches), overwrite=True)
    assert [row["machine_id"] for row in rows_of(empty, "features.readings")] == ["a"]


def test_pushed_rows_are_appended_and_written_once(empty):
    write(empty, "readings")
    frame = rows("readings", ("a", 1, 1, START, START), ("a", 2, 2, START, START + HOUR))
    for _ in range(2):
        empty.push("pushed", frame.to_pandas(), to=PushMode.OFFLINE)
    assert [row["load"] for row in rows_of(empty, "features.readings")] == [1, 2]
    write(empty, "readings", ("a", 3, 3, START, START), ("a", 4, 4, START, START))
    assert [row["load"] for row in rows_of(empty, "features.readings")] == [2, 4]
    indexes = rows_of(empty, "(SELECT indexdef::text AS sql FROM pg_indexes "
                      "WHERE schemaname = 'features') AS i")  # fmt: skip
    assert len(indexes) == 1
    assert "machine_id, event_timestamp DESC, created_timestamp DESC NULLS LAST" in str(indexes)


def test_a_batch_that_does_not_fit_leaves_the_table_as_it_was(empty):
    write(empty, "readings", ("a", 1, 1, START, START))
    fitting = rows("readings", ("b", 1, 1, START, START))
    server = server_of(empty.config)
    types = SCHEMAS["readings"]
    keys = (["machine_id"], "event_timestamp", "created_timestamp")
    with pytest.raises(DataError, match=r"table features.readings have no column 'load'"):
        append(server, "features.readings", fitting.drop_columns("load"), *keys, types)
    wide = fitting.append_column("lod", pa.array([1.0]))
    with pytest.raises(DataError, match="has no column 'lod'; did you mean 'load'"):
        append(server, "features.readings", wide, *keys, types)
    broken = fitting.set_column(0, "machine_id", pa.array(["b\0"]))
    with pytest.raises(DataError, match=r"table features.readings in .*invalid byte"):
        append(server, "features.readings", broken, *keys, types)
    assert [row["machine_id"] for row in rows_of(empty, "features.readings")] == ["a"]


def test_what_the_store_cannot_answer_is_refused(empty):
    write(empty, "readings", ("a", 2.5, 1, START, START))
    with pytest.raises(InputError, match="entity_df is a list; pass a DataFrame, a query, or none"):
        empty.get_historical_features([{"machine_id": "a"}], ["readings:load"])
    with pytest.raises(InputError, match="no column 'machine_id', by which 'readings'"):
        empty.get_historical_features(entities(START, machine=["a"]), ["readings:load"])
    with pytest.raises(DataError, match=r"the query of 'entity_df' in .*syntax error"):
        empty.get_historical_features("SELEC 1", ["readings:load"])
    with pytest.raises(InputError, match="cannot be read: Time data soon is not ISO8601"):
        frame = pd.DataFrame({"event_timestamp": ["soon"], "machine_id": ["a"]})
        empty.get_historical_features(frame, ["readings:load"])
    with pytest.raises(DataError, match="bigint in the cut-offs"):
        empty.get_historical_features(entities(START, machine_id=[1]), ["readings:load"]).to_df()
    offline = AsofPostgresOfflineStore()
    with pytest.raises(ConfigurationError, match="this store reads PostgreSQLSource"):
        offline.validate_data_source(empty.config, limits)


def test_a_view_without_a_schema_is_inferred_from_the_table(empty):
    write(empty, "readings", ("a", 2.5, 1, START, START))
    columns = AsofPostgresOfflineStore().get_table_column_names_and_types_from_data_source(
        empty.config, table("readings")
    )
    assert dict(columns)["load"] == "real"
    with pytest.raises(DataError, match=r"there is no table features\.parts in .* yet"):
        AsofPostgresOfflineStore().get_table_column_names_and_types_from_data_source(
            empty.config, table("parts")
        )


def test_a_misspelt_option_of_the_store_is_refused():
    place = {"host": "localhost", "database": "plant", "user": "me"}
    assert AsofPostgresOfflineStoreConfig(**place).sslmode == "prefer"
    with pytest.raises(ValueError, match="sslmod"):
        AsofPostgresOfflineStoreConfig(**place, sslmod="require")
