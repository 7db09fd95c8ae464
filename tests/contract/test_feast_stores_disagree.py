"""Where Feast's own stores disagree with each other, or with the definition of a historical join.

Each test pins what each of them answers today beside what ours answer, which is what the definition
says (`oracle.py`). A version of Feast that mends one fails its test: delete that line of it, and of
the table in docs/point-in-time.md.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast_stores import Database, Stores, View
from servers import database

T = datetime(2025, 3, 30, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
TICK = timedelta(microseconds=1)
NAIVE = pa.timestamp("us")
STRING, INTEGER = pa.string(), pa.int64()

readings = View("readings", {"machine_id": STRING}, {"count": INTEGER})
heat = View("heat", {"machine_id": STRING}, {"celsius": pa.float64()})
slots = View("slots", {"machine_id": STRING, "slot": STRING}, {"wear": INTEGER})
brief = View(
    "brief", {"machine_id": STRING}, {"pulse": INTEGER}, time_to_live=timedelta(seconds=1.5)
)
naive = View("naive", {"machine_id": STRING}, {"total": INTEGER}, event=NAIVE, created=NAIVE)
VIEWS = [readings, heat, slots, brief, naive]
FEAST = ["dask", "duckdb", "postgres"]
OURS = ["asof", "asof_postgres"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def stores(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """The process and the sessions of PostgreSQL are in Berlin, as many are."""
    with pytest.MonkeyPatch.context() as patch, database(postgres) as url:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        with closing(Database(url, "Europe/Berlin")) as tables:
            yield Stores(tmp_path_factory.mktemp("plant"), tables, VIEWS, FEAST + OURS)
    time.tzset()


def frame(*times: datetime | None, **columns: Sequence[object]) -> pd.DataFrame:
    """Cut-offs, numbered in the column `n`."""
    instants = pd.to_datetime(list(times), utc=True)
    return pd.DataFrame({"event_timestamp": instants, "n": range(len(times)), **columns})


def answers(
    stores: Stores, asked: pd.DataFrame, *features: str, known: bool = False
) -> dict[str, Any]:
    """What each store answers: the number of each cut-off and its features, or its error's name.

    Rows are in the order of their numbers, but those of ours as they come.
    """
    found: dict[str, Any] = {}
    for name in FEAST + OURS:
        try:
            rows = stores.ask(name, asked, features, filter_by_created_timestamp=known)
        except Exception as err:
            found[name] = type(err).__name__
        else:
            columns = ["n", *(feature.partition(":")[2] for feature in features)]
            found[name] = [tuple(row.values()) for row in rows.select(columns).to_pylist()]
            if name in FEAST:
                found[name].sort(key=itemgetter(0))
    ours = [found.pop(name) for name in OURS]
    assert str(ours[0]) == str(ours[1])
    return found | {"ours": ours[0]}


def test_dask_drops_cutoffs_before_the_first_row_and_after_the_last_ones_life(stores):
    stores.write(brief, [("a", T, T, 1)])
    asked = frame(T - TICK, T, T + 2 * SECOND, T, machine_id=["a", "a", "a", "unknown"])
    every = [(0, None), (1, 1), (2, None), (3, None)]
    assert answers(stores, asked, "brief:pulse") == {
        "dask": [(1, 1), (3, None)],
        "duckdb": every,
        "postgres": every,
        "ours": every,
    }


def test_dask_drops_a_cutoff_for_which_one_view_of_two_has_only_later_rows(stores):
    stores.write(readings, [("a", T, T, 1)])
    stores.write(heat, [("a", T + HOUR, T + HOUR, 20.5)])
    asked = frame(T, machine_id=["a"])
    assert answers(stores, asked, "readings:count", "heat:celsius") == {
        "dask": [],
        "duckdb": [(0, 1, None)],
        "postgres": [(0, 1, None)],
        "ours": [(0, 1, None)],
    }


def test_dask_collapses_cutoffs_of_one_key_and_time_even_if_another_view_tells_them_apart(stores):
    stores.write(readings, [("a", T, T, 1)])
    stores.write(slots, [("a", "x", T, T, 1), ("a", "y", T, T, 2)])
    asked = frame(T, T, machine_id=["a", "a"], slot=["x", "y"])
    both = [(0, 1, 1), (1, 1, 2)]
    assert answers(stores, asked, "readings:count", "slots:wear") == {
        "dask": [(1, 1, 2)],
        "duckdb": both,
        "postgres": both,
        "ours": both,
    }


def test_dask_puts_cutoffs_without_a_match_first_and_duckdb_last(stores):
    stores.write(readings, [("a", T, T, 1), ("b", T, T, 2)])
    asked = frame(T + HOUR, T - HOUR, T, machine_id=["b", "x", "a"])
    orders = {
        name: stores.ask(name, asked, ["readings:count"])["n"].to_pylist() for name in FEAST + OURS
    }
    assert orders["dask"][0] == 1
    assert orders["duckdb"][-1] == 1
    assert orders["postgres"] == orders["asof"] == orders["asof_postgres"] == [0, 1, 2]


def test_postgres_takes_two_keys_for_one_if_they_read_the_same_one_after_the_other(stores):
    stores.write(slots, [("1", "12", T - HOUR, T, 1), ("11", "2", T, T, 2)])
    asked = frame(T, T, machine_id=["1", "11"], slot=["12", "2"])
    assert answers(stores, asked, "slots:wear") == {
        "dask": [(0, 1), (1, 2)],
        "duckdb": [(0, 1), (1, 2)],
        "postgres": [(0, 2), (1, 2)],
        "ours": [(0, 1), (1, 2)],
    }


def test_of_rows_equal_in_both_times_duckdb_takes_the_first_and_postgres_all(stores):
    stores.write(readings, [("a", T, T, 1), ("a", T, T, 2), ("a", T, T, 3)])
    found = answers(stores, frame(T, machine_id=["a"]), "readings:count")
    assert found == {
        "dask": [(0, 3)],
        "duckdb": [(0, 1)],
        "postgres": [(0, 1), (0, 2), (0, 3)],
        "ours": [(0, 3)],
    }


def test_dask_loses_the_created_time_in_a_longer_history(stores):
    """It sorts by created time and then by event time, and the second sort is not stable."""
    records = [
        (f"m{number % 20}", T - timedelta(minutes=number % 3), T + number * SECOND, number)
        for number in np.random.default_rng(1).permutation(300).tolist()
    ]
    stores.write(readings, records)
    machines = [f"m{number}" for number in range(20)]
    newest = [
        max((event, known, n) for key, event, known, n in records if key == machine)[2]
        for machine in machines
    ]
    found = answers(stores, frame(*[T] * 20, machine_id=machines), "readings:count")
    assert found["dask"] != list(enumerate(newest))
    assert found["duckdb"] == found["postgres"] == found["ours"] == list(enumerate(newest))


def test_postgres_does_not_see_rows_without_a_created_time(stores):
    stores.write(readings, [("a", T - HOUR, T - HOUR, 1), ("a", T, None, 2), ("b", T, None, 3)])
    asked = frame(T, T, machine_id=["a", "b"])
    found = answers(stores, asked, "readings:count")
    assert found == {
        "dask": [(0, 2), (1, 3)],
        "duckdb": [(0, 2), (1, 3)],
        "postgres": [(0, 1), (1, None)],
        "ours": [(0, 2), (1, 3)],
    }


def test_postgres_drops_the_fraction_of_a_second_from_a_time_to_live(stores):
    stores.write(brief, [("a", T, T, 1)])
    asked = frame(T + SECOND, T + 1.5 * SECOND, machine_id=["a", "a"])
    assert answers(stores, asked, "brief:pulse") == {
        "dask": [(0, 1), (1, 1)],
        "duckdb": [(0, 1), (1, 1)],
        "postgres": [(0, 1), (1, None)],
        "ours": [(0, 1), (1, 1)],
    }


def test_dask_joins_a_null_key_to_rows_with_a_null_key(stores):
    stores.write(readings, [(None, T, T, 1)])
    asked = frame(T, T, machine_id=["a", None])
    assert answers(stores, asked, "readings:count") == {
        "dask": [(0, None), (1, 1)],
        "duckdb": [(0, None), (1, None)],
        "postgres": [(0, None), (1, None)],
        "ours": [(0, None), (1, None)],
    }


def test_dask_finds_rows_without_an_event_time_at_any_time(stores):
    stores.write(readings, [("a", None, T, 1)])
    assert answers(stores, frame(T, machine_id=["a"]), "readings:count") == {
        "dask": [(0, 1)],
        "duckdb": [(0, None)],
        "postgres": [(0, None)],
        "ours": [(0, None)],
    }


def test_dask_drops_cutoffs_without_a_time(stores):
    stores.write(readings, [("a", T, T, 1)])
    asked = frame(T, None, machine_id=["a", "a"])
    assert answers(stores, asked, "readings:count") == {
        "dask": [(0, 1)],
        "duckdb": [(0, 1), (1, None)],
        "postgres": [(0, 1), (1, None)],
        "ours": [(0, 1), (1, None)],
    }


def test_dask_rounds_whole_numbers_beside_a_null_and_takes_nan_for_null(stores):
    stores.write(readings, [("a", T, T, 2**60 + 1)])
    stores.write(heat, [("a", T, T, math.nan)])
    asked = frame(T, T, machine_id=["a", "x"])
    found = answers(stores, asked, "readings:count", "heat:celsius")
    right = str([(0, 2**60 + 1, math.nan), (1, None, None)])
    assert {name: str(rows) for name, rows in found.items()} == {
        "dask": str([(0, float(2**60), None), (1, None, None)]),
        "duckdb": right,
        "postgres": right,
        "ours": right,
    }


def test_postgres_reads_times_without_a_zone_in_that_of_the_server_and_sees_the_future(stores):
    """In Berlin the row is two hours old before it happens. West of UTC it comes too late."""
    noon = T.replace(tzinfo=None)
    stores.write(naive, [("a", noon, noon, 1)])
    asked = frame(T - 2 * HOUR, T - TICK, T, machine_id=["a"] * 3)
    found = answers(stores, asked, "naive:total", known=True)
    assert found == {
        "dask": [(2, 1)],
        "duckdb": [(0, None), (1, None), (2, 1)],
        "postgres": [(0, 1), (1, 1), (2, 1)],
        "ours": [(0, None), (1, None), (2, 1)],
    }


def test_postgres_reads_cutoffs_without_a_zone_in_that_of_the_server(stores):
    stores.write(readings, [("a", T, T, 1)])
    asked = frame(T, T + 2 * HOUR - TICK, T + 2 * HOUR, machine_id=["a"] * 3)
    asked["event_timestamp"] = asked["event_timestamp"].dt.tz_convert(None)
    assert answers(stores, asked, "readings:count") == {
        "dask": [(0, 1), (1, 1), (2, 1)],
        "duckdb": [(0, 1), (1, 1), (2, 1)],
        "postgres": [(0, None), (1, None), (2, 1)],
        "ours": [(0, 1), (1, 1), (2, 1)],
    }


def test_only_ours_give_times_back_as_they_were(stores):
    stores.write(readings, [("a", T, T, 1)])
    asked = frame(T, machine_id=["a"])
    kinds = {}
    for zone in ("Europe/Berlin", None):
        asked["event_timestamp"] = asked["event_timestamp"].dt.tz_convert(zone)
        for name in FEAST + OURS:
            rows = stores.ask(name, asked, ["readings:count"])
            kinds[name, zone] = str(rows.schema.field("event_timestamp").type)
    berlin, none = "timestamp[ns, tz=Europe/Berlin]", "timestamp[ns]"
    assert kinds == {
        ("dask", "Europe/Berlin"): "timestamp[ns, tz=UTC]",
        ("duckdb", "Europe/Berlin"): "timestamp[us, tz=Europe/Berlin]",
        ("postgres", "Europe/Berlin"): "timestamp[us]",
        ("asof", "Europe/Berlin"): berlin,
        ("asof_postgres", "Europe/Berlin"): berlin,
        ("dask", None): "timestamp[ns, tz=UTC]",
        ("duckdb", None): "timestamp[us]",
        ("postgres", None): "timestamp[us]",
        ("asof", None): none,
        ("asof_postgres", None): none,
    }


def test_duckdb_refuses_nanoseconds(stores):
    stores.write(readings, [("a", T, T, 1)])
    asked = frame(T, T, machine_id=["a", "a"])
    asked["event_timestamp"] += pd.to_timedelta([-1, 1], unit="ns")
    assert answers(stores, asked, "readings:count") == {
        "dask": [(1, 1)],
        "duckdb": "ArrowInvalid",
        "postgres": [(0, None), (1, 1)],
        "ours": [(0, None), (1, 1)],
    }


def test_dask_ends_in_2262(stores):
    late = datetime(2300, 1, 1, tzinfo=UTC)
    stores.write(readings, [("a", late, late, 1)])
    asked = pd.DataFrame({"event_timestamp": [late], "machine_id": ["a"], "n": [0]})
    asked["event_timestamp"] = asked["event_timestamp"].astype("datetime64[us, UTC]")
    assert answers(stores, asked, "readings:count") == {
        "dask": "OutOfBoundsDatetime",
        "duckdb": [(0, 1)],
        "postgres": [(0, 1)],
        "ours": [(0, 1)],
    }


def test_no_cutoffs_of_no_type_are_too_much_for_feasts_stores(stores):
    stores.write(readings, [("a", T, T, 1)])
    assert answers(stores, frame(machine_id=[]), "readings:count") == {
        "dask": "ValueError",
        "duckdb": "IbisTypeError",
        "postgres": "UndefinedFunction",
        "ours": [],
    }


def test_a_view_before_its_first_rows_is_an_error_in_feasts_stores(stores):
    stores.write(readings, [("a", T, T, 1)])
    stores.remove(readings)
    assert answers(stores, frame(T, machine_id=["a"]), "readings:count") == {
        "dask": "FileNotFoundError",
        "duckdb": "IOException",
        "postgres": "UndefinedTable",
        "ours": [(0, None)],
    }


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([Decimal("1.50")], {"postgres": "ValueError"}),
        (pd.Categorical(["site"]), {"postgres": "ValueError"}),
        (np.array([1], dtype="int8"), {"postgres": "UndefinedObject"}),
        ([timedelta(1)], {"duckdb": "ArrowNotImplementedError", "postgres": "ValueError"}),
    ],
    ids=["decimal", "categorical", "int8", "duration"],
)
def test_columns_of_the_entity_frame_that_feasts_stores_refuse(stores, column, expected):
    stores.write(readings, [("a", T, T, 1)])
    asked = frame(T, machine_id=["a"], more=column)
    right = {name: [(0, 1)] for name in [*FEAST, "ours"]}
    assert answers(stores, asked, "readings:count") == right | expected


def test_a_span_of_time_in_place_of_cutoffs_means_something_else_to_each(stores):
    """To dask what was so at its end, to the others every row in it."""
    earlier = [("a", T - HOUR, T - HOUR, 1), ("a", T, T, 2), ("b", T - 3 * HOUR, T, 3)]
    stores.write(readings, [*earlier, ("c", T + TICK, T, 4)])
    found = {}
    for name in FEAST + OURS:
        try:
            span = {"start_date": T - HOUR, "end_date": T}
            rows = stores.ask(name, None, ["readings:count"], **span)
        except TypeError:
            found[name] = None
        else:
            columns = rows.select(["machine_id", "count"]).to_pylist()
            found[name] = sorted(tuple(row.values()) for row in columns)
    assert found == {
        "dask": [("a", 2), ("b", 3)],
        "duckdb": None,
        "postgres": [("a", 1), ("a", 2)],
        "asof": [("a", 1), ("a", 2)],
        "asof_postgres": [("a", 1), ("a", 2)],
    }


def test_a_correction_leaks_into_the_past_unless_one_asks_for_what_was_known(stores):
    """Here they agree, and ours with them: it is what Feast defines."""
    stores.write(readings, [("a", T, T, 1), ("a", T, T + HOUR, 2)])
    asked = frame(T, T + HOUR, machine_id=["a", "a"])
    for known, expected in ((False, [(0, 2), (1, 2)]), (True, [(0, 1), (1, 2)])):
        found = answers(stores, asked, "readings:count", known=known)
        assert found == dict.fromkeys([*FEAST, "ours"], expected)
