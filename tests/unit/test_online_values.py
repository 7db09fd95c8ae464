"""The bytes that go online are those that Feast makes, for every type, null and extreme."""

import struct
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from feast import ValueType
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from millwright.errors import InputError
from millwright.stores import online_values
from millwright.stores.parquet_files import EPOCH

INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
EXACT = st.integers(-(2**53), 2**53)  # Feast reads whole numbers beside a null as doubles
UNUSUAL = [0.0, -0.0, 1e300, -1e39, 1e-46, 3.4028235677973366e38, 0.1, float("inf"), float("nan")]
DOUBLES = st.sampled_from(UNUSUAL) | st.floats()
TEXT = st.text(max_size=200)
MOMENTS = st.integers(-(2**52), 2**52).map(lambda us: EPOCH + timedelta(microseconds=us))

# Each type of Feast with the types of Arrow that it is read from, and their values.
COLUMNS = [
    (ValueType.FLOAT, pa.float32(), st.floats(width=32)),
    (ValueType.FLOAT, pa.float64(), DOUBLES),
    (ValueType.FLOAT, pa.int64(), EXACT),
    (ValueType.FLOAT, pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    (ValueType.DOUBLE, pa.float64(), DOUBLES),
    (ValueType.DOUBLE, pa.int64(), EXACT),
    (ValueType.INT32, pa.int32(), INT32),
    (ValueType.INT32, pa.int64(), INT32),
    (ValueType.INT32, pa.uint8(), st.integers(0, 255)),
    (ValueType.INT64, pa.int64(), EXACT),
    (ValueType.INT64, pa.int32(), INT32),
    (ValueType.INT64, pa.uint64(), st.integers(0, 2**53)),
    (ValueType.INT64, pa.float64(), st.floats(-1e15, 1e15)),
    (ValueType.BOOL, pa.bool_(), st.booleans()),
    (ValueType.STRING, pa.string(), TEXT),
    (ValueType.STRING, pa.large_string(), TEXT),
    (ValueType.STRING, pa.dictionary(pa.int32(), pa.string()), TEXT),
    (ValueType.STRING, pa.int64(), EXACT),
    # Feast makes null of empty ones, where a batch begins with them.
    (ValueType.BYTES, pa.binary(), st.binary(min_size=1, max_size=200)),
    (ValueType.UNIX_TIMESTAMP, pa.timestamp("us", tz="UTC"), MOMENTS),
    (ValueType.FLOAT_LIST, pa.list_(pa.float32()), st.lists(st.floats(width=32), max_size=3)),
    (ValueType.STRING_LIST, pa.list_(pa.string()), st.lists(TEXT, max_size=3)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "arrow", "content"), COLUMNS)
@given(data=st.data())
def test_values_are_what_feast_writes(kind, arrow, content, data):
    column = pa.array(data.draw(st.lists(st.none() | content, max_size=6)), arrow)
    messages = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), kind)
    expected = [message.SerializeToString() for message in messages]
    assert online_values.values(column, kind).to_pylist() == expected


@given(st.lists(st.none() | INT64))
def test_a_whole_number_beside_a_null_keeps_its_last_digit(numbers):
    written = online_values.values(pa.array(numbers, pa.int64()), ValueType.INT64).to_pylist()
    read = [Value.FromString(value) for value in written]
    assert [v.int64_val if v.HasField("int64_val") else None for v in read] == numbers


def test_a_column_that_is_a_part_of_another_is_written_alone():
    column = pa.array(["a", "b", None, "d"])[1:]
    written = online_values.values(column, ValueType.STRING).to_pylist()
    assert written == [b"\x12\x01b", b"", b"\x12\x01d"]
    numbers = pa.array([1.0, 2.0, None], pa.float32())[1:]
    written = [b"\x35" + struct.pack("<f", 2.0), b""]
    assert online_values.values(numbers, ValueType.FLOAT).to_pylist() == written


KEYS = {
    "site": (ValueType.STRING, pa.string(), TEXT, "string_val"),
    "machine_id": (ValueType.INT64, pa.int64(), INT64, "int64_val"),
    "Line": (ValueType.INT32, pa.int64(), INT32, "int32_val"),
    "badge": (ValueType.BYTES, pa.binary(), st.binary(max_size=20), "bytes_val"),
}


@given(st.data(), st.lists(st.sampled_from(sorted(KEYS)), unique=True))
def test_entity_keys_are_what_feast_writes(data, names):
    rows = data.draw(
        st.lists(st.fixed_dictionaries({name: KEYS[name][2] for name in names}), min_size=1)
    )
    columns = {name: pa.array([row[name] for row in rows], KEYS[name][1]) for name in names}
    kinds = {name: KEYS[name][0] for name in names}
    expected = [
        serialize_entity_key(
            EntityKey(
                join_keys=names,
                entity_values=[Value(**{KEYS[name][3]: row[name]}) for name in names],
            ),
            entity_key_serialization_version=3,
        )
        for row in rows
    ]
    written = online_values.entity_keys(columns, kinds, len(rows)).to_pylist()
    assert written == expected


def test_a_text_key_whose_column_holds_numbers_is_their_text():
    kinds = {"machine_id": ValueType.STRING}
    number = online_values.entity_keys({"machine_id": pa.array([7])}, kinds, 1)
    assert number == online_values.entity_keys({"machine_id": pa.array(["7"])}, kinds, 1)


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        (pa.array(["a", None]), ValueType.STRING, "key 'machine_id' is null in some row"),
        (pa.array([0.5]), ValueType.DOUBLE, "key 'machine_id' is DOUBLE, of which Feast makes no"),
        (pa.array([2**40]), ValueType.INT32, "key 'machine_id' is INT32, and its column has int64"),
    ],
)
def test_what_can_be_no_key_is_named(column, kind, message):
    with pytest.raises(InputError, match=message):
        online_values.entity_keys({"machine_id": column}, {"machine_id": kind}, len(column))


@given(st.lists(st.integers(-(2**55), 2**55)))
@example([0, 1, -1, 1_000_000, -1_000_000, 999_999, 1_700_000_000_000_000])
def test_times_are_what_feast_writes(times):
    expected = [
        Timestamp(seconds=t // 1_000_000, nanos=t % 1_000_000 * 1000).SerializeToString()
        for t in times
    ]
    assert online_values.timestamps(np.array(times, np.int64)).to_pylist() == expected
