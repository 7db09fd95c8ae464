"""What the service knows of Feast's layout is what Feast and protobuf say of it."""

from datetime import UTC, datetime, timedelta

import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.sqlite import _table_id
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from millwright.stores.online_layout import (
    KeyMaker,
    microseconds,
    redis_field,
    redis_time,
    sqlite_table,
    text,
)

NAME = st.text(min_size=1, max_size=60)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECONDS = st.integers(-62_135_596_800, 253_402_300_799)  # all that a Timestamp may say


@given(st.text(max_size=300), NAME)
@example("", "machine_id")
@example("é" * 200, "machine_id")
def test_keys_are_those_of_feast(machine: str, join_key: str) -> None:
    key = EntityKey(join_keys=[join_key], entity_values=[Value(string_val=machine)])
    wanted = serialize_entity_key(key, entity_key_serialization_version=3)
    assert KeyMaker(join_key).key(machine) == wanted


@given(NAME, NAME)
@example("plant_sensor_step", "heat_mean_1h")
def test_fields_of_redis_are_those_of_feast(view: str, feature: str) -> None:
    assert redis_field(view, feature) == _mmh3(f"{view}:{feature}")
    assert redis_time(view) == f"_ts:{view}".encode()


def test_tables_of_sqlite_are_those_of_feast() -> None:
    class View:
        name = "plant_sensor_step"

    assert sqlite_table("millwright", View.name) == _table_id("millwright", View(), False)


@given(st.text(max_size=400))
@example("x" * 127)
@example("x" * 128)
@example("x" * 20_000)
def test_texts_are_those_of_protobuf(content: str) -> None:
    assert text(Value(string_val=content).SerializeToString()) == content


def test_a_value_of_nothing_is_null_and_an_empty_text_is_one() -> None:
    assert text(Value().SerializeToString()) is None
    assert text(Value(string_val="").SerializeToString()) == ""


@pytest.mark.parametrize(
    "value",
    [Value(float_val=1), Value(int64_val=5), Value(bool_val=True), Value(bytes_val=b"x"),
     Value(double_val=0), Value(int32_val=0)],
    ids=lambda value: value.WhichOneof("val"),
)  # fmt: skip
def test_a_value_of_another_type_is_no_text(value: Value) -> None:
    with pytest.raises(ValueError, match="where text should be"):
        text(value.SerializeToString())


@given(SECONDS, st.integers(0, 999_999_999))
@example(0, 0)
@example(-1, 999_999_999)
@example(-1, 0)
@example(0, 1)
@example(2**31, 1000)
def test_times_are_those_of_protobuf(seconds: int, nanos: int) -> None:
    """A fraction of a microsecond is cut off, as `Timestamp` itself does."""
    message = Timestamp(seconds=seconds, nanos=nanos)
    assert microseconds(message.SerializeToString()) == message.ToMicroseconds()


@pytest.mark.parametrize(
    "bytes_",
    [b"\x08", b"\x08\xff", b"2026-01-01", b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x7f",
     Timestamp(seconds=1_760_000_000_000).SerializeToString(), b"\x08" + b"\xff" * 40 + b"\x01",
     Timestamp(seconds=253_402_300_800).SerializeToString(),
     Timestamp(seconds=-62_135_596_801).SerializeToString()],
)  # fmt: skip
def test_what_is_no_time_is_told(bytes_: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        microseconds(bytes_)


@given(st.text(max_size=300), NAME)
def test_a_key_says_whose_it_is(machine: str, join_key: str) -> None:
    maker = KeyMaker(join_key)
    key = maker.key(machine)
    assert maker.value(key) == machine
    assert maker.value(key + b"x") is None
    assert maker.value(key[: len(maker.key("")) - 1]) is None
    assert KeyMaker(f"{join_key}x").value(key) is None


def test_a_key_of_what_is_no_text_is_told() -> None:
    with pytest.raises(UnicodeDecodeError):
        KeyMaker("machine_id").value(KeyMaker("machine_id").key("ab")[:-2] + b"\xff\xfe")


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001
def test_times_come_back_to_the_microsecond(moment: datetime) -> None:
    message, aware = Timestamp(), moment.replace(tzinfo=UTC)
    message.FromDatetime(aware)
    assert microseconds(message.SerializeToString()) == (aware - EPOCH) // timedelta(microseconds=1)
