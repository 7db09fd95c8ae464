"""The offline store over S3's own protocol, against a server of it on this machine."""

import io
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import boto3
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.types import Float32, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from millwright.errors import BusyError, ConfigurationError, DataError, MillwrightError
from millwright.stores import object_storage, parquet_files, retrieval
from millwright.stores.asof import AsofDuckDBOfflineStore
from millwright.stores.places import S3Place

START = datetime(2025, 3, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECRET = "wJalrXUtnFEMI"  # noqa: S105
KEY = "AKIAEXAMPLE"
SCHEMA = pa.schema(
    [
        ("machine_id", pa.string()),
        ("event_timestamp", pa.timestamp("us", tz="UTC")),
        ("created_timestamp", pa.timestamp("us", tz="UTC")),
        ("load", pa.float32()),
    ]
)
CONFIGURATION = """
project: contract
provider: local
registry: {{registry_type: sql, path: "sqlite:///{folder}/registry.db", cache_ttl_seconds: 3600}}
online_store: {{type: sqlite, path: {folder}/online.db}}
offline_store: {{type: millwright.stores.asof.AsofDuckDBOfflineStore, threads: 2}}
materialization: {{pull_latest_features: true}}
entity_key_serialization_version: 3
"""
pytestmark = pytest.mark.filterwarnings("ignore:.*is an experimental feature:RuntimeWarning")

Meddle = Callable[[BaseHTTPRequestHandler], bool]


class Gate(ThreadingHTTPServer):
    """Passes every request on to the server behind it, unless `meddle` deals with it."""

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Gatekeeper)
        self.behind = behind
        self.meddle: Meddle = lambda _: False
        self.sent: list[tuple[str, int]] = []  # path and bytes of each answer to a GET

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Gatekeeper(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        if self.server.meddle(self):
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        behind = HTTPConnection(*self.server.behind)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        found = answer.read()
        behind.close()
        if self.command == "GET":
            self.server.sent.append((self.path, len(found)))
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    do_GET = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def answer(handler: BaseHTTPRequestHandler, status: int, code: str) -> bool:
    """Answer as S3 tells an error."""
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
    return True


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with Gate(server.get_host_and_port()) as gate:
        thread = threading.Thread(target=gate.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield gate
        gate.shutdown()
        thread.join()
    server.stop()


@pytest.fixture(scope="module")
def variables(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    nowhere = str(tmp_path_factory.mktemp("aws") / "none")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": gate.url,
            "AWS_CONFIG_FILE": nowhere,
            "AWS_SHARED_CREDENTIALS_FILE": nowhere,
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        yield patch


@pytest.fixture(scope="module")
def s3(variables: pytest.MonkeyPatch) -> object:
    client = boto3.client("s3")
    client.create_bucket(Bucket="plant")
    return client


@pytest.fixture
def bucket(s3, gate) -> Iterator[object]:
    """An empty bucket `plant`."""
    yield s3
    gate.meddle = lambda _: False
    clear(s3)


def clear(s3: object) -> None:
    for entry in s3.list_objects_v2(Bucket="plant").get("Contents", ()):
        s3.delete_object(Bucket="plant", Key=entry["Key"])


machine = Entity(name="machine", join_keys=["machine_id"], value_type=ValueType.STRING)


def source(path: str, **changes: object) -> FileSource:
    parts = {
        "name": f"{path} source",
        "path": path,
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": "created_timestamp",
    }
    return FileSource(**parts | changes)


def view(name: str, **changes: object) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[machine],
        ttl=3 * HOUR,
        schema=[Field(name="machine_id", dtype=String), Field(name="load", dtype=Float32)],
        source=source(**changes),
    )


@pytest.fixture(scope="module")
def store(s3, gate, tmp_path_factory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "feature_store.yaml").write_text(CONFIGURATION.format(folder=folder))
    store = FeatureStore(repo_path=str(folder))
    store.apply(
        [
            machine,
            view("far", path="s3://plant/deep/readings"),
            view("near", path="readings"),
            view("file", path="s3://plant/one.parquet"),
            view("named", path="s3://plant/deep/readings/", s3_endpoint_override=gate.url),
        ]
    )
    return store


def parquet(*rows: tuple, schema: pa.Schema = SCHEMA, **options: object) -> bytes:
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in schema]
    file = BytesIO()
    pq.write_table(pa.table(columns, schema=schema), file, **options)
    return file.getvalue()


def put(s3: object, key: str, *rows: tuple, **options: object) -> None:
    s3.put_object(Bucket="plant", Key=key, Body=parquet(*rows, **options))


def entities(*asked: tuple[str | None, datetime]) -> pd.DataFrame:
    machines, times = zip(*asked, strict=True)
    return pd.DataFrame(
        {
            "event_timestamp": pd.to_datetime(list(times), utc=True),
            "machine_id": np.array(machines, dtype=object),
        }
    )


def loads(store: FeatureStore, name: str, *asked: tuple, as_known: bool = True) -> list:
    job = store.get_historical_features(
        entities(*asked), [f"{name}:load"], filter_by_created_timestamp=as_known
    )
    return job.to_arrow()["load"].to_pylist()


hours = st.integers(0, 5).map(lambda number: START + number * HOUR)
machines = st.sampled_from(["a", "b", None])
NAMES = ["year=2025/a.parquet", "a.parquet", "year=2025.x/z.parquet", "B.parquet"]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    files=st.dictionaries(
        st.sampled_from(NAMES),
        st.lists(st.tuples(machines, hours, hours | st.none()), max_size=5),
    ),
    asked=st.lists(st.tuples(machines, hours), min_size=1, max_size=5),
)
def test_a_bucket_answers_what_a_folder_does(store, s3, files, asked, tmp_path_factory):
    clear(s3)
    number = 0
    for path in (store.repo_path / "readings").rglob("*.parquet"):
        path.unlink()
    for name, rows in files.items():
        numbered = []
        for row in rows:
            number += 1
            numbered.append((*row, number))
        put(s3, f"deep/readings/{name}", *numbered)
        path = store.repo_path / "readings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(parquet(*numbered))
    for as_known in (True, False):
        far, near = (loads(store, name, *asked, as_known=as_known) for name in ("far", "near"))
        assert far == near
    latest = [
        AsofDuckDBOfflineStore.pull_latest_from_table_or_query(
            store.config, store.get_feature_view(name).batch_source, ["machine_id"], ["load"],
            "event_timestamp", "created_timestamp", START, START + 3 * HOUR,
        ).to_arrow()
        for name in ("far", "near")
    ]  # fmt: skip
    assert latest[0].sort_by("machine_id") == latest[1].sort_by("machine_id")
    everything = [
        AsofDuckDBOfflineStore.pull_all_from_table_or_query(
            store.config, store.get_feature_view(name).batch_source, ["machine_id"], ["load"],
            "event_timestamp", "created_timestamp",
        ).to_arrow()
        for name in ("far", "near")
    ]  # fmt: skip
    assert everything[0] == everything[1]


