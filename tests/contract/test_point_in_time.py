"""Both offline stores, through Feast, against the definition of a historical join (`oracle.py`).

The process and PostgreSQL's sessions are in Berlin, where an hour is missing in March and another
comes twice in October.
"""

import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from functools import cache
from itertools import chain

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureView
from feast_stores import Database, Stores, View
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Row, answer
from servers import database

HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
NAIVE = pa.timestamp("us")
SPRING = datetime(2025, 3, 30, tzinfo=UTC)  # 02:00 to 03:00 in Berlin, at 01:00, does not exist
AUTUMN = datetime(2025, 10, 26, tzinfo=UTC)  # 02:00 to 03:00 in Berlin, until 02:00, comes twice
NEAR = [SPRING, AUTUMN, datetime(1970, 1, 1, tzinfo=UTC), datetime(1890, 4, 1, tzinfo=UTC)]
FAR = [datetime(1, 1, 3, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)]

STRING = pa.string()
VALUES = {"value": pa.float64(), "number": pa.int64()}
readings = View("readings", {"machine_id": STRING}, VALUES, time_to_live=2 * HOUR, indexed=True)
parts = View("parts", {"machine_id": STRING, "slot": pa.int32()}, VALUES, event=NAIVE)
sockets = View(
    "sockets", {"slot": pa.int16()}, VALUES, created=NAIVE, time_to_live=timedelta(0), indexed=True
)
notes = View("notes", {"machine_id": STRING}, VALUES, created=None, time_to_live=HOUR, indexed=True)
plant = View("plant", {}, VALUES, time_to_live=3 * HOUR)
absent = View("absent", {"machine_id": STRING}, VALUES)
VIEWS = [readings, parts, sockets, notes, plant, absent]
OTHERS = 400  # rows of others: reason for PostgreSQL to look few cut-offs up in an index
ASKED = ("machine_id", "twin_id", "slot")
OURS = ["asof", "asof_postgres"]
# How a view is joined: under which name, and by which columns of the cut-offs.
JOINS: dict[str, tuple[View, tuple[str, ...]]] = {
    "one": (readings, ("machine_id",)),
    "twin": (readings, ("twin_id",)),
    "parts": (parts, ("machine_id", "slot")),
    "sockets": (sockets, ("slot",)),
    "notes": (notes, ("machine_id",)),
    "plant": (plant, ()),
    "absent": (absent, ("machine_id",)),
}


