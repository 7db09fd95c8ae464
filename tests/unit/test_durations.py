"""Lengths of time, as people write them and as they stand in the names of features."""

from datetime import UTC, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from millwright.durations import CYCLE_ORIGIN, UNITS, Duration, label, parse

WHOLE = st.builds(
    lambda count, unit: count * unit,
    st.integers(1, 10_000),
    st.sampled_from(list(UNITS.values())),
)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("15min", timedelta(minutes=15)),
        ("24h", timedelta(hours=24)),
        ("34d", timedelta(days=34)),
        ("1.5h", timedelta(minutes=90)),
        ("30 cycles", timedelta(hours=30)),
        ("1 cycle", timedelta(hours=1)),
        (" 3 h ", timedelta(hours=3)),
        (timedelta(hours=2), timedelta(hours=2)),
    ],
)
def test_a_length_is_read(text: object, length: timedelta) -> None:
    assert parse(text) == length


@pytest.mark.parametrize(
    "text", ["", "24", 24, "h", "24 hours", "-3h", "3h30min", "1w", None, "٣h x"]
)
def test_what_is_no_length_is_refused_with_examples(text: object) -> None:
    with pytest.raises(ValueError, match=r"is not a length of time; write 90s, 15min"):
        parse(text)


@pytest.mark.parametrize("text", ["0h", "0.0d", "0.0000001s"])
def test_a_length_is_longer_than_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="must be longer than nothing"):
        parse(text)


@pytest.mark.parametrize("text", ["99999999999d", "9" * 400 + "h"])
def test_a_length_beyond_all_calendars_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="longer than any history"):
        parse(text)


def test_a_field_says_what_is_wrong_with_it() -> None:
    adapter = TypeAdapter(Duration)
    assert adapter.validate_python("3h") == timedelta(hours=3)
    with pytest.raises(ValidationError, match="'soon' is not a length of time"):
        adapter.validate_python("soon")


@pytest.mark.parametrize(
    ("length", "cycles", "text"),
    [
        (timedelta(hours=24), False, "24h"),
        (timedelta(days=34), False, "816h"),
        (timedelta(minutes=90), False, "90min"),
        (timedelta(seconds=90), False, "90s"),
        (timedelta(seconds=1.5), False, "1.5s"),
        (timedelta(hours=30), True, "30c"),
    ],
)
def test_a_label_is_short(length: timedelta, cycles: bool, text: str) -> None:
    assert label(length, cycles) == text


@given(WHOLE)
def test_a_label_reads_as_the_length_that_it_names(length: timedelta) -> None:
    assert parse(label(length)) == length


@given(WHOLE, WHOLE)
def test_two_lengths_have_two_labels(one: timedelta, other: timedelta) -> None:
    assert (label(one) == label(other)) == (one == other)


def test_cycles_are_counted_from_a_moment_in_utc() -> None:
    assert CYCLE_ORIGIN.tzinfo is UTC