def test_a_single_file_is_a_table(store, bucket):
    put(bucket, "one.parquet", ("a", START, START, 1))
    put(bucket, "one.parquet.parquet", ("a", START, START, 2))
    assert loads(store, "file", ("a", START), ("b", START)) == [1, None]


def test_only_what_is_in_the_folder_and_finished_is_read(store, bucket):
    put(bucket, "deep/readings/a.parquet", ("a", START, START, 1))
    for other in ("deep/readings2/a.parquet", "deep/readings.parquet", "deep/readings/.b.parquet",
                  "deep/readings/_draft/c.parquet"):  # fmt: skip
        put(bucket, other, ("a", START + HOUR, START + HOUR, 2))
    bucket.put_object(Bucket="plant", Key="deep/readings/notes.txt", Body=b"")
    assert loads(store, "far", ("a", START + HOUR)) == [1]


@pytest.mark.parametrize("name", ["[ab]*'?.parquet", "ü {x} %20 + &.parquet", "a#b;c.parquet"])
def test_names_of_any_characters_mean_themselves(store, bucket, name):
    put(bucket, f"deep/readings/{name}", ("a", START, START, 1))
    assert loads(store, "far", ("a", START)) == [1]


def test_a_folder_of_more_than_a_page_is_read_whole(bucket, monkeypatch, gate):
    def three_at_once(handler: BaseHTTPRequestHandler) -> bool:
        if "list-type" in handler.path and "max-keys" not in handler.path:
            handler.path += "&max-keys=3"
        return False

    gate.meddle = three_at_once
    for number in range(7):
        put(bucket, f"deep/readings/{number}.parquet", ("a", START, START, number))
    files = object_storage.find(S3Place("s3://plant/deep/readings"))
    with parquet_files.connect() as connection:
        rows = parquet_files.read(connection, files, ["load"], "event_timestamp")
    assert rows["load"].to_pylist() == list(range(7))


