from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millwright import periods
from millwright.fleet import Fleet, load_fleet

MONTHLY = load_fleet("simulated")
DAILY = MONTHLY.model_copy(update={"partition": "day"})
TICK = timedelta(microseconds=1)

fleets = st.sampled_from((MONTHLY, DAILY))
moments = st.integers(0, 90 * 365 * 86_400_000_000).map(
    lambda ticks: datetime(1990, 1, 1, tzinfo=UTC) + ticks * TICK
)


def test_a_period_is_a_month_or_a_day_of_utc() -> None:
    late = datetime(2025, 1, 31, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    assert periods.label(late, MONTHLY) == "2025-02"
    assert periods.label(late, DAILY) == "2025-02-01"


@pytest.mark.parametrize(
    ("fleet", "period", "end"),
    [
        (MONTHLY, "2024-02", datetime(2024, 3, 1, tzinfo=UTC)),
        (MONTHLY, "2024-12", datetime(2025, 1, 1, tzinfo=UTC)),
        (DAILY, "2024-02-29", datetime(2024, 3, 1, tzinfo=UTC)),
    ],
)
def test_a_period_ends_where_the_next_one_begins(fleet: Fleet, period: str, end: datetime) -> None:
    assert periods.limits(period, fleet)[1] == end
    assert periods.limits(periods.label(end, fleet), fleet)[0] == end


@settings(derandomize=True, database=None)
@given(moment=moments, fleet=fleets)
def test_a_moment_lies_within_its_period(moment: datetime, fleet: Fleet) -> None:
    period = periods.label(moment, fleet)
    start, end = periods.limits(period, fleet)
    assert start <= moment < end
    assert periods.label(start, fleet) == periods.label(end - TICK, fleet) == period


@settings(derandomize=True, database=None)
@given(pair=st.tuples(moments, moments), fleet=fleets)
def test_labels_sort_as_the_periods_do(pair: tuple[datetime, datetime], fleet: Fleet) -> None:
    first, last = sorted(pair)
    assert periods.label(first, fleet) <= periods.label(last, fleet)


@settings(derandomize=True, database=None)
@given(first=moments, days=st.integers(0, 400), fleet=fleets)
def test_periods_between_two_moments_follow_each_other(
    first: datetime, days: int, fleet: Fleet
) -> None:
    last = first + timedelta(days=days)
    found = periods.between(first, last, fleet)
    assert found[0] == periods.label(first, fleet)
    assert found[-1] == periods.label(last, fleet)
    limits = [periods.limits(period, fleet) for period in found]
    for (_, end), (start, _) in pairwise(limits):
        assert end == start


def test_the_period_of_the_end_is_included() -> None:
    start = datetime(2025, 1, 31, tzinfo=UTC)
    assert periods.between(start, datetime(2025, 2, 1, tzinfo=UTC), MONTHLY) == [
        "2025-01",
        "2025-02",
    ]
    assert periods.between(start, start, DAILY) == ["2025-01-31"]
