"""The feature expressions on DuckDB, against a plain Python oracle."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from unittest.mock import patch

import ibis
import pyarrow as pa
import pytest
from feature_oracle import Oracle, Row, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from millwright import features, windows
from millwright.fleet import Fleet
from millwright.sql import quoted
from millwright.views import View, feature_views

# An hour before a month ends, so that windows reach over its end.
START = datetime(2025, 1, 31, 23, tzinfo=UTC)
TICK = timedelta(microseconds=1)
INSTANT = pa.timestamp("us", tz="UTC")
MACHINES = ("1", "2")
CODES = ("hot", "loud")
PARTS = ("belt", "pump")
NAMESAKES = (
    "machine_id", "step", "known", "until", "first_known", "last_known", "row_step", "row_known",
    "row_until", "asked", "code", "component", "timestamp", "drop_count_", "sent:step", "E 1",
)  # fmt: skip
SENSORS = [
    "drop_count",
    "last_known",
    "first_known",
    "row_until",
    "asked",
    "block",
    "seconds",
    "times",
]
# Steps that a random history spans.
SPAN = 7


def make_fleet(
    step: str,
    sensors: Sequence[str],
    windows: Sequence[str],
    codes: Sequence[str] = CODES,
    parts: Sequence[str] = PARTS,
) -> Fleet:
    timed = {"source": "x", "machine": "m", "timestamp": "t", "received": "r"}
    return Fleet.model_validate(
        {
            "name": "tiny",
            "step": step,
            "horizon": windows[-1],
            "lead_time": windows[0],
            "test_window": "9d",
            "tables": {
                "telemetry": timed,
                "errors": timed | {"code": "c"},
                "maintenance": timed | {"component": "c"},
                "failures": timed,
                "machines": {"source": "x", "machine": "m", "received": "r"},
            },
            "sensors": {name: {} for name in sensors},
            "error_codes": codes,
            "components": parts,
            "attributes": {
                "model": {"type": "category", "values": ["a", "b"]},
                "age": {"type": "number"},
            },
            "features": {
                "step_statistics": ["mean", "std", "min", "max", "slope"],
                "windows": windows,
                "error_windows": windows[:1],
                "time_to_live": "48h",
            },
            "anomaly": {"fit_window": "30d"},
            "costs": {"failure": 1, "planned_repair": 1, "inspection": 1},
        }
    )


FLEETS = {
    "hours": make_fleet("1h", ["load"], ["3h", "5h"]),
    "quarters": make_fleet("15min", ["load", "heat", "flow"], ["30min", "1h"]),
    "cycles": make_fleet("1 cycle", ["load", "heat"], ["2 cycles", "4 cycles"]),
    # Whose sensor, codes and components are called as columns are while features are made.
    "namesakes": make_fleet("1h", SENSORS, ["3h"], NAMESAKES, NAMESAKES),
}
# As if windows of a few steps were long, which are not computed from pairs.
FLEETS["slid"] = FLEETS["quarters"]


def in_each_fleet(test):
    names = [name for name in FLEETS if name != "namesakes"]
    return pytest.mark.parametrize("name", names)(test)


@st.composite
def moments(draw, fleet: Fleet) -> datetime:
    """A time somewhere in the span, often at the edge of a step, and often the same as another."""
    if fleet.counts_cycles:
        return START + draw(st.integers(0, SPAN)) * fleet.step
    quarter = draw(st.integers(0, 4 * SPAN)) * fleet.step / 4
    return START + quarter + draw(st.sampled_from((0, 0, 1, -1))) * TICK


@st.composite
def raw_rows(draw, fleet: Fleet, about: Sequence[str], sensors: Sequence[str], most: int):
    """Rows of one raw table, some late and some corrected; a key is received at a time once."""
    rows: dict[Row, None] = {}
    for _ in range(draw(st.integers(0, most))):
        machine, kind = draw(st.sampled_from(MACHINES)), draw(st.sampled_from(about))
        timestamp = draw(moments(fleet))
        for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
            quarters = draw(st.sampled_from((0, 0, 0, 0, 1, 2, 5, 9, 14, -6)))
            late = -(-quarters // 4) * 4 if fleet.counts_cycles else quarters
            reading = st.none() | st.integers(-100_000, 100_000).map(lambda n: n / 1000)
            values = {sensor: draw(reading) for sensor in sensors}
            rows.setdefault(
                Row(machine, timestamp, timestamp + late * fleet.step / 4, kind, values)
            )
    return list(rows)


@st.composite
def histories(draw, fleet: Fleet) -> Oracle:
    machines = {
        Row(machine, START, START + draw(moments(fleet)).minute * TICK): None
        for machine in draw(st.lists(st.sampled_from(MACHINES), max_size=3))
    }
    model, age = st.sampled_from(("a", "b", None)), st.sampled_from((0.0, 3.5, None))
    return Oracle(
        fleet,
        telemetry=draw(raw_rows(fleet, [""], list(fleet.sensors), 14)),
        errors=draw(raw_rows(fleet, CODES, [], 6)),
        maintenance=draw(raw_rows(fleet, PARTS, [], 5)),
        machines=[
            Row(r.machine, r.timestamp, r.received, "", {"model": draw(model), "age": draw(age)})
            for r in machines
        ],
    )


class Compiled:
    """The expressions of a fleet as SQL, over tables that each example fills anew."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.connection = ibis.duckdb.connect(threads=1)
        self.connection.raw_sql("SET TimeZone = 'UTC'")
        names = {"telemetry": [], "errors": ["code"], "maintenance": ["component"]}
        self.schemas = {
            name: pa.schema(
                [
                    ("machine_id", pa.string()),
                    ("timestamp", INSTANT),
                    ("received", INSTANT),
                    *((about, pa.string()) for about in kinds),
                    *((s, pa.float64()) for s in fleet.sensors if name == "telemetry"),
                ]
            )
            for name, kinds in names.items()
        }
        self.schemas["machines"] = pa.schema(
            [
                ("machine_id", pa.string()),
                ("received", INSTANT),
                ("model", pa.string()),
                ("age", pa.float64()),
            ]
        )
        tables = {
            name: self.connection.create_table(name, schema.empty_table())
            for name, schema in self.schemas.items()
        }
        telemetry = tables.pop("telemetry")
        tables["readings"] = self.connection.create_table(
            "readings", features.step_readings(telemetry, fleet)
        )
        self.readings = str(ibis.to_sql(features.step_readings(telemetry, fleet)))
        self.views = {
            view.name: (view, str(ibis.to_sql(features.build(view, fleet, tables))))
            for view in feature_views(fleet)
            if view.kind != "anomaly"
        }

    def tables(self, raw: Oracle) -> dict[str, Table]:
        """What `features.build` makes of a history, view by view."""
        self._fill("telemetry", raw.telemetry)
        self._fill("errors", raw.errors)
        self._fill("maintenance", raw.maintenance)
        self._fill("machines", raw.machines)
        self.connection.raw_sql(f"CREATE OR REPLACE TABLE readings AS {self.readings}")
        return {name: self._table(view, sql) for name, (view, sql) in self.views.items()}

    def _fill(self, name: str, rows: Sequence[Row]) -> None:
        schema = self.schemas[name]
        cells = [
            {
                "machine_id": row.machine,
                "timestamp": row.timestamp,
                "received": row.received,
                "code": row.about,
                "component": row.about,
                **row.values,
            }
            for row in rows
        ]
        table = pa.Table.from_pylist(
            [{key: cell[key] for key in schema.names} for cell in cells], schema=schema
        )
        self.connection.raw_sql(f"DELETE FROM {name}")
        self.connection.con.register("filled", table)
        self.connection.raw_sql(f"INSERT INTO {name} SELECT * FROM filled")

    def _table(self, view: View, sql: str) -> Table:
        names = ["machine_id", "event_timestamp", "created_timestamp", *view.features]
        rows = self.connection.raw_sql(
            f"SELECT {', '.join(map(quoted, names))} FROM ({sql})"
        ).fetchall()
        found = {row[:3]: dict(zip(names[3:], row[3:], strict=True)) for row in rows}
        assert len(found) == len(rows), f"{view.name} has two rows of one version"
        return found