def test_nothing_there_yet_is_a_table_without_rows_but_a_missing_file_is_not(store, bucket):
    assert loads(store, "far", ("a", START)) == [None]
    with pytest.raises(DataError, match=r"there is no file s3://plant/one.parquet; write it"):
        loads(store, "file", ("a", START))


def test_columns_are_those_of_the_files(store, bucket):
    put(bucket, "deep/readings/machine=x/a.parquet", ("a", START, START, 1))
    columns = AsofDuckDBOfflineStore().get_table_column_names_and_types_from_data_source(
        store.config, source("s3://plant/deep/readings")
    )
    assert list(columns) == [(field.name, str(field.type)) for field in SCHEMA]


def test_the_newest_rows_go_online(store, bucket):
    put(bucket, "deep/readings/day=1/a.parquet", ("a", START, START, 1), ("b", START, START, 2))
    put(bucket, "deep/readings/day=2/a.parquet", ("a", START + HOUR, START + HOUR, 3))
    store.materialize(START, START + HOUR, ["far"])
    online = store.get_online_features(
        ["far:load"], [{"machine_id": each} for each in ("a", "b", "c")]
    ).to_dict()
    assert online["load"] == [3, 2, None]


@pytest.mark.parametrize("place", ["s3://plant/sets/first.parquet", "s3://plant/sets/second/"])
def test_a_dataset_is_saved_and_read_again(store, bucket, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(bucket, "deep/readings/a.parquet", ("a", START, START, 1))
    job = store.get_historical_features(entities(("a", START), ("b", START)), ["far:load"])
    storage = SavedDatasetFileStorage(path=place)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="experimental"):
            dataset = store.create_saved_dataset(job, "saved", storage, allow_overwrite=True)
    assert dataset.to_df()["load"].fillna(-1).tolist() == [1, -1]
    with pytest.raises(SavedDatasetLocationAlreadyExists, match=place):
        job.persist(storage)
    found = bucket.list_objects_v2(Bucket="plant", Prefix="sets/")["Contents"]
    expected = "sets/first.parquet" if place.endswith("t") else "sets/second/part.parquet"
    assert [entry["Key"] for entry in found] == [expected]
    assert list(tmp_path.iterdir()) == []


def test_rows_are_appended_to_a_bucket_once(store, bucket):
    far = store.get_feature_view("far")
    put(bucket, "deep/readings/a.parquet", ("a", START, START, 1))
    put(bucket, "one.parquet", ("a", START, START, 1))
    for number in (2, 3, 2):
        row = dict(zip(SCHEMA.names, ("a", START, START, number), strict=True))
        rows = pa.Table.from_pylist([row], schema=SCHEMA)
        for view in (far, store.get_feature_view("file")):
            AsofDuckDBOfflineStore.offline_write_batch(store.config, view, rows, None)
    assert loads(store, "far", ("a", START)) == [3]
    assert loads(store, "file", ("a", START)) == [2]
    found = bucket.list_objects_v2(Bucket="plant", Prefix="deep/readings/rows-")["Contents"]
    assert [entry["Key"][14:25] for entry in found] == ["rows-000001", "rows-000002"]


