"""What Feast writes online, as bytes, a column at a time.

Feast makes a Python object of every value and then the bytes of each: most of what its
materialization takes. A scalar is a tag and a number on the wire
(https://protobuf.dev/programming-guides/encoding/), so whole columns are laid out by Arrow and
numpy here, byte for byte as Feast has them. A type without such a way goes through Feast.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import ValueType
from feast.infra.key_encoding_utils import _serialize_val
from feast.protos.feast.types.Value_pb2 import Value
from feast.protos.feast.types.Value_pb2 import ValueType as WireType
from feast.type_map import python_values_to_proto_values

from millwright.errors import InputError, first_line
from millwright.stores.online_layout import (
    BOOL,
    BYTES,
    DOUBLE,
    FLOAT,
    INT32,
    INT64,
    NANOS,
    SECONDS,
    STRING,
)

Bytes: TypeAlias = "pa.Array[Any]"  # of binary, without nulls


def values(column: "pa.Array[Any]", kind: ValueType) -> Bytes:
    """Each value as Feast's message `Value`, which is empty for null and for NaN."""
    encode = _ENCODERS.get(kind)
    found = encode(column) if encode else None
    if found is None:
        messages = _messages(column, kind)
        found = pa.array([message.SerializeToString() for message in messages], pa.binary())
    return found


def entity_keys(
    columns: Mapping[str, "pa.Array[Any]"], kinds: Mapping[str, ValueType], rows: int
) -> Bytes:
    """The keys of so many rows, as Feast's `serialize_entity_key` writes version 3.

    Raises:
        InputError: a key is null, not of its type, or of one that Feast makes no keys of.
    """
    names = sorted(columns)
    head = struct.pack("<I", len(names))
    for name in names:
        encoded = name.encode()
        head += struct.pack("<II", WireType.STRING, len(encoded)) + encoded
    parts: list[Any] = [pa.repeat(pa.scalar(head, pa.binary()), rows)]
    for name in names:
        parts += _key_parts(name, columns[name], kinds[name])
    return joined(parts)


def timestamps(microseconds: "np.ndarray[Any, Any]") -> Bytes:
    """Times since 1970 as protobuf's message `Timestamp`, which leaves out what is zero."""
    seconds, rest = np.divmod(microseconds, 1_000_000)
    return joined([_tagged(SECONDS, seconds, seconds != 0), _tagged(NANOS, rest * 1000, rest != 0)])


def joined(parts: list[Any]) -> Bytes:
    """The bytes of each row one after the other; a scalar stands for itself in every row."""
    found: Bytes = pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.binary()))
    return found


def lengths(content: Any) -> "np.ndarray[Any, Any]":
    """How many bytes each of them has."""
    found: np.ndarray[Any, Any] = pc.binary_length(content).to_numpy(zero_copy_only=False)
    return found


def fixed(numbers: "np.ndarray[Any, Any]") -> Bytes:
    """The bytes of each number as they are in memory."""
    return _laid_out(_own_bytes(numbers), np.full(len(numbers), numbers.itemsize))


def _floats(column: "pa.Array[Any]") -> "pa.Array[Any] | None":
    return _fixed_width(column, FLOAT, "<f4")


def _doubles(column: "pa.Array[Any]") -> "pa.Array[Any] | None":
    return _fixed_width(column, DOUBLE, "<f8")


def _fixed_width(column: "pa.Array[Any]", tag: int, dtype: str) -> "pa.Array[Any] | None":
    """A tag and a number for each value that is one."""
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return None
    numbers = _filled(column, 0)
    known = _known(column) & ~np.isnan(numbers)
    if numbers.dtype != dtype:
        with np.errstate(over="ignore"):  # it is infinite then, as protobuf makes it
            numbers = numbers.astype("<f8").astype(dtype)
    matrix = np.empty((len(numbers), 1 + numbers.itemsize), np.uint8)
    matrix[:, 0] = tag
    matrix[:, 1:] = _own_bytes(numbers)
    return _laid_out(matrix, np.where(known, matrix.shape[1], 0))


def _int32s(column: "pa.Array[Any]") -> "pa.Array[Any] | None":
    return _integers(column, INT32, pa.int32())


def _int64s(column: "pa.Array[Any]") -> "pa.Array[Any] | None":
    return _integers(column, INT64, pa.int64())


def _integers(column: "pa.Array[Any]", tag: int, kind: pa.DataType) -> "pa.Array[Any] | None":
    whole = _whole(column, kind)
    return None if whole is None else _tagged(tag, _filled(whole, 0), _known(column))


def _booleans(column: "pa.Array[Any]") -> "pa.Array[Any] | None":
    if not pa.types.is_boolean(column.type):
        return None
    return _tagged(BOOL, _filled(column.cast(pa.uint8()), 0), _known(column))


def _strings(column: "pa.Array[Any]") -> "pa.Array[Any] | None":
    return _sized(STRING, _text(column))


def _blobs(column: "pa.Array[Any]") -> "pa.Array[Any] | None":
    return _sized(BYTES, _binary(column))


def _sized(tag: int, content: "pa.Array[Any] | None") -> "pa.Array[Any] | None":
    """A tag, the length, and the bytes."""
    if content is None:
        return None
    known = _known(content)
    content = content.fill_null(b"")
    return joined([_tagged(tag, lengths(content), known), content])


