"""Folds and the test window: in order of time, and with no label that reaches across a gap."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from raw_tables import plant

from millwright.errors import DataError
from millwright.fleet import Fleet
from millwright.splits import Folds, Split, split_by_time

HOUR = timedelta(hours=1)
START = pd.Timestamp("2025-01-01", tz="UTC")


def hours(count: int) -> pd.Series:
    return pd.Series(pd.date_range(START, periods=count, freq="h", unit="us"))


def cut(moments: pd.Series, fleet: Fleet, folds: Folds | None = None) -> Split:
    """As in training: the last horizon of the readings has no cut-offs."""
    return split_by_time(moments, moments.max() + fleet.horizon, fleet, folds or Folds())


DRAWN = {
    "days": st.integers(1, 90),
    "horizon": st.integers(1, 60),
    "test": st.integers(3, 40),
    "count": st.integers(1, 5),
    "share": st.floats(0.05, 0.95),
}


def drawn_split(
    days: int, horizon: int, test: int, count: int, share: float
) -> tuple[pd.Series, Fleet, Split] | None:
    """The split of so many days of hours; None if they are refused as too short."""
    fleet = plant(horizon=f"{horizon}h", lead_time="1h", test_window=f"{test}d")
    moments = hours(24 * days)
    try:
        return moments, fleet, cut(moments, fleet, Folds(count=count, share=share))
    except DataError:
        return None


@settings(max_examples=80, deadline=None)
@given(**DRAWN)
def test_no_label_of_a_learned_row_reaches_into_the_window_that_judges(
    days: int, horizon: int, test: int, count: int, share: float
) -> None:
    drawn = drawn_split(days, horizon, test, count, share)
    if drawn is None:
        return
    moments, fleet, split = drawn
    for window in (*split.folds, split.test):
        learned, judged = window.training(moments), window.validation(moments)
        assert learned.any()
        assert judged.any()
        # The label of T tells of (T, T + horizon].
        assert moments[learned].max() + fleet.horizon <= moments[judged].min()


@settings(max_examples=80, deadline=None)
@given(**DRAWN)
def test_folds_tile_the_validation_share_up_to_the_gap_before_the_test_window(
    days: int, horizon: int, test: int, count: int, share: float
) -> None:
    drawn = drawn_split(days, horizon, test, count, share)
    if drawn is None:
        return
    moments, fleet, split = drawn
    masks = [fold.validation(moments) for fold in split.folds]
    assert len(masks) == count
    assert np.sum(masks, axis=0).max() == 1
    for before, after in zip(split.folds, split.folds[1:], strict=False):
        assert before.end == after.start
    assert split.folds[-1].end == split.test.train_end == split.test.start - fleet.horizon
    asked = split.validation(moments)
    assert np.array_equal(asked, np.any(masks, axis=0))
    development = split.test.train_end - START
    covered = split.folds[-1].end - split.folds[0].start
    assert timedelta(0) <= development * share - covered <= count * fleet.step


@settings(max_examples=80, deadline=None)
@given(**DRAWN)
def test_the_test_window_is_the_last_and_nothing_else_sees_it(
    days: int, horizon: int, test: int, count: int, share: float
) -> None:
    drawn = drawn_split(days, horizon, test, count, share)
    if drawn is None:
        return
    moments, fleet, split = drawn
    tested = split.test.validation(moments)
    assert split.test.end - split.test.start == fleet.test_window
    assert np.array_equal(tested, moments > split.test.start)
    assert not (tested & split.validation(moments)).any()
    assert not (tested & split.test.training(moments)).any()


def test_the_dates_of_a_split_worked_out_by_hand() -> None:
    fleet = plant(horizon="24h", lead_time="1h", test_window="10d")
    day = timedelta(days=1)
    split = cut(hours(24 * 31), fleet, Folds(count=2, share=0.5))
    end = START + 32 * day - HOUR  # the last of the readings: a horizon after the last cut-off
    assert (split.test.start, split.test.end) == (end - 10 * day, end)
    assert split.test.train_end == end - 11 * day
    # 21 days less an hour lie before; half of that is two folds of 5 days and 5 hours.
    length = 5 * day + 5 * HOUR
    first, second = split.folds
    assert (second.start, second.end) == (end - 11 * day - length, end - 11 * day)
    assert (first.start, first.end) == (end - 11 * day - 2 * length, second.start)
    assert first.train_end == first.start - day


@pytest.mark.parametrize("days", [1, 10, 12, 16])
def test_a_history_that_is_too_short_is_refused_with_its_dates(days: int) -> None:
    fleet = plant(horizon="48h", lead_time="1h", test_window="10d")
    with pytest.raises(DataError) as caught:
        cut(hours(24 * days), fleet)
    message = str(caught.value)
    assert message.startswith("fleet 'plant' has telemetry from 2025-01-01 00:00 to 2025-01-")
    assert "too short for a test window of 240h and 3 validation folds with gaps of 48h" in message


def test_the_shortest_history_that_will_do() -> None:
    """Four gaps of two days and the test window: a fold is no shorter than the gap before it."""
    fleet = plant(horizon="48h", lead_time="1h", test_window="10d")
    folds = Folds(count=1, share=0.4)
    with pytest.raises(DataError):
        cut(hours(24 * 15), fleet, folds)
    assert len(cut(hours(24 * 15 + 1), fleet, folds).folds) == 1


def test_the_shortest_test_window_holds_one_answer() -> None:
    moments = hours(24 * 90)
    split = cut(moments, plant(horizon="24h", test_window="25h"))
    assert split.test.validation(moments).sum() == 1


@pytest.mark.parametrize("values", [{"count": 0}, {"share": 0}, {"share": 1}])
def test_folds_are_possible(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Folds.model_validate(values)