@pytest.mark.parametrize("there", [True, False])
def test_a_single_file_that_somebody_else_wrote_meanwhile_is_not_overwritten(s3, bucket, there):
    if there:
        put(bucket, "one.parquet", ("a", START, START, 1))

    def meddled(files: object) -> list[pa.RecordBatch]:
        assert bool(files) == there
        put(bucket, "one.parquet", ("a", START, START, 2))
        return pa.table({"load": [3.0]}).to_batches()

    with pytest.raises(BusyError, match=r"s3://plant/one.parquet changed"):
        object_storage.rewrite(meddled, S3Place("s3://plant/one.parquet"))
    there = bucket.get_object(Bucket="plant", Key="one.parquet")["Body"].read()
    assert pq.read_table(io.BytesIO(there))["load"].to_pylist() == [2]


def test_a_result_is_exported_to_a_bucket_as_parts_or_not_at_all(store, bucket, monkeypatch):
    put(bucket, "deep/readings/a.parquet", ("a", START, START, 1))
    monkeypatch.setattr(store.config.offline_store, "staging_location", "s3://plant/out/")
    monkeypatch.setattr(retrieval, "ROWS_AT_ONCE", 1)
    job = store.get_historical_features(entities(("a", START), ("b", START)), ["far:load"])
    urls = job.to_remote_storage()
    parts = [
        bucket.get_object(Bucket="plant", Key=url.removeprefix("s3://plant/"))["Body"].read()
        for url in urls
    ]
    assert [pq.read_table(io.BytesIO(part))["load"].to_pylist() for part in parts] == [[1], [None]]
    written = object_storage.write_parquet
    batches = iter([None, ZeroDivisionError])

    def failing(*rest: object) -> None:
        if error := next(batches):
            raise error
        written(*rest)

    monkeypatch.setattr(object_storage, "write_parquet", failing)
    with pytest.raises(ZeroDivisionError):
        job.to_remote_storage()
    assert len(bucket.list_objects_v2(Bucket="plant", Prefix="out/")["Contents"]) == 2


def test_the_endpoint_of_a_source_goes_before_that_of_the_variables(store, bucket, monkeypatch):
    put(bucket, "deep/readings/a.parquet", ("a", START, START, 1))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    assert loads(store, "named", ("a", START)) == [1]
    with pytest.raises(MillwrightError, match=f"s3://plant/deep/readings at http.*:{port}"):
        loads(store, "far", ("a", START))


def test_only_the_columns_that_are_asked_for_are_sent(store, bucket, gate):
    names = [f"wide_{number}" for number in range(40)]
    schema = pa.schema([*SCHEMA, *((name, pa.float64()) for name in names)])
    random = np.random.default_rng(7)
    rows = 60_000
    table = pa.table(
        {
            "machine_id": random.choice(["a", "b"], rows),
            "event_timestamp": pa.array([START] * rows, SCHEMA.field(1).type),
            "created_timestamp": pa.array([START] * rows, SCHEMA.field(1).type),
            "load": random.random(rows, dtype="float32"),
            **{name: random.random(rows) for name in names},
        },
        schema=schema,
    )
    file = BytesIO()
    pq.write_table(table, file, row_group_size=20_000)
    size = len(file.getvalue())
    bucket.put_object(Bucket="plant", Key="deep/readings/a.parquet", Body=file.getvalue())
    gate.sent.clear()
    assert loads(store, "far", ("a", START)) != [None]
    sent = [count for path, count in gate.sent if path.startswith("/plant/deep")]
    assert size > 15_000_000
    assert sum(sent) < size / 8, sent


@pytest.mark.parametrize("change", ["written", "deleted"])
def test_files_that_change_while_they_are_read_are_refused(bucket, change):
    key = "deep/readings/a.parquet"
    put(bucket, key, ("a", START, START, 1))
    files = object_storage.find(S3Place("s3://plant/deep/readings"))
    if change == "written":
        put(bucket, key, ("a", START, START, 2))
    else:
        bucket.delete_object(Bucket="plant", Key=key)
    with (
        parquet_files.connect() as connection,
        pytest.raises(BusyError, match="s3://plant/deep/readings changed while it was being read"),
    ):
        parquet_files.read(connection, files, ["load"], "event_timestamp")