_ENCODERS: dict[ValueType, Callable[["pa.Array[Any]"], "pa.Array[Any] | None"]] = {
    ValueType.FLOAT: _floats,
    ValueType.DOUBLE: _doubles,
    ValueType.INT32: _int32s,
    ValueType.INT64: _int64s,
    ValueType.BOOL: _booleans,
    ValueType.STRING: _strings,
    ValueType.BYTES: _blobs,
}


def _key_parts(name: str, column: "pa.Array[Any]", kind: ValueType) -> list[Any]:
    """The type, the length and the bytes of each value of one key."""
    if column.null_count:
        raise InputError(f"key '{name}' is null in some row; give each row a key")
    wire, content = _key_content(column, kind)
    if content is None:
        wire, content = _key_content_by_feast(name, column, kind)
    length = fixed(lengths(content).astype("<u4"))
    return [pa.scalar(struct.pack("<I", wire), pa.binary()), length, content]


def _key_content(column: "pa.Array[Any]", kind: ValueType) -> tuple[int, "pa.Array[Any] | None"]:
    match kind:
        case ValueType.STRING:
            return WireType.STRING, _text(column)
        case ValueType.BYTES:
            return WireType.BYTES, _binary(column)
        case ValueType.INT32:
            whole = _whole(column, pa.int32())
            return WireType.INT32, None if whole is None else fixed(_filled(whole, 0))
        case ValueType.INT64:
            whole = _whole(column, pa.int64())
            return WireType.INT64, None if whole is None else fixed(_filled(whole, 0))
    return WireType.INVALID, None


def _key_content_by_feast(
    name: str, column: "pa.Array[Any]", kind: ValueType
) -> tuple[int, "pa.Array[Any]"]:
    try:
        messages = _messages(column, kind)
    except (ValueError, TypeError) as err:
        raise InputError(
            f"key '{name}' is {kind.name}, and its column has {column.type}: {first_line(err)}; "
            "correct the entity or the rows"
        ) from err
    try:
        found = [_serialize_val(message.WhichOneof("val"), message) for message in messages]
    except ValueError as err:
        raise InputError(
            f"key '{name}' is {kind.name}, of which Feast makes no keys; make it text or a whole "
            "number"
        ) from err
    wire = found[0][1] if found else WireType.INVALID
    return wire, pa.array([content for content, _ in found], pa.binary())


def _messages(column: "pa.Array[Any]", kind: ValueType) -> list[Value]:
    """As Feast converts them, one by one."""
    found: list[Value] = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), kind)
    return found


def _text(column: "pa.Array[Any]") -> "pa.Array[Any] | None":
    return _plain(column, pa.types.is_string, pa.types.is_large_string)


def _binary(column: "pa.Array[Any]") -> "pa.Array[Any] | None":
    return _plain(column, pa.types.is_binary, pa.types.is_large_binary)


def _plain(column: Any, *kinds: Callable[[pa.DataType], bool]) -> "pa.Array[Any] | None":
    """The bytes of a column of one of `kinds`, or of a dictionary of such."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not any(is_one(column.type) for is_one in kinds):
        return None
    found: pa.Array[Any] = column.cast(pa.binary())
    return found


def _whole(column: "pa.Array[Any]", kind: pa.DataType) -> "pa.Array[Any] | None":
    """A column of whole numbers as `kind`, if they all fit."""
    if not pa.types.is_integer(column.type):
        return None
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        return None


def _tagged(
    tag: int, numbers: "np.ndarray[Any, Any]", known: "np.ndarray[Any, Any]"
) -> "pa.Array[Any]":
    """A tag and a varint where the number is `known`, and nothing elsewhere."""
    left = numbers.astype(np.int64).view(np.uint64)
    columns = [np.full(len(left), tag, np.uint8)]
    length = np.ones(len(left), np.int64)
    while True:
        rest = left >> np.uint64(7)
        more = rest != 0
        columns.append((left & np.uint64(0x7F)).astype(np.uint8) | (more.astype(np.uint8) << 7))
        length += (left != 0) if len(columns) > 2 else 1
        if not more.any():
            break
        left = rest
    return _laid_out(np.stack(columns, axis=1), np.where(known, length, 0))


def _laid_out(matrix: "np.ndarray[Any, Any]", sizes: "np.ndarray[Any, Any]") -> "pa.Array[Any]":
    """The first bytes of each row of `matrix`, as many as `sizes` says."""
    ends: Any = np.zeros(len(matrix) + 1, np.int32)
    np.cumsum(sizes, out=ends[1:])
    content: Any = matrix
    if ends[-1] < matrix.size:
        content = matrix[np.arange(matrix.shape[1]) < sizes[:, None]]
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(content)]
    return pa.Array.from_buffers(pa.binary(), len(sizes), buffers)


def _own_bytes(numbers: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(len(numbers), numbers.itemsize)


def _filled(column: "pa.Array[Any]", value: object) -> "np.ndarray[Any, Any]":
    """A column as numpy has it, with `value` for null."""
    found: np.ndarray[Any, Any] = column.fill_null(value).to_numpy(zero_copy_only=False)
    return found


def _known(column: "pa.Array[Any]") -> "np.ndarray[Any, Any]":
    found: np.ndarray[Any, Any] = column.is_valid().to_numpy(zero_copy_only=False)
    return found
