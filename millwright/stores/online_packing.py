"""Lists of byte strings in MessagePack, which scripts within Redis unpack by themselves.

https://github.com/msgpack/msgpack/blob/master/spec.md
"""

import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millwright.stores.online_values import Bytes, fixed, joined, lengths

SHORT = 31  # bytes of a string whose length fits into its head


def packed(columns: Sequence[Bytes]) -> Bytes:
    """Each row of `columns`, as a list."""
    rows = len(columns[0])
    parts: list[Bytes] = [pa.repeat(pa.scalar(_list_head(len(columns)), pa.binary()), rows)]
    for column in columns:
        parts += [_heads(column), column]
    return joined(parts)


def packed_row(strings: Sequence[bytes]) -> bytes:
    """One list."""
    row: bytes = packed([pa.array([string], pa.binary()) for string in strings])[0].as_py()
    return row


def _list_head(length: int) -> bytes:
    return bytes([0x90 | length]) if length < 16 else b"\xdd" + struct.pack(">I", length)


def _heads(column: Bytes) -> Bytes:
    found = lengths(column)
    if found.max(initial=0) <= SHORT:
        return fixed(found.astype(np.uint8) | 0xA0)
    head = np.empty(len(found), [("tag", "u1"), ("length", ">u4")])
    head["tag"], head["length"] = 0xDB, found
    return fixed(head)
