"""Predictions of a whole fleet as files and in a real PostgreSQL: of each time once, and whole."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from inferred import AS_OF, row
from inferred import table as of_rows

from millwright.errors import MillwrightError
from millwright.inference import table
from millwright.inference.table import PREDICTIONS
from millwright.settings import State

FLEET = "plant"
LATER = AS_OF + timedelta(hours=1)


@pytest.fixture(params=["local", "staging"])
def state(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    if request.param == "staging":
        url = request.getfixturevalue("postgres_url")
        monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", url)
    return State(tmp_path, request.param)


def machines(found: pa.Table) -> list[str]:
    return list(found["machine_id"].to_pylist())


def test_what_is_kept_is_read_again_by_rank(state: State) -> None:
    rows = of_rows(row("=ü'\"\\", 1), row("b", 2, status="degraded"), row("a"), row("é"))
    place = table.keep(state, FLEET, rows)
    assert FLEET in place
    found = table.read(state, FLEET)
    assert found.schema.equals(PREDICTIONS)
    assert found.to_pylist() == rows.to_pylist()


def test_a_rerun_replaces_all_of_a_time_whichever_release_it_is_by(state: State) -> None:
    table.keep(state, FLEET, of_rows(row("a", 1), row("b", 2)))
    table.keep(state, FLEET, of_rows(row("a", 1, as_of=LATER)))
    table.keep(state, FLEET, of_rows(row("b", 1, release=4), row("c", 2, release=4)))
    found = table.read(state, FLEET, AS_OF)
    assert machines(found) == ["b", "c"]
    assert set(found["release"].to_pylist()) == {4}
    assert machines(table.read(state, FLEET, LATER)) == ["a"]


def test_without_a_time_the_latest_is_read_to_the_microsecond(state: State) -> None:
    for machine, microseconds in (("a", 0), ("c", 7), ("b", 3)):
        time = AS_OF + timedelta(microseconds=microseconds)
        table.keep(state, FLEET, of_rows(row(machine, 1, as_of=time)))
    assert machines(table.read(state, FLEET)) == ["c"]
    assert machines(table.read(state, FLEET, AS_OF)) == ["a"]


def test_where_nothing_is_kept_there_are_no_rows(state: State) -> None:
    assert table.read(state, FLEET).equals(PREDICTIONS.empty_table())
    table.keep(state, FLEET, of_rows(row("a", 1)))
    assert len(table.read(state, FLEET, LATER)) == 0
    assert len(table.read(state, "another")) == 0


def test_of_two_at_once_one_is_there_whole(state: State) -> None:
    runs = [of_rows(*(row(f"m{n}", n + 1, run=run) for n in range(200))) for run in "abcd"]
    with ThreadPoolExecutor(len(runs)) as threads:
        list(threads.map(lambda rows: table.keep(state, FLEET, rows), runs))
    found = table.read(state, FLEET)
    assert found.to_pylist() in [rows.to_pylist() for rows in runs]


def test_a_run_that_is_killed_leaves_what_was_there_and_the_next_one_replaces_it(
    state: State,
) -> None:
    table.keep(state, FLEET, of_rows(row("a", 1)))
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests.parent), str(tests)])
    words = [str(tests / "killed_batch.py"), str(state.home), state.environment]
    done = subprocess.run(
        [sys.executable, *words], env={**os.environ, "PYTHONPATH": paths}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert machines(table.read(state, FLEET)) == ["a"]
    table.keep(state, FLEET, of_rows(row("b", 1)))
    assert machines(table.read(state, FLEET)) == ["b"]


def test_a_machine_that_stands_twice_in_a_run_is_refused_and_changes_nothing(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLWRIGHT_POSTGRES_URL", postgres_url)
    state = State(tmp_path, "staging")
    table.keep(state, FLEET, of_rows(row("a", 1)))
    with pytest.raises(MillwrightError, match="cannot write the predictions of the fleet in"):
        table.keep(state, FLEET, of_rows(row("b", 1), row("b", 2)))
    assert machines(table.read(state, FLEET)) == ["a"]


def test_a_file_that_was_spoilt_is_named_with_the_way_to_make_it_again(tmp_path: Path) -> None:
    state = State(tmp_path, "local")
    path = Path(table.keep(state, FLEET, of_rows(row("a", 1))))
    path.write_bytes(b"PAR1")
    with pytest.raises(
        MillwrightError, match=f"{path} cannot be read: .* --as-of 20251231T000000Z"
    ):
        table.read(state, FLEET)