@cache
def compiled(name: str) -> Compiled:
    with patch.object(windows, "LONG", 0 if name == "slid" else windows.LONG):
        return Compiled(FLEETS[name])


def assert_same(found: Table, expected: Table, view: str) -> None:
    assert sorted(found) == sorted(expected), view
    for key, values in expected.items():
        for name, value in values.items():
            if isinstance(value, float):
                assert found[key][name] == pytest.approx(value, rel=1e-9, abs=1e-9), (key, name)
            else:
                assert found[key][name] == value, (key, name)


def random_history(name: str):
    return given(history=histories(FLEETS[name]))


def moderate(examples: int):
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None)


@in_each_fleet
def test_every_view_holds_what_plain_python_says(name: str) -> None:
    @moderate(30)
    @random_history(name)
    def check(history: Oracle) -> None:
        found = compiled(name).tables(history)
        for view, _ in compiled(name).views.values():
            assert_same(found[view.name], history.table(view), view.name)

    check()


@in_each_fleet
def test_what_was_published_is_never_changed_by_what_is_received_later(name: str) -> None:
    fleet = FLEETS[name]

    @moderate(15)
    @given(history=histories(fleet), steps=st.integers(0, SPAN + 3))
    def check(history: Oracle, steps: int) -> None:
        now = START + steps * fleet.step

        def before(rows: Sequence[Row]) -> list[Row]:
            return [row for row in rows if row.received <= now]

        earlier = Oracle(
            fleet,
            before(history.telemetry),
            before(history.errors),
            before(history.maintenance),
            before(history.machines),
        )
        then, later = compiled(name).tables(earlier), compiled(name).tables(history)
        for view in then:
            published = {key: row for key, row in then[view].items() if key[2] <= now}
            still = {key: row for key, row in later[view].items() if key[2] <= now}
            assert_same(still, published, view)

    check()