def test_what_is_no_parquet_is_named_as_it_is_called(store, bucket):
    bucket.put_object(Bucket="plant", Key="deep/readings/a.parquet", Body=b"no parquet" * 9)
    with pytest.raises(DataError, match=r"s3://plant/deep/readings.*'s3://plant/deep/readings/a"):
        loads(store, "far", ("a", START))


def test_an_answer_that_breaks_off_is_asked_for_again(store, bucket, gate):
    put(bucket, "deep/readings/a.parquet", ("a", START, START, 1))
    broken = []

    def cut(handler: BaseHTTPRequestHandler) -> bool:
        if "Range" not in handler.headers or len(broken) == 2:
            return False
        broken.append(handler.path)
        handler.send_response(206)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"half")
        return True

    gate.meddle = cut
    assert loads(store, "far", ("a", START)) == [1]
    assert len(broken) == 2


def test_a_server_without_ranges_is_refused(store, bucket, gate):
    put(bucket, "deep/readings/a.parquet", *[("a", START, START, n) for n in range(120_000)])

    def whole(handler: BaseHTTPRequestHandler) -> bool:
        del handler.headers["Range"]
        return False

    gate.meddle = whole
    with pytest.raises(MillwrightError, match="it must answer requests for a range"):
        loads(store, "far", ("a", START))


def test_a_missing_bucket_is_named(s3):
    with pytest.raises(ConfigurationError, match="no bucket 'palnt' for s3://palnt/x at http"):
        object_storage.find(S3Place("s3://palnt/x"))


@pytest.mark.parametrize("what", ["find", "exists", "write"])
def test_missing_credentials_say_what_to_set(s3, monkeypatch, what):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    words = {"write": (pa.table({"a": [1]}).to_batches(),)}.get(what, ())
    with pytest.raises(ConfigurationError, match=r"s3://plant/x at .*; set AWS_ACCESS_KEY_ID"):
        getattr(object_storage, what)(*words, S3Place("s3://plant/x"))


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (403, "InvalidAccessKeyId", ConfigurationError, r"refuses \(InvalidAccessKeyId\); check"),
        (403, "AccessDenied", ConfigurationError, r"refuses \(AccessDenied\)"),
        (400, "AuthorizationHeaderMalformed", ConfigurationError, "set AWS_REGION"),
        (503, "SlowDown", MillwrightError, r"in trouble \(SlowDown\)"),
    ],
)  # fmt: skip
def test_what_the_storage_refuses_is_told_without_secrets(
    bucket, gate, status, code, kind, message
):
    gate.meddle = lambda handler: answer(handler, status, code)
    with pytest.raises(kind, match=message) as caught:
        object_storage.find(S3Place("s3://plant/x"))
    assert str(caught.value).startswith(f"s3://plant/x at {gate.url} ")
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)
    assert type(caught.value) is kind


def test_an_endpoint_that_hangs_is_told_within_ten_seconds(s3):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = S3Place("s3://plant/x", f"http://me:{SECRET}@127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(MillwrightError, match="cannot reach s3://plant/x at http") as caught:
            object_storage.find(place)
    assert time.monotonic() - begin < 10
    assert SECRET not in str(caught.value)
    assert "AWS_ENDPOINT_URL" in str(caught.value)


@pytest.mark.parametrize(
    "place", [S3Place("s3://"), S3Place("s3://p!/x"), S3Place("s3://plant/x", "no")]
)
def test_a_place_that_is_none_is_refused(s3, place):
    with pytest.raises(ConfigurationError, match=r"cannot use s3://.*check the name"):
        object_storage.find(place)


def test_a_local_folder_asks_no_storage(store, bucket, gate, monkeypatch, tmp_path):
    path = Path(store.repo_path) / "readings" / "only.parquet"
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    path.write_bytes(parquet(("a", START + 5 * HOUR, START, 1)))
    gate.sent.clear()
    assert loads(store, "near", ("a", START + 5 * HOUR)) == [1]
    assert gate.sent == []
    assert "read_parquet(['/" in parquet_files.find(path).sql
