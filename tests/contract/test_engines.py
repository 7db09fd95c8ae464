"""The feature expressions on PostgreSQL and Spark, against DuckDB's results."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from math import isclose
from random import Random

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from engine_tables import ENGINES, Engine, compute, duckdb_engine, postgres_engine, spark_engine
from test_features import INSTANT, make_fleet

from millwright.warehouse import KEYS

MACHINES = ("1", "press 'B'", "Fräse")
CODES = ("hot", "E 1", "step", 'said "no"')
PARTS = ("belt", "known", "timestamp")
# Steps that make no whole fraction of an hour, and a sensor that is called as a column is.
FLEET = make_fleet("7min", ["pressure", "last_known"], ["21min", "7h"], CODES, PARTS)
ERROR_WINDOWS = (timedelta(minutes=14), timedelta(hours=3.5))
FEATURES = FLEET.features.model_copy(update={"error_windows": ERROR_WINDOWS})
FLEET = FLEET.model_copy(update={"features": FEATURES})
START = datetime(2025, 2, 28, 20, tzinfo=UTC)
TICK = timedelta(microseconds=1)
SPAN = 90


@pytest.fixture(scope="module")
def raw() -> dict[str, pa.Table]:
    """A history with gaps, nulls, late rows and corrections."""
    random = Random(0)
    sensors = [
        {
            "pressure": random.gauss(101_325, 300) if random.random() < 0.7 else None,
            "last_known": random.gauss(0, 0.01) if random.random() < 0.7 else None,
        }
        for _ in range(240)
    ]
    received = [START, START + timedelta(hours=5, microseconds=7)]
    machines = [
        {"machine_id": machine, "received": time, "model": model, "age": age}
        for machine in MACHINES
        for time, model, age in zip(received, ("a", None), (None, 3.25), strict=True)
    ]
    attributes = {"model": pa.string(), "age": pa.float64()}
    return {
        "telemetry": rows(random, sensors, dict.fromkeys(FLEET.sensors, pa.float64())),
        "errors": rows(random, [{"code": c} for c in CODES] * 40, {"code": pa.string()}),
        "maintenance": rows(
            random, [{"component": p} for p in PARTS] * 8, {"component": pa.string()}
        ),
        "machines": pa.Table.from_pylist(
            machines,
            pa.schema([("machine_id", pa.string()), ("received", INSTANT), *attributes.items()]),
        ),
    }


def rows(random: Random, cells: Sequence[dict], kinds: dict[str, pa.DataType]) -> pa.Table:
    """Each of `cells` at some time, often at the edge of a step; some late, some corrected."""
    found: dict[tuple, dict] = {}
    for cell in cells:
        machine = random.choice(MACHINES)
        quarter = random.randrange(4 * SPAN) * FLEET.step / 4
        timestamp = START + quarter + random.choice((0, 0, 1, -1)) * TICK
        for _ in range(random.choice((1, 1, 1, 1, 1, 2, 3))):
            steps = random.choice((0, 0, 0, 0, 0, 0, 0.25, 1.25, 9, 60, -1.5))
            key = machine, timestamp, timestamp + steps * FLEET.step
            about = cell.get("code", cell.get("component"))
            found[*key, about] = {
                **dict(zip(("machine_id", "timestamp", "received"), key, strict=True)),
                **(cell if about else random.choice(cells)),
            }
    times = {"timestamp": INSTANT, "received": INSTANT}
    return pa.Table.from_pylist(
        list(found.values()), pa.schema({"machine_id": pa.string(), **times, **kinds})
    )


@pytest.fixture(scope="module")
def expected(raw) -> dict[str, pa.Table]:
    with duckdb_engine() as engine:
        return compute(engine, FLEET, raw)


@contextmanager
def started(name: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    if name == "postgres":
        with postgres_engine(request.getfixturevalue("postgres_url")) as engine:
            yield engine
    else:
        with spark_engine(request.getfixturevalue("tmp_path")) as engine:
            yield engine


def test_the_history_has_what_engines_could_differ_in(expected) -> None:
    for view, table in expected.items():
        late = pc.greater(table["created_timestamp"], table["event_timestamp"])
        assert pc.any(late).as_py() == (view != "machine_attributes"), view
        features = set(table.column_names) - set(KEYS)
        with_nulls = {name for name in features if table[name].null_count}
        assert with_nulls == (set() if view.startswith("error_counts") else features), view


@pytest.mark.parametrize("name", ENGINES)
def test_every_view_is_the_same_on_every_engine(name, request, raw, expected) -> None:
    with started(name, request) as engine:
        found = compute(engine, FLEET, raw)

    assert list(found) == list(expected)
    for view, table in expected.items():
        assert_same(found[view], table, view)


def assert_same(found: pa.Table, expected: pa.Table, view: str) -> None:
    """The same rows, in columns of the same types, and values within 1e-9; null is not NaN."""
    order = [(key, "ascending") for key in KEYS]
    found, expected = (table.sort_by(order) for table in (found, expected))
    assert kinds(found) == kinds(expected), view
    assert found.select(KEYS).equals(expected.select(KEYS)), view
    for name in expected.column_names:
        for ours, theirs in zip(found[name].to_pylist(), expected[name].to_pylist(), strict=True):
            if isinstance(ours, float) and isinstance(theirs, float):
                assert isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9), (view, name)
            else:
                assert ours == theirs, (view, name)


def kinds(table: pa.Table) -> dict[str, pa.DataType]:
    return dict(zip(table.schema.names, table.schema.types, strict=True))
