"""At which moments the question is asked, and what the answer was."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_tables import plant

from millwright.errors import DataError
from millwright.labels import label_cutoffs, select_cutoffs

HOUR = timedelta(hours=1)
US = timedelta(microseconds=1)
START = pd.Timestamp("2025-03-30", tz="UTC")  # the night on which Berlin loses an hour
FLEET = plant(horizon="6h", lead_time="2h")


def observed(*rows: tuple[str, float, float]) -> pd.DataFrame:
    """Machines with the hours of their first and last reading since `START`."""
    return pd.DataFrame(
        [
            {"machine_id": machine, "first": START + first * HOUR, "last": START + last * HOUR}
            for machine, first, last in rows
        ]
    )


def asked(found: pd.DataFrame) -> list[tuple[str, float]]:
    hours = (found["event_timestamp"] - START) / HOUR
    return list(zip(found["machine_id"], hours.tolist(), strict=True))


def cutoffs(*rows: tuple[str, pd.Timestamp]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["machine_id", "event_timestamp"])


def failures(*rows: tuple[str, pd.Timestamp]) -> pd.DataFrame:
    found = pd.DataFrame(rows, columns=["machine_id", "timestamp"])
    return found.astype({"machine_id": object, "timestamp": "datetime64[us, UTC]"})


def test_every_step_of_every_machine_is_asked_about_by_time_and_then_machine() -> None:
    found = select_cutoffs(observed(("b", 0, 9), ("a", 1, 10)), FLEET)
    assert asked(found) == [
        ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3), ("a", 4), ("b", 4),
    ]  # fmt: skip
    assert str(found["event_timestamp"].dtype) == "datetime64[us, UTC]"
    assert list(found.index) == list(range(len(found)))


def test_the_last_horizon_of_the_records_has_no_cutoffs() -> None:
    found = select_cutoffs(observed(("a", 0, 48), ("b", 0, 30)), FLEET)
    last = found.groupby("machine_id")["event_timestamp"].max()
    assert last["a"] == START + 48 * HOUR - FLEET.horizon
    # A machine that stopped earlier is asked about up to its end: others show that time went on.
    assert last["b"] == START + 30 * HOUR


def test_readings_between_steps_are_asked_about_at_the_end_of_theirs() -> None:
    found = select_cutoffs(observed(("a", 0.25, 3.5), ("b", 0, 40)), FLEET)
    assert [hour for machine, hour in asked(found) if machine == "a"] == [1, 2, 3, 4]


def test_the_question_may_be_asked_less_often() -> None:
    found = select_cutoffs(observed(("a", 1, 24), ("b", 5, 20)), FLEET, every=4 * HOUR)
    assert asked(found) == [
        ("a", 4), ("a", 8), ("b", 8), ("a", 12), ("b", 12), ("a", 16), ("b", 16),
    ]  # fmt: skip


def test_a_machine_of_less_than_a_distance_has_no_cutoffs() -> None:
    found = select_cutoffs(observed(("a", 0, 48), ("b", 1, 3)), FLEET, every=8 * HOUR)
    assert set(found["machine_id"]) == {"a"}


def test_records_without_telemetry_or_shorter_than_the_horizon_are_refused() -> None:
    with pytest.raises(DataError, match=r"fleet 'plant' has no telemetry; ingest some"):
        select_cutoffs(observed(("a", 0, 1)).head(0), FLEET)
    with pytest.raises(DataError, match=r"spans less than its horizon of 6h"):
        select_cutoffs(observed(("a", 0, 5)), FLEET)
    assert asked(select_cutoffs(observed(("a", 0, 6)), FLEET)) == [("a", 0)]


@pytest.mark.parametrize(
    ("ahead", "label"),
    [
        (-HOUR, False),
        (0 * HOUR, False),  # a failure at the cut-off is known by then
        (US, True),
        (6 * HOUR - US, True),
        (6 * HOUR, True),
        (6 * HOUR + US, False),
    ],
)
def test_a_label_is_true_if_the_failure_lies_in_the_horizon(ahead: timedelta, label: bool) -> None:
    found = label_cutoffs(cutoffs(("a", START)), failures(("a", START + ahead)), 6 * HOUR)
    assert found.tolist() == [label]


def test_the_next_of_several_failures_counts() -> None:
    rows = cutoffs(*(("a", START + hour * HOUR) for hour in (0, 4, 9, 10, 11, 20)))
    times = failures(("a", START + 20 * HOUR), ("a", START + 4 * HOUR), ("a", START + 11 * HOUR))
    assert label_cutoffs(rows, times, 2 * HOUR).tolist() == [
        False, False, True, True, False, False
    ]  # fmt: skip


def test_machines_are_judged_by_their_own_failures() -> None:
    rows = cutoffs(("a", START), ("b", START), ("c", START))
    times = failures(("b", START + HOUR), ("unknown", START + HOUR))
    assert label_cutoffs(rows, times, 2 * HOUR).tolist() == [False, True, False]
    assert not label_cutoffs(rows, failures(), 2 * HOUR).any()


def test_labels_keep_the_order_and_the_index_of_the_cutoffs() -> None:
    rows = cutoffs(("b", START + 3 * HOUR), ("a", START), ("b", START), ("a", START + 3 * HOUR))
    rows.index = pd.Index([7, 3, 5, 1])
    found = label_cutoffs(rows, failures(("b", START + 4 * HOUR)), 2 * HOUR)
    assert found.to_dict() == {7: True, 3: False, 5: False, 1: False}
    assert list(found.index) == [7, 3, 5, 1]
    assert (found.name, found.dtype) == ("label", np.dtype(bool))


def test_moments_in_any_zone_and_unit_mean_the_same() -> None:
    rows = cutoffs(("a", START), ("a", START + 2 * HOUR))
    times = failures(("a", START + 3 * HOUR))
    rows["event_timestamp"] = rows["event_timestamp"].dt.tz_convert("Europe/Berlin").dt.as_unit("s")
    times["timestamp"] = times["timestamp"].dt.tz_convert("Asia/Tokyo").dt.as_unit("ns")
    assert label_cutoffs(rows, times, 2 * HOUR).tolist() == [False, True]


def test_no_cutoffs_have_no_labels() -> None:
    rows = cutoffs(("a", START)).head(0)
    assert label_cutoffs(rows, failures(("a", START)), HOUR).empty


MACHINES = st.sampled_from(["1", "2", "3"])
MINUTES = st.integers(0, 600)
EVENTS = st.lists(st.tuples(MACHINES, MINUTES), max_size=25)


@settings(max_examples=60, deadline=None)
@given(EVENTS, EVENTS, st.integers(1, 300))
def test_labels_are_what_their_definition_says(
    asked_at: Sequence[tuple[str, int]], failed_at: Sequence[tuple[str, int]], reach: int
) -> None:
    def at(rows: Sequence[tuple[str, int]]) -> list[tuple[str, Any]]:
        return [(machine, START + timedelta(minutes=minute)) for machine, minute in rows]

    rows = cutoffs(*at(asked_at)).astype({"event_timestamp": "datetime64[us, UTC]"})
    found = label_cutoffs(rows, failures(*at(failed_at)), timedelta(minutes=reach))
    assert found.tolist() == [
        any(one == other and minute < failed <= minute + reach for other, failed in failed_at)
        for one, minute in asked_at
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 200)), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_every_cutoff_lies_in_its_machines_records_and_has_an_answer(
    spans: list[tuple[int, int]], distance: int
) -> None:
    rows = observed(
        *((str(i), first / 2, (first + length) / 2) for i, (first, length) in enumerate(spans))
    )
    end = rows["last"].max() - FLEET.horizon
    try:
        found = select_cutoffs(rows, FLEET, every=distance * HOUR)
    except DataError:
        return
    assert not found.duplicated().any()
    assert (found["event_timestamp"] <= end).all()
    merged = found.merge(rows, on="machine_id")
    assert (merged["event_timestamp"] >= merged["first"]).all()
    assert (merged["event_timestamp"] < merged["last"] + HOUR).all()
