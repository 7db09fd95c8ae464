"""The search by number alone, against plain Python."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millwright.stores import asof_features
from millwright.stores.asof_features import Stretch
from millwright.stores.asof_search import NEVER, Rows, search

# A year 1, a year 9999: with more than a few keys, their microseconds do not fit one number.
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
moments = st.sampled_from([FIRST, -2, -1, 0, 1, 2, LAST])
near = st.integers(-3, 3)


def numbers(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


def answer(rows: list[tuple], key: int, cutoff: int, *, as_known: bool, life: int) -> int:
    seen = [
        (event, created, place)
        for place, (owner, event, created) in enumerate(rows)
        if owner == key and event <= cutoff and (not as_known or created <= cutoff)
    ]
    if not seen or max(seen)[0] < cutoff - life:
        return -1
    return max(seen)[2]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), keys=st.sampled_from([1, 3, 40]), times=st.sampled_from([moments, near]))
def test_the_search_finds_what_plain_python_does(data, keys, times):
    owner = st.integers(0, keys - 1)
    drawn = data.draw(st.lists(st.tuples(owner, times, times), max_size=25))
    asked = data.draw(st.lists(st.tuples(st.integers(-1, keys - 1), times), max_size=10))
    as_known, life = data.draw(st.booleans()), data.draw(st.sampled_from([0, 1, 2, 2**61]))
    history = Rows(
        numbers([row[0] for row in drawn]),
        numbers([row[1] for row in drawn]),
        numbers([row[2] for row in drawn]),
        np.arange(len(drawn)),
    )
    found = search(
        history,
        numbers([key for key, _ in asked]),
        numbers([cutoff for _, cutoff in asked]),
        as_known=as_known,
        life=life,
    )
    assert found.tolist() == [
        answer(drawn, key, cutoff, as_known=as_known, life=life) for key, cutoff in asked
    ]


def test_a_row_that_was_never_created_is_the_oldest_of_its_time():
    history = Rows(numbers([0, 0]), numbers([5, 5]), numbers([1, NEVER]), numbers([0, 1]))
    assert search(history, numbers([0]), numbers([5]), as_known=False, life=0).tolist() == [0]


@pytest.mark.parametrize("total", [0, 1, 10, 11])
def test_stretches_cover_all_cutoffs_once(total):
    cut = list(asof_features.stretches(total, 5))
    assert cut[0].first == 0
    assert cut[-1].last == total
    assert all(Stretch(a.last, b.last) == b for a, b in pairwise(cut))
    assert all(part.last - part.first <= 5 for part in cut)
