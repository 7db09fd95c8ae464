"""Reading online gives what the offline join gives, on both stores alike."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from feast import FeatureService, FeatureStore
from online_repository import (
    HOUR,
    START,
    TICK,
    new_store,
    write_offline,
    write_online,
)
from oracle import Row

from millwright.errors import InputError
from millwright.materialization import materialize
from millwright.online import Difference, compare, read_online

NOW = START + 10 * HOUR
MACHINES = ["unknown", "stale", "fresh", "half", "fresh"]
READINGS = [
    Row(("fresh",), NOW, NOW, (0.1, 0.0)),
    Row(("half",), NOW - 2 * HOUR, NOW, (None, 2.5)),  # exactly as old as it may be
    Row(("stale",), NOW - 2 * HOUR - TICK, NOW, (3.0, 3.5)),
]
NOTES = [
    Row(("stale",), START - 900 * HOUR, START, ("old, and true for ever",)),
    Row(("fresh",), START, START, ("é",)),
    Row(("half",), START, START, (None,)),
]


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def redis_or_none(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("redis_url") if request.param == "redis" else None


@pytest.fixture(scope="module")
def store(redis_or_none: str | None, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store of tests that do not change its rows."""
    return filled(tmp_path_factory.mktemp("store"), redis_or_none)


@pytest.fixture
def own(redis_or_none: str | None, tmp_path: Path) -> FeatureStore:
    """A store of one test alone."""
    return filled(tmp_path, redis_or_none)


def filled(folder: Path, redis_url: str | None) -> FeatureStore:
    store = new_store(folder, redis_url)
    write_offline(store, "readings", READINGS)
    write_offline(store, "notes", NOTES)
    materialize(store, ["readings", "notes"], NOW)
    return store


def test_what_is_read_is_what_the_offline_join_gives(store):
    found = read_online(store, "both", MACHINES, NOW)
    load = found.table["load"].to_pylist()
    assert load == [None, None, pytest.approx(0.1), None, pytest.approx(0.1)]
    assert found.table.drop_columns(["load"]).to_pydict() == {
        "machine_id": MACHINES,
        "note": [None, "old, and true for ever", "é", None, "é"],
        "wear": [None, None, 0.0, 2.5, 0.0],
    }
    assert found.table.column_names == ["machine_id", "note", "wear", "load"]  # as the service
    assert compare(store, "both", MACHINES, NOW) == []


def test_every_row_comes_with_its_time_and_what_it_is_worth(store):
    found = read_online(store, "both", MACHINES[:4], NOW)
    assert found.statuses == {
        "notes": ("missing", "present", "present", "present"),
        "readings": ("missing", "stale", "present", "present"),
    }
    assert found.events == {
        "notes": (None, START - 900 * HOUR, START, START),
        "readings": (None, NOW - 2 * HOUR - TICK, NOW, NOW - 2 * HOUR),
    }


def test_a_row_ages_with_the_moment_of_the_question(store):
    for now, status in ((NOW + 2 * HOUR, "present"), (NOW + 2 * HOUR + TICK, "stale")):
        for asked in (now, now.replace(tzinfo=None)):
            found = read_online(store, "both", ["fresh"], asked)
            assert found.statuses["readings"] == (status,)
        assert compare(store, "both", MACHINES, now) == []


def test_a_row_that_came_true_later_is_missing_and_tells_its_time(store):
    found = read_online(store, "both", ["fresh"], NOW - TICK)
    assert found.table.select(["load", "wear"]).to_pylist() == [{"load": None, "wear": None}]
    assert found.statuses == {"notes": ("present",), "readings": ("missing",)}
    assert found.events["readings"] == (NOW,)


def test_no_machines_are_answered_without_rows(store):
    found = read_online(store, "both", [], NOW)
    assert (found.table.num_rows, found.table.num_columns) == (0, 4)
    assert compare(store, "both", [], NOW) == []


def test_threads_read_from_one_store_at_once(store):
    expected = read_online(store, "both", MACHINES, NOW)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: read_online(store, "both", MACHINES, NOW), range(60)))
    assert found == [expected] * 60


def test_a_service_that_was_published_after_the_opening_is_found(store):
    reader = FeatureStore(repo_path=str(store.repo_path))
    read_online(reader, "both", ["fresh"], NOW)
    later = FeatureService(name="later", features=[store.get_feature_view("notes")])
    store.apply([later])
    assert read_online(reader, "later", ["fresh"], NOW).table["note"].to_pylist() == ["é"]


def test_every_difference_is_found_and_named(own):
    changed = replace(READINGS[0], created=NOW + TICK, values=(0.1, None))
    write_online(own, [changed])
    write_online(own, [Row(("unknown",), NOW, NOW, (1.0, 2.0))])
    write_online(own, [replace(NOTES[2], created=NOW, values=("invented",))], "notes")
    assert set(compare(own, "both", MACHINES[:4], NOW)) == {
        Difference("unknown", "wear", None, 2.0),
        Difference("unknown", "load", None, 1.0),
        Difference("fresh", "wear", 0.0, None),
        Difference("half", "note", None, "invented"),
    }


def test_rows_that_are_offline_alone_are_differences_until_they_are_materialized(own):
    newer = replace(READINGS[0], event=NOW + HOUR, created=NOW + HOUR, values=(4.0, 5.0))
    write_offline(own, "readings", [*READINGS, newer])
    assert compare(own, "both", ["fresh"], NOW) == []
    later = compare(own, "both", ["fresh"], NOW + HOUR)
    assert [(d.feature, d.offline) for d in later] == [("wear", 5.0), ("load", 4.0)]
    materialize(own, ["readings", "notes"], NOW + HOUR)
    assert compare(own, "both", MACHINES, NOW + HOUR) == []


def test_not_a_number_is_null_online(own):
    nan = replace(READINGS[0], created=NOW + TICK, values=(float("nan"), 1.0))
    write_offline(own, "readings", [*READINGS, nan])
    materialize(own, ["readings"], NOW + TICK)
    assert read_online(own, "both", ["fresh"], NOW).table["load"].to_pylist() == [None]
    assert compare(own, "both", ["fresh"], NOW + TICK) == []


def test_an_unknown_service_is_named(store):
    with pytest.raises(InputError, match="no feature service 'bot'; did you mean 'both'"):
        read_online(store, "bot", ["fresh"], NOW)
