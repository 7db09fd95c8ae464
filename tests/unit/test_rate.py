"""The limit of each client, held against a plain bucket of tokens."""

import math
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from millwright.serving.rate import MOST, SECOND, Limit


class Clock:
    """Time as the test has it pass."""

    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now


rates = st.sampled_from([0.5, 1, 3, 50, 333.3])
bursts = st.integers(1, 5)
# Who asks, and how many intervals after the one before.
requests = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0, 0, 0.3, 1, 1, 2.5, 9])))


@given(rates, bursts, requests)
def test_each_client_has_a_bucket_of_its_own(
    rate: float, burst: int, asked: list[tuple[int, float]]
) -> None:
    clock = Clock()
    limit = Limit(rate, burst, clock=clock)
    interval = round(SECOND / rate)
    levels: dict[int, int] = defaultdict(lambda: burst * interval)
    before = clock.now
    for client, pause in asked:
        clock.now += int(pause * interval)
        for each in levels:
            levels[each] = min(levels[each] + clock.now - before, burst * interval)
        before = clock.now
        let_through = levels[client] >= interval
        assert (limit.wait(str(client)) == 0) == let_through
        if let_through:
            levels[client] -= interval


@given(rates, bursts, st.integers(1, 3), requests)
def test_nobody_gains_by_crowding_others_out(
    rate: float, burst: int, most: int, asked: list[tuple[int, float]]
) -> None:
    clock = Clock()
    limit = Limit(rate, burst, most, clock)
    interval, begun = round(SECOND / rate), clock.now
    let_through: dict[int, int] = defaultdict(int)
    for client, pause in asked:
        clock.now += int(pause * interval)
        let_through[client] += limit.wait(str(client)) == 0
        assert len(limit) <= most
        # Its own bucket, and the one that it may have to share: however many came between.
        assert let_through[client] <= 2 * (burst + (clock.now - begun) // interval)


@given(rates, bursts, requests)
def test_who_waits_as_long_as_told_is_let_through(
    rate: float, burst: int, asked: list[tuple[int, float]]
) -> None:
    clock = Clock()
    limit = Limit(rate, burst, clock=clock)
    for client, _ in asked:
        if wait := limit.wait(str(client)):
            assert 0 < wait <= 1.01 / rate
            clock.now += math.ceil(wait * SECOND)
            assert limit.wait(str(client)) == 0


def test_no_rate_is_no_limit_and_keeps_nothing() -> None:
    limit = Limit(0, 1)
    assert not any(limit.wait("one") for _ in range(1000))
    assert len(limit) == 0


def test_memory_is_bounded_and_a_client_who_used_up_its_share_stays_known() -> None:
    clock = Clock()
    limit = Limit(1, 2, clock=clock)
    assert [limit.wait("greedy") for _ in range(3)] == [0, 0, 1]
    for number in range(2 * MOST):
        limit.wait(f"crowd {number}")
    assert len(limit) == MOST
    assert limit.wait("greedy") == 1
    clock.now += 3 * SECOND  # all are full again, and make room
    assert limit.wait("somebody new") == 0
    assert len(limit) == MOST
