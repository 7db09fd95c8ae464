"""Requests with readings: any fleet's against a plain Python oracle, and those that are refused."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pytest
from feature_oracle import Oracle, Row
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_features import (
    CODES,
    FLEETS,
    NAMESAKES,
    PARTS,
    SENSORS,
    SPAN,
    START,
    histories,
    make_fleet,
    moderate,
)  # fmt: skip

from millwright.durations import CYCLE_ORIGIN
from millwright.errors import InputError, MillwrightError, ReleaseError
from millwright.fleet import Fleet, load_fleet
from millwright.recipe import Recipe
from millwright.serving import readings
from millwright.serving.readings import ReadingsEngine
from millwright.serving.readings_request import MOST_ROWS, ReadingsRequest
from millwright.serving.rows import NEVER, STATUSES, FeatureRows, microseconds, states
from millwright.serving.sent import checked
from millwright.views import feature_views, published

HOUR = timedelta(hours=1)
NOW = datetime(2025, 6, 1, tzinfo=UTC)
# Windows of so many steps are computed by other SQL than short ones.
LONG = make_fleet("1min", ["load"], ["3min", "60min"])
NAMED = make_fleet("1h", SENSORS, ["3h"], (*CODES, *NAMESAKES), (*PARTS, *NAMESAKES))
KINDS = {
    "quarters": FLEETS["quarters"],
    "cycles": FLEETS["cycles"],
    "namesakes": NAMED,
    "long": LONG,
}


@cache
def engine(name: str) -> ReadingsEngine:
    return ReadingsEngine(Recipe.of(KINDS[name], None), None)


def told(history: Oracle, machine: str) -> dict[str, Any] | None:
    """A machine in a request; None where it has no reading."""

    def time(moment: datetime) -> str | int:
        cycles = history.fleet.counts_cycles
        return (moment - CYCLE_ORIGIN) // HOUR if cycles else moment.isoformat()

    def rows(table: Sequence[Row], name: str) -> list[dict[str, Any]]:
        return [
            {"timestamp": time(row.timestamp), "received": time(row.received)}
            | ({name: row.about} if name else row.values)
            for row in table
            if row.machine == machine
        ]

    telemetry = rows(history.telemetry, "")
    attributes = [row for row in history.machines if row.machine == machine]
    return telemetry and {
        "machine": machine,
        "telemetry": telemetry,
        "errors": rows(history.errors, "code"),
        "maintenance": rows(history.maintenance, "component"),
        "attributes": (
            attributes and {**attributes[-1].values, "received": time(attributes[-1].received)}
        )
        or None,
    }


def known(history: Oracle, as_of: datetime) -> Oracle:
    """What a machine could tell at a time; of attributes the last word."""

    def before(rows: Sequence[Row]) -> list[Row]:
        sensors = [row for row in rows if row.timestamp <= row.received <= as_of]
        return [row for row in sensors if not row.values or row.about or any_value(row)]

    machines = {
        row.machine: row for row in sorted(before(history.machines), key=lambda r: r.received)
    }
    return Oracle(
        history.fleet, before(history.telemetry), before(history.errors),
        before(history.maintenance), list(machines.values()),
    )  # fmt: skip


def any_value(row: Row) -> bool:
    return any(value is not None for value in row.values.values())


@pytest.mark.parametrize("name", KINDS)
def test_features_of_any_fleet_are_what_plain_python_says(name: str) -> None:
    fleet = KINDS[name]

    @moderate(10)
    @given(history=histories(fleet), steps=st.integers(1, 4 * SPAN + 12))
    def check(history: Oracle, steps: int) -> None:
        as_of = START + (steps // 4 if fleet.counts_cycles else steps / 4) * fleet.step
        history = known(history, as_of)
        machines = [each for machine in "12" if (each := told(history, machine))]
        if not machines:
            return
        now = (as_of - CYCLE_ORIGIN) // HOUR if fleet.counts_cycles else as_of.isoformat()
        found = features(name, {"as_of": now, "machines": machines})
        for place, machine in enumerate(machines):
            assert_is_known(found, place, history, machine["machine"], as_of)

    check()


def features(name: str, request: dict[str, Any]) -> FeatureRows:
    sent = ReadingsRequest.model_validate_json(json.dumps(request))
    return engine(name).features(checked(sent, engine(name).recipe, NOW))


def assert_is_known(
    found: FeatureRows, place: int, history: Oracle, machine: str, as_of: datetime
) -> None:
    fleet = history.fleet
    for view in feature_views(fleet)[:-1]:
        event = found.events[place, found.views.index(published(fleet, view.name))]
        rows = [
            (event, created, values)
            for (whose, event, created), values in history.table(view).items()
            if whose == machine and max(event, created) <= as_of
        ]
        newest = max(rows, key=lambda row: row[:2], default=None)
        expected = dict.fromkeys(view.features) if newest is None else newest[2]
        assert event == (NEVER if newest is None else newest[0].timestamp() * 1e6), view.name
        for feature, value in expected.items():
            got = found.columns[feature][place]
            if isinstance(value, float):
                assert got == pytest.approx(value, rel=1e-6, abs=1e-6), feature
            else:
                assert got == value or (value is None and got != got), feature


SIMULATED = load_fleet("simulated")


def a_reading(hour: float = 9.5, **cells: Any) -> dict[str, Any]:
    return {
        "timestamp": f"2025-01-31T{int(hour):02}:{int(hour % 1 * 60):02}:00Z",
        "volt": 200.0,
    } | cells


def a_machine(**parts: Any) -> dict[str, Any]:
    return {"machine": "a", "telemetry": [a_reading()]} | parts


@cache
def recipe(name: str = "simulated") -> Recipe:
    return Recipe.of({**KINDS, "simulated": SIMULATED}[name], None)


def refusal(*machines: dict[str, Any], of: str = "simulated", **more: Any) -> str:
    body = json.dumps({"machines": machines, "as_of": "2025-01-31T12:00:00Z", **more})
    with pytest.raises((InputError, ValidationError)) as caught:
        checked(ReadingsRequest.model_validate_json(body), recipe(of), NOW)
    if isinstance(caught.value, InputError):
        return str(caught.value)
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in caught.value.errors())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"volt": 512}, "volt: 512 is outside [0, 400]"),
        ({"volt": -0.5}, "volt: -0.5 is outside [0, 400]"),
        ({"vlot": 1.0}, "vlot: the fleet has no such sensor; did you mean 'volt'?"),
        ({"volt": None}, " has no reading; leave it out"),
        ({"volt": float("nan")}, "volt: Input should be a finite number"),
        ({"volt": float("inf")}, "volt: Input should be a finite number"),
        ({"volt": "200"}, "volt: Input should be a valid number"),
        ({"volt": True}, "volt: Input should be a valid number"),
        ({"timestamp": "2025-01-31T09:30:00"}, "timestamp: must be an ISO time with its zone"),
        ({"timestamp": "yesterday"}, "timestamp: must be an ISO time with its zone"),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, "timestamp: must be an ISO time"),
        ({"timestamp": "1979-12-31T09:30:00Z"}, "timestamp: is before 1980"),
        ({"timestamp": 1738300000}, "timestamp: must be an ISO time with its zone"),
        ({"timestamp": "2025-01-31T12:00:01Z"}, "timestamp: is later than what is asked about"),
        ({"received": "2025-01-31T12:00:01Z"}, "received: is later than what is asked about"),
        ({"received": "2025-01-31T09:00:00Z"}, "received: is before the row's own time"),
    ],
)
def test_a_wrong_reading_is_named_with_its_place(row: dict[str, Any], said: str) -> None:
    wrong = a_machine(machine="b", telemetry=[a_reading(8), a_reading(**row)])
    place = "machines.1.telemetry.1"
    assert f"{place}{':' if said[0] == ' ' else '.'}{said}" in refusal(a_machine(), wrong)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"telemetry": []}, "machines.0.telemetry: Tuple should have at least 1 item"),
        (
            {"telemetry": [a_reading(), a_reading(8), a_reading(volt=1)]},
            "machines.0.telemetry.2: is of the same time as machines.0.telemetry.0; send one",
        ),
        (
            {"errors": [{"timestamp": "2025-01-31T09:30:00Z", "code": "error9"}]},
            "machines.0.errors.0.code: 'error9' is unknown; did you mean",
        ),
        (
            {"maintenance": [{"timestamp": "2025-01-31T09:30:00Z", "component": "bolt"}]},
            "machines.0.maintenance.0.component: 'bolt' is unknown; valid names: comp1",
        ),
        ({"attributes": {"model": "model9"}}, "machines.0.attributes.model: 'model9' is unknown"),
        ({"attributes": {"model": 1}}, "machines.0.attributes.model: '1' is unknown"),
        ({"attributes": {"age": 61}}, "machines.0.attributes.age: 61 is outside [0, 60]"),
        ({"attributes": {"age": "old"}}, "machines.0.attributes.age: must be a finite number"),
        ({"attributes": {"age": float("nan")}}, "machines.0.attributes.age: must be a finite"),
        ({"attributes": {"age": [1]}}, "machines.0.attributes.age: must be a number, a text or"),
        ({"attributes": {"agee": 1}}, "machines.0.attributes.agee: the fleet has no such attr"),
        ({"machine": ""}, "machines.0.machine: String should have at least 1 character"),
        ({"sensors": 1}, "machines.0.sensors: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_machine_is_named_with_its_place(parts: dict[str, Any], said: str) -> None:
    assert said in refusal(a_machine(**parts))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"as_of": "2025-06-01T00:00:01Z"}, "as_of: is in the future; leave it out"),
        ({"as_of": "2025-01-31T12:00:00"}, "as_of: must be an ISO time with its zone"),
        ({"as_of": 5}, "as_of: must be an ISO time with its zone"),
        ({"machines": []}, "machines: Tuple should have at least 1 item"),
        (
            {"machines": [a_machine(), a_machine()]},
            "machines.1.machine: is also that of machines.0",
        ),
        ({"machines": [a_machine()] * 101}, "machines: Tuple should have at most 100 items"),
        (
            {"machines": [a_machine(telemetry=[a_reading()] * (MOST_ROWS + 1))]},
            "has 10001 rows of machines; send at most 10000 at once",
        ),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(request_: dict[str, Any], said: str) -> None:
    assert said in refusal(a_machine(), **request_)


def test_a_fleet_without_errors_takes_none() -> None:
    fleet = Fleet.model_validate(
        {**SIMULATED.model_dump(), "tables": {**SIMULATED.tables.model_dump(), "errors": None}}
    )
    sent = ReadingsRequest.model_validate({"machines": [a_machine(errors=[])]})
    with pytest.raises(InputError, match=r"machines\.0\.errors: fleet 'simulated' has none"):
        checked(sent, Recipe.of(fleet, None), NOW)


def test_attributes_are_called_as_they_like() -> None:
    names = ("place", "event", "as_of", "newest", "made", "moments", "sent")
    kinds = {name: {"type": "number"} for name in names}
    fleet = Fleet.model_validate({**SIMULATED.model_dump(), "attributes": kinds})
    values = {name: float(place) for place, name in enumerate(names)}
    sent = ReadingsRequest.model_validate({"machines": [a_machine(attributes=values)]})
    recipe = Recipe.of(fleet, None)
    found = ReadingsEngine(recipe, None).features(checked(sent, recipe, NOW))
    assert {name: found.columns[name][0] for name in names} == values


def test_no_more_than_five_faults_are_told_and_how_many_there_are() -> None:
    said = refusal(a_machine(telemetry=[a_reading(hour, volt=500) for hour in range(9)]))
    assert said.count("is outside") == 5
    assert said.endswith("; and 4 more")


def test_what_was_sent_is_not_repeated_at_length() -> None:
    assert len(refusal(a_machine(telemetry=[a_reading(**{"x" * 5000: 1})]))) < 500


@pytest.mark.parametrize("cycle", [-1, 10_000_001, "2025-01-31T12:00:00Z"])
def test_cycles_have_their_range(cycle: int | str) -> None:
    machine = a_machine(telemetry=[{"timestamp": cycle, "load": 1.0}])
    said = refusal(machine, of="cycles", as_of=100)
    assert said == (
        "machines.0.telemetry.0.timestamp: must be the number of a cycle, from 0 to 10,000,000"
    )


def test_without_a_time_each_machine_is_asked_about_its_newest_cycle() -> None:
    machines = [
        {
            "machine": str(last),
            "telemetry": [{"timestamp": t, "load": 1.0 * t} for t in range(last)],
        }
        for last in (5, 9)
    ]
    found = features("cycles", {"machines": machines})
    assert found.columns["load_mean_1c"].tolist() == [4, 8]


HOSTILE = ["'; DROP TABLE telemetry; --", '"', "$1", "\\", "\x01", "é漢", "0", "1"]


def test_machines_are_called_as_they_like() -> None:
    machines = [
        a_machine(machine=name, telemetry=[a_reading(volt=float(place))])
        for place, name in enumerate(HOSTILE)
    ]
    plain = ReadingsEngine(recipe(), None)
    sent = ReadingsRequest.model_validate({"machines": machines, "as_of": "2025-01-31T12:00:00Z"})
    for _ in range(2):
        readings = checked(sent, recipe(), NOW)
        assert readings.machines == tuple(HOSTILE)
        found = plain.features(readings)
        assert found.columns["volt_mean_1h"].tolist() == list(range(len(HOSTILE)))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_code_that_is_none_is_told_and_nothing_more(text: str) -> None:
    error = {"timestamp": "2025-01-31T09:30:00Z", "code": text}
    assert "machines.0.errors.0.code: " in refusal(a_machine(errors=[error]))


def test_readings_too_large_to_be_computed_with_are_refused() -> None:
    fleet = KINDS["quarters"]
    assert fleet.sensors["load"].range is None
    rows = [{"timestamp": f"2025-01-31T09:{m}:00Z", "load": 1e300 * m} for m in (10, 11, 12)]
    request = {"machines": [a_machine(telemetry=rows)], "as_of": "2025-01-31T10:00:00Z"}
    with pytest.raises(InputError, match="too large for a number"):
        features("quarters", request)
    rows = [{"timestamp": "2025-01-31T09:10:00Z", "load": 2.0}]
    found = features("quarters", {**request, "machines": [a_machine(telemetry=rows)]})
    assert found.columns["load_mean_15min"].tolist() == [2]


def test_readings_that_take_too_much_memory_are_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readings, "_MEMORY", "8MB")
    small = ReadingsEngine(recipe(), None)
    times = [(NOW - timedelta(minutes=place)).isoformat() for place in range(MOST_ROWS)]
    rows = [{"timestamp": time, "volt": 200.0} for time in times]
    sent = ReadingsRequest.model_validate_json(
        json.dumps({"machines": [a_machine(telemetry=rows)]})
    )
    with pytest.raises(InputError, match="more memory than a request may have; send fewer"):
        small.features(checked(sent, recipe(), NOW))


def test_whose_readings_do_not_fill_the_longest_window_is_told() -> None:
    machines = [
        a_machine(machine=name, telemetry=[a_reading(hours), a_reading()])
        for name, hours in (("young", 1.0), ("short", 0.0))
    ]
    machines[0]["telemetry"][0]["timestamp"] = "2025-01-30T12:00:00Z"
    sent = ReadingsRequest.model_validate({"machines": machines, "as_of": "2025-01-31T12:00:00Z"})
    assert checked(sent, recipe(), NOW).short(recipe()).tolist() == [False, True]


def test_rows_are_present_stale_or_missing() -> None:
    as_of = np.array([100_000_000], np.int64)
    events = [NEVER, 0, 89_999_999, 90_000_000, 100_000_000, 100_000_001]
    lives = microseconds([10.0, None])
    found = [
        [STATUSES[state] for state in states(np.array([[event, event]], np.int64), lives, as_of)[0]]
        for event in events
    ]
    assert [each[0] for each in found] == [
        "missing", "stale", "stale", "present", "present", "missing",
    ]  # fmt: skip
    assert [each[1] for each in found] == ["missing", *["present"] * 4, "missing"]


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (lambda r: r.model_copy(update={"readings": "SELECT nonsense"}), "cannot be run"),
        (lambda r: r.model_copy(update={"readings": "FROM read_csv('/etc/passwd')"}), "cannot be"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(
    broken: Callable[[Recipe], Recipe], error: str
) -> None:
    with pytest.raises(ReleaseError, match=f"the recipe of fleet 'simulated' {error}"):
        ReadingsEngine(broken(recipe()), None)


def test_an_engine_needs_the_detector_that_its_recipe_names(tmp_path) -> None:
    of = {"version": "d1", "view": "v", "features": (), "fit_end": NOW}
    named = Recipe.model_validate({**recipe().model_dump(), "detector": of})
    with pytest.raises(ReleaseError, match="scores by anomaly detector d1, and there is none"):
        ReadingsEngine(named, None)
    with pytest.raises(MillwrightError, match="cannot be read"):
        ReadingsEngine(named, tmp_path / "gone")


def test_threads_that_share_an_engine_get_each_their_own_answer() -> None:
    def asked(volt: int) -> list[float]:
        request = {
            "machines": [a_machine(telemetry=[a_reading(volt=volt)])],
            "as_of": "2025-01-31T12:00:00Z",
        }
        readings = checked(ReadingsRequest.model_validate(request), recipe(), NOW)
        return shared.features(readings).columns["volt_mean_1h"].tolist()

    shared = ReadingsEngine(recipe(), None)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(asked, range(40))) == [[float(volt)] for volt in range(40)]
