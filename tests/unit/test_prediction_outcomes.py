"""Which predictions came true: the rule, and that it is the same whatever comes first."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from millwright.prediction_log.content import OUTCOMES, TIME
from millwright.prediction_log.outcomes import labels

NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)
HORIZON = timedelta(hours=24)


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def outcome(hours: float, failed: bool, prediction: str | None = None, machine: str = "m1") -> Any:
    return {
        "machine_id": machine, "observed_at": at(hours), "failed": failed,
        "prediction_id": prediction, "reported_at": at(100),
    }  # fmt: skip


def label(*outcomes: Any, **known: Any) -> bool | None:
    predictions = pa.table(
        {
            "prediction_id": ["p0", "p1", "p2"],
            "machine_id": ["m0", "m1", "m2"],
            "as_of": pa.array([NOON] * 3, TIME),
        }
    )
    said = pa.Table.from_pylist(list(outcomes), OUTCOMES)
    before, found, after = labels(predictions, said, HORIZON, **known).to_pylist()
    if "known_until" not in known:
        assert (before, after) == (None, None)
    return found  # type: ignore[no-any-return]


def failures(hours: float) -> pa.Table:
    return pa.table({"machine_id": ["m1"], "timestamp": pa.array([at(hours)], TIME)})


TICK = 1 / 3_600_000_000  # a microsecond in hours
SAID: list[tuple[str, list[Any], bool | None]] = [
    ("nothing", [], None),
    ("a failure at the moment asked about", [outcome(0, True)], None),
    ("a failure just after it", [outcome(TICK, True)], True),
    ("a failure at the end of the horizon", [outcome(24, True)], True),
    ("a failure just behind it", [outcome(24 + TICK, True)], None),
    ("no failure just before the end", [outcome(24 - TICK, False)], None),
    ("no failure at the end", [outcome(24, False)], False),
    ("no failure long after", [outcome(900, False)], False),
    ("a failure, and none later on", [outcome(3, True), outcome(48, False)], True),
    ("an old failure, and a new one", [outcome(-3, True), outcome(3, True)], True),
    ("no failure at first, then one", [outcome(2, False), outcome(3, True)], True),
    ("of this prediction: none", [outcome(1, False, "p1")], False),
    ("of this one: none, but it failed", [outcome(1, False, "p1"), outcome(2, True)], True),
    ("of this prediction: too late", [outcome(30, True, "p1")], False),
    ("of this prediction: in time", [outcome(20, True, "p1")], True),
    ("of this prediction: before it", [outcome(-1, True, "p1")], None),
    ("of another prediction, before the end", [outcome(1, False, "p9")], None),
    ("another machine", [outcome(1, True, None, "m9"), outcome(30, False, None, "m9")], None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "became"), [(s, b) for _, s, b in SAID], ids=[n for n, *_ in SAID]
)
def test_what_is_said_of_a_machine_decides(said: list[Any], became: bool | None) -> None:
    assert label(*said) is became
    assert label(*reversed(said)) is became


def test_failures_that_are_known_otherwise_count_as_well() -> None:
    assert label(failures=failures(5)) is True
    assert label(failures=failures(25)) is None
    assert label(outcome(30, False), failures=failures(5)) is True


def test_where_failures_are_known_in_full_silence_means_none() -> None:
    assert label(failures=failures(-1), known_until=at(24)) is False
    assert label(failures=failures(-1), known_until=at(24 - TICK)) is None
    assert label(failures=failures(5), known_until=at(24)) is True