def one(*values: float | None, at: float = 0.5, late: float = 0.0) -> Row:
    """A reading of the fleet of hours, `at` hours after the start."""
    time = START + timedelta(hours=at)
    return Row("1", time, time + timedelta(hours=late), "", {"load": values[0]})


def rows_of(view: str, *telemetry: Row, **others: Sequence[Row]) -> list[tuple]:
    """The rows of a view of the fleet of hours, in hours since the start, by time."""
    found = compiled("hours").tables(Oracle(FLEETS["hours"], telemetry, **others))[view]
    hour = timedelta(hours=1)
    return [
        ((event - START) / hour, (created - START) / hour, values)
        for (_, event, created), values in sorted(found.items())
    ]


def test_a_step_holds_its_end_and_not_its_beginning() -> None:
    tick = 1e-6 / 3600
    found = rows_of("sensor_step", one(1.0, at=1), one(2.0, at=1 + tick), one(3.0, at=2))
    assert [(event, values["load_mean_1h"]) for event, _, values in found] == [(1, 1.0), (2, 2.5)]


def test_a_row_is_known_at_the_end_of_the_step_in_which_it_was_received() -> None:
    found = rows_of("sensor_step", one(1.0, late=3.25))
    assert [(event, created) for event, created, _ in found] == [(1, 4)]


def test_a_correction_makes_a_version_and_leaves_the_earlier_one() -> None:
    found = rows_of("sensor_step", one(1.0), one(7.0, late=2.0))
    assert [(created, values["load_mean_1h"]) for _, created, values in found] == [
        (1, 1.0),
        (3, 7.0),
    ]


def test_of_two_corrections_within_a_step_only_the_last_is_published() -> None:
    found = rows_of("sensor_step", one(1.0), one(7.0, late=2.0), one(8.0, late=2.25))
    assert [(created, values["load_mean_1h"]) for _, created, values in found] == [
        (1, 1.0),
        (3, 8.0),
    ]


def test_a_window_is_published_again_when_a_late_reading_in_it_comes_in() -> None:
    found = rows_of("sensor_window_3h", one(1.0, late=2.0), one(3.0, at=1.5))
    means = [(event, created, values["load_mean_3h"]) for event, created, values in found]
    assert means == [(1, 3, 1.0), (2, 2, 3.0), (2, 3, 2.0)]


def test_the_slope_is_in_units_an_hour() -> None:
    found = rows_of("sensor_window_3h", one(1.0), one(5.0, at=2.5))
    assert found[-1][2]["load_slope_3h"] == pytest.approx(2.0)


def test_an_error_before_the_first_reading_counts_and_makes_no_row_of_its_own() -> None:
    error = Row("1", START + timedelta(minutes=30), START + timedelta(minutes=30), "hot")
    found = rows_of("error_counts_3h", one(1.0, at=2.5), errors=[error])
    assert found == [(3, 3, {"hot_count_3h": 1.0, "loud_count_3h": 0.0})]


def test_the_age_of_a_component_counts_from_the_replacement_known_last() -> None:
    def replaced(at: float, late: float = 0.0) -> Row:
        time = START + timedelta(hours=at)
        return Row("1", time, time + timedelta(hours=late), "belt")

    found = rows_of(
        "component_age", one(1.0, at=5.5), maintenance=[replaced(-300), replaced(4.5, late=2)]
    )
    ages = [(created, values["belt_age"], values["pump_age"]) for _, created, values in found]
    assert ages == [(6, 306.0, None), (7, 1.0, None)]


def test_names_of_a_fleet_that_columns_of_our_own_have_too_change_nothing() -> None:
    fleet, hour = FLEETS["namesakes"], timedelta(hours=1)

    def rows(kind: Sequence[str], values: dict[str, float | None]) -> list[Row]:
        times = [START + place % SPAN * hour + hour / 2 for place in range(2 * len(NAMESAKES))]
        return [
            Row("1", time, time + place % 4 * hour, kind[place % len(kind)], values)
            for place, time in enumerate(times)
        ]

    # In late versions of some windows nothing is known that was measured.
    telemetry = [
        Row("1", START + at * hour, START + (at + late) * hour, "", values)
        for at, late, load in ((0.5, 0, 1.0), (1.5, 4, 2.0), (5.5, 0, None), (6.5, 2, 3.0))
        for values in [dict.fromkeys(SENSORS, load)]
    ]
    history = Oracle(fleet, telemetry, rows(NAMESAKES, {}), rows(NAMESAKES[::-1], {}))

    found = compiled("namesakes").tables(history)

    for view, _ in compiled("namesakes").views.values():
        assert_same(found[view.name], history.table(view), view.name)


def test_the_anomaly_score_is_no_expression() -> None:
    anomaly = feature_views(FLEETS["hours"])[-1]
    with pytest.raises(ValueError, match="'anomaly' of kind 'anomaly' is not an expression"):
        features.build(anomaly, FLEETS["hours"], {"readings": None})
