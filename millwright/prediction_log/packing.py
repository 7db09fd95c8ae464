"""Records as bytes: framed by length and checksum, so that a torn end is told from a whole record.

    frame   length of the body, CRC-32 of the body (little-endian, 4 bytes each), body
    body    kind (1 byte), how many it counts for (4 bytes), then JSON; of a batch the length of
            that (4 bytes), JSON, and the arrays

A frame is made on the path of a request, so this is numpy and the standard library alone.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from millwright.prediction_log.records import Layout, Loss, Outcome, ScoredBatch

Kind = Literal[0, 1, 2, 3]
LAYOUT: Kind = 0
BATCH: Kind = 1
OUTCOMES: Kind = 2
LOSS: Kind = 3

_FRAME = struct.Struct("<II")
_BODY = struct.Struct("<BI")
_LENGTH = struct.Struct("<I")
_TIME, _NUMBER, _FEATURE = np.dtype("<i8"), np.dtype("<f8"), np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class Record:
    """One frame, and of how many answers or outcomes it is.

    `layout` is the number of the layout that must be known to read it, `preface` the frame of that.
    """

    frame: bytes
    counted: int
    layout: int | None = None
    preface: bytes = b""


@dataclass(frozen=True)
class Batch:
    """A batch as it comes out of a frame, with the number of its layout."""

    layout: int
    scored: ScoredBatch


@dataclass(frozen=True)
class Reported:
    """Outcomes, and when they were reported (microseconds since 1970 UTC)."""

    at: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Unreadable:
    """What could not be read of the bytes of a segment, which is no torn end."""

    position: int
    size: int


def pack_batch(batch: ScoredBatch) -> Record:
    """The frame of a batch.

    Raises:
        ValueError: a part of it is not of n rows.
    """
    rows = len(batch.ids)
    if not len(batch.machines) == len(batch.statuses) == rows:
        raise ValueError("a batch must have as many machines and statuses as ids")
    number, preface = _layout(batch.columns, batch.views)
    head = json.dumps(
        [
            batch.release, batch.role, batch.feature_service, batch.source, batch.threshold,
            number, list(batch.ids), list(batch.machines), list(batch.statuses),
        ]
    ).encode()  # fmt: skip
    body = b"".join(
        (
            _BODY.pack(BATCH, rows),
            _LENGTH.pack(len(head)),
            head,
            _bytes(batch.asked_at, _TIME, rows),
            _bytes(batch.as_of, _TIME, rows),
            _bytes(batch.latency, _NUMBER, rows),
            _bytes(batch.probabilities, _NUMBER, rows),
            _bytes(batch.events, _TIME, rows * len(batch.views)),
            _bytes(batch.matrix, _FEATURE, rows * len(batch.columns)),
        )
    )
    return Record(_framed(body), rows, number, preface)


def pack_outcomes(outcomes: Sequence[Outcome], at: int) -> Record:
    """The frame of what was reported at `at` (microseconds since 1970 UTC)."""
    told = {"at": at, "outcomes": [asdict(outcome) for outcome in outcomes]}
    return Record(_framed(_json(OUTCOMES, len(outcomes), told)), len(outcomes))


def pack_loss(loss: Loss) -> Record:
    """The frame of a loss."""
    return Record(_framed(_json(LOSS, 0, asdict(loss))), 0)


def unpack(data: bytes) -> Iterator[Batch | Reported | Loss | Unreadable]:
    """The records in the bytes of a segment, in order; an unfinished one at the end is left out.

    From the first frame that is whole and yet wrong nothing more is read: it is `Unreadable`.
    """
    layouts: dict[int, Layout] = {}
    for body in _bodies(data):
        if isinstance(body, Unreadable):
            yield body
            return
        kind, rows = _BODY.unpack_from(body)
        if kind == BATCH:
            yield _batch(body, rows, layouts)
            continue
        told = json.loads(bytes(body[_BODY.size :]))
        if kind == LAYOUT:
            layouts[told["number"]] = Layout(tuple(told["columns"]), tuple(told["views"]))
        elif kind == OUTCOMES:
            yield Reported(told["at"], tuple(Outcome(**each) for each in told["outcomes"]))
        elif kind == LOSS:
            yield Loss(**told)
        else:
            raise ValueError(f"a record of kind {kind}, which this version does not know")


def count(data: bytes) -> int:
    """How many answers and outcomes are in the bytes of a segment."""
    found = 0
    for body in _bodies(data):
        if isinstance(body, Unreadable):
            break
        kind, rows = _BODY.unpack_from(body)
        found += rows if kind in (BATCH, OUTCOMES) else 0
    return found


def _bodies(data: bytes) -> Iterator[memoryview | Unreadable]:
    view, position = memoryview(data), 0
    while position + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, position)
        start = position + _FRAME.size
        if start + length > len(data):
            return  # torn: nobody was given an answer of it
        body = view[start : start + length]
        if length < _BODY.size or zlib.crc32(body) != checksum:
            yield Unreadable(position, len(data) - position)
            return
        yield body
        position = start + length


@lru_cache(maxsize=64)
def _layout(columns: tuple[str, ...], views: tuple[str, ...]) -> tuple[int, bytes]:
    """The number of a layout, which follows from its names, and the frame that tells it."""
    names = json.dumps([columns, views]).encode()
    number = int.from_bytes(blake2b(names, digest_size=8).digest(), "little", signed=True)
    told = {"number": number, "columns": columns, "views": views}
    return number, _framed(_json(LAYOUT, 0, told))


def _batch(body: memoryview, rows: int, layouts: dict[int, Layout]) -> Batch:
    start = _BODY.size + _LENGTH.size
    (length,) = _LENGTH.unpack_from(body, _BODY.size)
    release, role, service, source, threshold, number, ids, machines, statuses = json.loads(
        bytes(body[start : start + length])
    )
    layout, position = layouts[number], start + length

    def array(kind: np.dtype[Any], width: int | None = None) -> NDArray[Any]:
        nonlocal position
        size = rows if width is None else rows * width
        found = np.frombuffer(body, kind, size, position)
        position += size * kind.itemsize
        return found if width is None else found.reshape(rows, width)

    asked_at, as_of, latency = array(_TIME), array(_TIME), array(_NUMBER)
    probabilities = array(_NUMBER)
    events, matrix = array(_TIME, len(layout.views)), array(_FEATURE, len(layout.columns))
    return Batch(
        number,
        ScoredBatch(
            release, role, service, source, layout.columns, layout.views, ids, machines,
            asked_at, as_of, latency, statuses, threshold, probabilities, matrix, events,
        ),
    )  # fmt: skip


def _bytes(values: ArrayLike, kind: np.dtype[Any], size: int) -> bytes:
    array = np.asarray(values, kind)
    if array.size != size:
        raise ValueError(f"a batch has an array of {array.size} values, and {size} are due")
    return array.tobytes()


def _json(kind: Kind, counted: int, told: dict[str, Any]) -> bytes:
    return _BODY.pack(kind, counted) + json.dumps(told).encode()


def _framed(body: bytes) -> bytes:
    return _FRAME.pack(len(body), zlib.crc32(body)) + body
