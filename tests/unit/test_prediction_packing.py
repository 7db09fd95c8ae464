"""Records of the prediction log as bytes."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scored import scored

from millwright.prediction_log.packing import (
    Batch,
    Reported,
    Unreadable,
    count,
    pack_batch,
    pack_loss,
    pack_outcomes,
    unpack,
)
from millwright.prediction_log.records import Loss, Outcome, ScoredBatch

NAMES = st.text(max_size=8)
TIMES = st.integers(-(2**63), 2**63 - 1)


@st.composite
def batches(draw: st.DrawFn) -> ScoredBatch:
    rows = draw(st.integers(0, 4))
    columns = tuple(draw(st.lists(NAMES, max_size=3)))
    views = tuple(draw(st.lists(NAMES, max_size=3)))
    texts = st.lists(NAMES, min_size=rows, max_size=rows)
    numbers = st.floats(allow_nan=True, allow_infinity=True)
    singles = st.floats(width=32, allow_nan=True, allow_infinity=True)
    return ScoredBatch(
        draw(st.integers(0, 2**31 - 1)), draw(NAMES), draw(NAMES), draw(NAMES), columns, views,
        draw(texts), draw(texts),
        draw(arrays.arrays(np.int64, rows, elements=TIMES)),
        draw(arrays.arrays(np.int64, rows, elements=TIMES)),
        draw(arrays.arrays(np.float64, rows, elements=numbers)),
        draw(texts), draw(st.floats(allow_nan=False)),
        draw(arrays.arrays(np.float64, rows, elements=numbers)),
        draw(arrays.arrays(np.float32, (rows, len(columns)), elements=singles)),
        draw(arrays.arrays(np.int64, (rows, len(views)), elements=TIMES)),
    )  # fmt: skip


@given(batches())
@settings(max_examples=60, deadline=None)
def test_a_batch_comes_out_as_it_went_in_to_the_bit(batch: ScoredBatch) -> None:
    record = pack_batch(batch)
    (found,) = unpack(record.preface + record.frame)
    assert isinstance(found, Batch)
    assert found.layout == record.layout
    for field in fields(ScoredBatch):
        before, after = getattr(batch, field.name), getattr(found.scored, field.name)
        if isinstance(before, np.ndarray):
            assert (before.tobytes(), before.shape, before.dtype) == (
                after.tobytes(), after.shape, after.dtype,
            )  # fmt: skip
        else:
            assert before == after


def test_outcomes_and_losses_come_out_as_they_went_in() -> None:
    outcomes = (Outcome("m1", 5, failed=True, component="c\0", prediction="p", note="ü"),)
    loss = Loss(7, None, "the disk")
    data = pack_outcomes(outcomes, 6).frame + pack_loss(loss).frame
    assert list(unpack(data)) == [Reported(6, outcomes), loss]
    assert count(data) == 1


def test_a_torn_end_is_left_out_wherever_it_is_torn() -> None:
    first, second = pack_batch(scored(1)), pack_batch(scored(2))
    whole = first.preface + first.frame
    for length in range(len(second.frame)):
        assert len(list(unpack(whole + second.frame[:length]))) == 1
    assert len(list(unpack(whole + second.frame))) == 2


@pytest.mark.parametrize("place", ["length", "checksum", "body"])
def test_what_is_whole_and_wrong_is_told_and_what_comes_before_it_is_read(place: str) -> None:
    first, second = pack_batch(scored(1)), pack_batch(scored(2))
    start = len(first.preface + first.frame)
    data = bytearray(first.preface + first.frame + second.frame)
    at = start + {"length": 0, "checksum": 4, "body": 40}[place]
    if place == "length":
        data[at : at + 4] = b"\1\0\0\0"
    else:
        data[at] ^= 1
    one, rest = unpack(bytes(data))
    assert isinstance(one, Batch)
    assert rest == Unreadable(start, len(data) - start)
    assert count(bytes(data)) == 3


def test_a_disk_that_gives_zeros_for_what_it_lost_is_found_out() -> None:
    record = pack_batch(scored(1))
    data = record.preface + record.frame
    assert list(unpack(data + bytes(64)))[1:] == [Unreadable(len(data), 64)]


def test_a_batch_whose_parts_do_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="an array of 2 values, and 3 are due"):
        pack_batch(scored(1, latency=np.zeros(2)))
    with pytest.raises(ValueError, match="as many machines"):
        pack_batch(scored(1, machines=["m1"]))