@pytest.fixture(scope="module")
def stores(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with pytest.MonkeyPatch.context() as patch, database(postgres) as url:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        with closing(Database(url, "Europe/Berlin")) as tables:
            opened = Stores(tmp_path_factory.mktemp("plant"), tables, VIEWS, OURS)
            opened.serve(everything)
            opened.remove(absent)
            yield opened
    time.tzset()


def everything(views: dict[str, FeatureView]) -> FeatureService:
    """All views at once, one of them twice under other names and keys."""
    readings = views.pop("readings")
    one = readings.with_name("one")
    twin = readings.with_name("twin").with_join_key_map({"machine_id": "twin_id"})
    return FeatureService(name="everything", features=[one, twin, *views.values()])


@dataclass(frozen=True)
class World:
    """Rows of each view in their order, in files, and cut-offs of `ASKED` and a time."""

    files: Mapping[str, Sequence[Sequence[Row]]]
    cutoffs: Sequence[tuple[str | None, str | None, int | None, datetime | None]]


def record(view: View, row: Row) -> tuple[object, ...]:
    """The row as it is stored: times without a zone are in UTC."""
    times = [(row.event, view.event)]
    if view.created is not None:
        times.append((row.created, view.created))
    stored = [
        when if kind.tz or when is None else when.replace(tzinfo=None) for when, kind in times
    ]
    return (*row.key, *stored, *row.values)


def write(stores: Stores, world: World) -> None:
    for view in VIEWS:
        if view is not absent:
            key = (0,) if "slot" in view.keys else ("other",)
            others = [Row(key, SPRING, SPRING, (0.5, 0))] * (OTHERS if view.indexed else 0)
            files = [others, *world.files[view.name]]
            stores.write(view, *([record(view, row) for row in rows] for rows in files))


def frame(world: World, unit: str, zone: str | None) -> pd.DataFrame:
    """The cut-offs with a number each; some a little later than the microsecond, if they can."""
    machines, twins, slots, times = zip(*world.cutoffs, strict=True)
    bare = [None if when is None else when.replace(tzinfo=None) for when in times]
    moments = pd.Series(np.array(bare, dtype="datetime64[us]")).dt.as_unit(unit)
    if unit == "ns":
        moments += pd.to_timedelta(np.arange(len(times)) % 3 * 499, unit="ns")
    return pd.DataFrame(
        {
            "label": range(len(times)),
            "machine_id": np.array(machines, dtype=object),
            "twin_id": pd.array(list(twins), dtype="string"),
            "slot": pd.array(list(slots), dtype="Int64"),
            "event_timestamp": moments.dt.tz_localize("UTC").dt.tz_convert(zone),
        }
    )


def matches(world: World, view: View, keys: Sequence[str], *, as_known: bool) -> list[Row | None]:
    """The row of `view` that the definition gives each cut-off."""
    rows = defaultdict(list)
    for row in chain.from_iterable(world.files[view.name]):
        rows[row.key].append(row)

    @cache
    def match(key: tuple[object, ...], cutoff: datetime | None) -> Row | None:
        known = as_known and view.created is not None
        return answer(rows[key], key, cutoff, as_known=known, time_to_live=view.time_to_live)

    places = [ASKED.index(name) for name in keys]
    return [match(tuple(asked[n] for n in places), asked[-1]) for asked in world.cutoffs]


def expected(world: World, *, as_known: bool) -> dict[str, list[object]]:
    """What the definition says, by column of the result."""
    found: dict[str, list[object]] = {}
    for name, (view, keys) in JOINS.items():
        rows = matches(world, view, keys, as_known=as_known)
        for place, feature in enumerate(VALUES):
            found[f"{name}__{feature}"] = [row and row.values[place] for row in rows]
    return found


def check(stores: Stores, world: World, unit: str, zone: str | None) -> None:
    """Both stores answer as the definition says, and give the cut-offs back as they were."""
    asked = frame(world, unit, zone)
    for as_known in (True, False):
        right = expected(world, as_known=as_known)
        for name in OURS:
            result = stores.ask(
                name,
                asked,
                "everything",
                full_feature_names=True,
                filter_by_created_timestamp=as_known,
            )
            given = pa.Table.from_pandas(asked, preserve_index=False)
            assert result.select(asked.columns.tolist()).equals(given), name
            for column, values in right.items():  # as text: NaN is not equal to itself
                assert str(result[column].to_pylist()) == str(values), (name, column, as_known)


MACHINES = ["a", "A", "Ä b\n'", ""]
SLOTS = [-1, 7, 300]


def keys_of(view: View) -> st.SearchStrategy[tuple[object, ...]]:
    parts = {
        "machine_id": st.sampled_from([*MACHINES, None]),
        "slot": st.sampled_from([*SLOTS, None]),
    }
    return st.tuples(*(parts[name] for name in view.keys))


@st.composite
def worlds(draw: st.DrawFn, anchors: Sequence[datetime]) -> World:
    """Histories and cut-offs around a few moments, so that they meet in all ways."""
    anchor = draw(st.sampled_from(anchors))

    def moments(last: int) -> st.SearchStrategy[datetime | None]:
        hours, ticks = st.integers(-1, last), st.integers(-1, 1)
        some = st.builds(lambda h, t: anchor + h * HOUR + t * TICK, hours, ticks)
        return some | some | some | st.none()

    values = st.sampled_from([math.nan, None, math.inf, -0.0, 0.1])
    files = {}
    for view in VIEWS:
        created = moments(3) if view.created is not None else st.none()
        row = st.tuples(keys_of(view), moments(2), created, values)
        drawn = draw(
            st.just([]) | st.lists(row, max_size=1) | st.lists(row, min_size=9, max_size=24)
        )
        rows = [
            Row(key, event, known, (value, 2**60 + number))
            for number, (key, event, known, value) in enumerate(drawn)
        ]
        rows += [row for row in rows if row.values[0] is None]  # exact duplicates
        rows += [  # and some that are equal in key and both times alone
            replace(row, values=(0.2, -number))
            for number, row in enumerate(rows)
            if row.values[0] == math.inf
        ]
        cut = draw(st.integers(0, len(rows)))
        files[view.name] = [rows[:cut], rows[cut:]]
    files["absent"] = []
    asked = st.tuples(
        st.sampled_from([*MACHINES, "unknown", None]),
        st.sampled_from([*MACHINES, None]),
        st.sampled_from([*SLOTS, 99, None]),
        moments(5),
    )
    return World(files, draw(st.lists(asked, min_size=4, max_size=16)))


zones = st.sampled_from(["UTC", "Europe/Berlin", None])


@settings(max_examples=5, deadline=None)
@given(world=worlds(NEAR), unit=st.sampled_from(["us", "ns"]), zone=zones)
def test_every_answer_is_what_the_definition_says(stores, world, unit, zone):
    write(stores, world)
    check(stores, world, unit, zone)


@settings(max_examples=2, deadline=None)
@given(world=worlds(FAR), zone=zones)
def test_the_first_and_the_last_days_of_the_calendar_are_days_as_well(stores, world, zone):
    write(stores, world)
    check(stores, world, "us", zone)


def test_thousands_of_rows_in_disorder_over_many_files(stores):
    """A hundred moments, so that nearly all rows tie with others in some time, or end a life."""
    chance = random.Random(4)
    machines = [f"m{number}" for number in range(300)]

    def moment() -> datetime:
        return AUTUMN + chance.randrange(100) * HOUR / 10

    def row(view: View, number: int) -> Row:
        parts = {"machine_id": chance.choice(machines), "slot": chance.choice(SLOTS)}
        event, known = moment(), None
        if view.created is not None and chance.random() < 0.95:
            known = chance.choice([event, event, event + HOUR / 10, moment()])
        return Row(tuple(parts[name] for name in view.keys), event, known, (0.5, number))

    files = {
        view.name: [[row(view, 1000 * file + n) for n in range(1000)] for file in range(3)]
        for view in VIEWS
    }
    for rows in files.values():  # some again, equal in key and both times
        rows.append([replace(row, values=(0.7, -n)) for n, row in enumerate(rows[1]) if n % 3])
    files["absent"] = []
    cutoffs = [
        (chance.choice(machines), chance.choice(machines), chance.choice(SLOTS), moment())
        for _ in range(3000)
    ]
    write(stores, World(files, []))
    for few_or_many in (40, 500, 3000):  # the ways that PostgreSQL has: look, merge, scan
        check(stores, World(files, cutoffs[:few_or_many]), "us", "UTC")


def test_columns_of_every_type_come_back_as_they_were(stores):
    noon = pd.Timestamp("2025-10-26 00:30", tz="UTC")  # 02:30 in Berlin, for the first time
    write(stores, World({name: [[]] for name in [*(view.name for view in VIEWS)]}, []))
    count = 3
    asked = pd.DataFrame(
        {
            "event_timestamp": [noon, noon + HOUR, noon],
            "machine_id": ["a", None, "a"],
            "slot": np.array([1, 2, 1], dtype="int16"),
            "twin_id": pd.Categorical(["b", None, "b"]),
            **{f"u{bits}": np.arange(count).astype(f"uint{bits}") for bits in (8, 16, 32, 64)},
            **{f"f{bits}": np.arange(count).astype(f"float{bits}") for bits in (16, 32, 64)},
            "nullable": pd.array([2**60 + 1, None, 1], dtype="Int64"),
            "flag": [True, False, True],
            "maybe": pd.array([True, None, False], dtype="boolean"),
            "text": np.array(["x", None, ""], dtype=object),
            "bytes": [b"\0", None, b""],
            "decimal": [Decimal("1.50"), None, Decimal("-0.01")],
            "day": [date(2025, 10, 26), None, date(1, 1, 1)],
            "hour": [clock(2, 30), None, clock(0)],
            "naive": pd.to_datetime(["2025-10-26 02:30", None, "2025-03-30 02:30"]),
            "berlin": pd.Series([noon, noon + HOUR, None]).dt.tz_convert("Europe/Berlin"),
            "span": pd.to_timedelta(["1s", None, "-1us"]),
            "list": [[1, 2], None, []],
            "struct": [{"a": 1}, None, {"a": None}],
            "nothing": [None] * count,
        }
    )
    given = pa.Table.from_pandas(asked, preserve_index=False)
    for name in OURS:
        result = stores.ask(name, asked, "everything", full_feature_names=True)
        assert result.select(asked.columns.tolist()).equals(given), name
        assert result.num_columns == given.num_columns + len(JOINS) * len(VALUES)
