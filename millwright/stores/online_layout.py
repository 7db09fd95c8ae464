"""How features lie in Feast's online stores, for a reader that does without Feast.

A service has two milliseconds to answer and one second to start, and Feast takes more of both than
it may. What is here are the facts alone, of version 3 of Feast's keys: the bytes of an entity key,
of a `Value` and of a `Timestamp` (https://protobuf.dev/programming-guides/encoding/).
"""

import struct

import mmh3

# A field's number and the kind of what follows, in one byte.
BYTES, STRING, INT32, INT64, DOUBLE, FLOAT, BOOL = 0x0A, 0x12, 0x18, 0x20, 0x29, 0x35, 0x38
SECONDS, NANOS = 0x08, 0x10  # of a Timestamp
_TEXT = 2  # Feast's number for the type of a key that is text
# What a Timestamp may say, years 1 to 9999, in microseconds since 1970.
EARLIEST, LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999


class KeyMaker:
    """Makes the entity keys of one join key that is text."""

    def __init__(self, join_key: str) -> None:
        name = join_key.encode()
        self._head = struct.pack("<III", 1, _TEXT, len(name)) + name + struct.pack("<I", _TEXT)

    def key(self, value: str) -> bytes:
        """What Feast's `serialize_entity_key` makes of it."""
        text = value.encode()
        return self._head + len(text).to_bytes(4, "little") + text

    def value(self, key: bytes) -> str | None:
        """What `key` makes that key of; None if it is another join key's, or none at all.

        Raises:
            UnicodeDecodeError: that is no text.
        """
        start = len(self._head) + 4
        length = int.from_bytes(key[start - 4 : start], "little")
        if not key.startswith(self._head) or len(key) != start + length:
            return None
        return key[start:].decode()


def redis_field(view: str, feature: str) -> bytes:
    """The field of a feature in the hash of a key."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def redis_time(view: str) -> bytes:
    """The field that says of when the row of a view is."""
    return f"_ts:{view}".encode()


def sqlite_table(project: str, view: str) -> str:
    """The table of a view."""
    return f"{project}_{view}"


def text(value: bytes) -> str | None:
    """What a `Value` of text holds; an empty one is null.

    Raises:
        ValueError: it is of another type.
    """
    if not value:
        return None
    if value[0] != STRING:
        raise ValueError(f"type {value[0] >> 3} where text should be")
    length, start = _varint(value, 1)
    return value[start : start + length].decode()


def microseconds(timestamp: bytes) -> int:
    """A `Timestamp` in microseconds since 1970.

    Raises:
        ValueError: it is none, or of a time that it may not say.
        IndexError: it is cut off.
    """
    seconds = nanos = place = 0
    while place < len(timestamp):
        tag = timestamp[place]
        number, place = _varint(timestamp, place + 1)
        if number >= 1 << 63:  # negative numbers are written as if they had 64 bits and no sign
            number -= 1 << 64
        if tag == SECONDS:
            seconds = number
        elif tag == NANOS:
            nanos = number
        else:
            raise ValueError(f"field {tag >> 3} where a time should be")
    found = seconds * 1_000_000 + nanos // 1000
    if not EARLIEST <= found <= LATEST:
        raise ValueError(f"a time {seconds} s from 1970, which is in no year from 1 to 9999")
    return found


def _varint(content: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
