"""The harness of the benchmarks: no figure without equal results, and nothing left behind."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import contests
import psutil
import pyarrow as pa
import pytest

from benchmarks import comparison, harness, presentation
from benchmarks.benchmark import Figure, under
from benchmarks.harness import Outcome
from millwright import benchmark as verb
from millwright.__main__ import main
from millwright.configuration import MOST_NAMES

Capture = pytest.CaptureFixture[str]
NAIVE = datetime(2025, 1, 1, 12)  # noqa: DTZ001
ROWS = contests.rows()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def equal(work: Path) -> Outcome:
    return harness.run("contests", "equal", "quick", work)


def test_a_figure_is_the_median_of_its_turns_and_a_ratio_to_ours(equal: Outcome) -> None:
    ours, pandas, afterwards = equal.figures
    assert [len(each.repeats) for each in equal.figures] == [2, 2, 1]
    assert pandas.seconds == statistics.median(pandas.repeats)
    assert pandas.seconds >= 0.3 > (ours.seconds or 1)
    assert pandas.ratio == pytest.approx(pandas.seconds / (ours.seconds or 1))
    assert (ours.ratio, ours.equal, afterwards.ended) == (1.0, True, "ok")
    assert all(10 < (each.peak_memory_mb or 0) < 2000 for each in equal.figures)


def test_claims_are_held_against_the_figures(equal: Outcome) -> None:
    assert list(equal.claims.values()) == [True, False, True]


def test_a_claim_may_be_of_seconds_of_memory_or_of_both() -> None:
    figure = Figure("b", "quick", "ours", seconds=2.0, peak_memory_mb=500.0)
    claims = [
        under("ours", seconds=3),
        under("ours", memory_mb=400),
        under("ours", seconds=3, memory_mb=400),
        under("ours", seconds=2.5, memory_mb=3_000),
    ]
    assert [claim.text for claim in claims] == [
        "ours under 3 s",
        "ours under 400 MB",
        "ours under 3 s and 400 MB",
        "ours under 2.5 s and 3,000 MB",
    ]
    assert [claim.holds({"ours": figure}) for claim in claims] == [True, False, False, True]
    assert claims[0].holds({"ours": Figure("b", "quick", "ours", ended="died")}) is None


def test_the_record_for_machines_has_what_the_design_names(equal: Outcome) -> None:
    first, second, _ = presentation.records([equal])
    assert list(first)[:8] == [
        "benchmark", "size", "contender", "seconds", "peak_memory_mb", "equal", "ended", "ratio",
    ]  # fmt: skip
    assert (second["benchmark"], second["contender"]) == ("equal", "pandas")
    assert first["machine"]["cores"] >= 1


def test_the_table_and_the_plots_name_every_contender(
    equal: Outcome, tmp_path: Path, capsys: Capture
) -> None:
    presentation.show(equal)
    shown = capsys.readouterr().out
    assert all(each.contender in shown for each in equal.figures)
    assert "pandas at least 2 times as fast as ours: DOES NOT HOLD" in shown
    png, svg = presentation.plot(equal, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"</svg>" in svg.read_bytes()


def test_contenders_that_disagree_have_no_figure(
    equal: Outcome, work: Path, capsys: Capture
) -> None:
    made = _data_made(work)
    outcome = harness.run("contests", "unequal", "quick", work)
    assert _data_made(work) == made  # once, as it has the same code and options
    assert [(each.seconds, each.ratio, each.equal) for each in outcome.figures] == [
        (None, None, False)
    ] * 2
    assert outcome.difference is not None
    assert "ours against other: column key: 1 values, the first in row 3: 4 against 3" in (
        outcome.difference
    )
    presentation.show(outcome)
    assert " s  " not in capsys.readouterr().out.partition("ours")[2].partition("\n")[0]


def test_a_contender_that_does_not_finish_is_reported_with_how_it_ended(work: Path) -> None:
    outcome = harness.run("contests", "endings", "quick", work)
    fails, grows, waits, ours = outcome.figures
    assert fails.ended == "died with exit code 1: MemoryError: no room for 5 GB"
    assert grows.ended.startswith("ended: memory, over 0.4 GB after ")
    assert waits.ended == "ended: stopped after 3 s"
    assert {each.seconds for each in (fails, grows, waits)} == {None}
    assert (ours.ended, ours.equal) == ("ok", None)  # with nobody's result to compare it with
    assert list(outcome.claims.values()) == [None]
    _gone(int(_sleeper(work).read_text()))


def test_feast_as_shipped_checks_the_types_of_what_it_is_called_with(work: Path) -> None:
    outcome = harness.run("contests", "shipped", "quick", work)
    first = "shipped against ours: column checked: 1 values, the first in row 0: True against False"
    assert (outcome.difference or "").startswith(first)


def test_work_may_have_a_clock_and_further_figures_of_its_own(work: Path, capsys: Capture) -> None:
    outcome = harness.run("contests", "measured", "quick", work)
    ours, other, nothing = outcome.figures
    assert [each.seconds for each in outcome.figures] == [2.0, 8.0, 1.0]
    assert (other.ratio, other.detail("p99_ms"), ours.detail("p99_ms")) == (4.0, 250.0, 1.5)
    assert [each.equal for each in outcome.figures] == [True, True, None]
    assert nothing.record()["details"] == [{"p99_ms": 1.0}]
    presentation.show(outcome)
    shown = capsys.readouterr().out
    assert "p99 ms" in shown and "1.50" in shown and "250" in shown


def test_a_harness_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    """Neither its contender, nor what that has started, nor the server."""
    code = (
        "from benchmarks import harness; from pathlib import Path; "
        f"harness.run('contests', 'waiting', 'quick', Path({str(tmp_path)!r}))"
    )
    paths = ":".join([str(Path(contests.__file__).parent), *filter(None, sys.path)])
    killed = subprocess.Popen(
        [sys.executable, "-c", code], env={"PYTHONPATH": paths, "PATH": "/usr/bin:/bin"}
    )
    family: list[psutil.Process] = []
    try:
        _await(lambda: bool(list(tmp_path.rglob("sleeper"))))
        family = psutil.Process(killed.pid).children(recursive=True)
        killed.kill()
        assert len(family) >= 3
        for each in family:
            _gone(each.pid)
        _await(lambda: not [each for each in psutil.process_iter() if _works_in(each, tmp_path)])
    finally:
        killed.kill()
        killed.wait()
        for each in filter(psutil.Process.is_running, family):
            each.kill()


TIMES = pa.table({"key": [1, 2], "at": pa.array([NAIVE, None], pa.timestamp("ns"))})


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (ROWS, None),
        (ROWS.to_pandas(), None),  # NaN for null
        (ROWS.slice(1), "4 rows against 3"),
        (ROWS.rename_columns(["key", "size"]), "only one has the columns size, value"),
        (
            ROWS.take([1, 0, 2, 3]),
            "column key: 2 values, the first in row 0: 1 against 2",
        ),
        (
            ROWS.set_column(1, "value", pa.array([0.5, None, 1.5 + 1e-9, 2.5])),
            None,
        ),
        (
            ROWS.set_column(1, "value", pa.array([0.5, 0.0, 1.5, 2.5])),
            "column value: 1 values, the first in row 1: None against 0.0",
        ),
        (
            ROWS.set_column(1, "value", pa.array([0.5, None, 1.6, 2.5])),
            "column value: 1 values, the first in row 2: 1.5 against 1.6",
        ),
    ],
)
def test_results_are_compared_value_by_value(
    tmp_path: Path, other: object, found: str | None
) -> None:
    assert _difference(tmp_path, ROWS, other, tolerance=1e-6) == found


def test_results_without_tolerance_are_equal_to_the_last_digit(tmp_path: Path) -> None:
    other = ROWS.set_column(1, "value", pa.array([0.5, None, 1.5 + 1e-9, 2.5]))
    assert "column value" in (_difference(tmp_path, ROWS, other) or "")


def test_results_with_a_key_are_equal_in_any_order(tmp_path: Path) -> None:
    other = ROWS.take([3, 1, 0, 2])
    assert _difference(tmp_path, ROWS, other, key=["key"]) is None


def test_a_time_without_a_zone_is_in_utc(tmp_path: Path) -> None:
    aware = pa.array([NAIVE.replace(tzinfo=UTC), None], pa.timestamp("us", tz="Europe/Berlin"))
    assert _difference(tmp_path, TIMES, TIMES.set_column(1, "at", aware)) is None


def test_results_by_name_are_compared_by_name(tmp_path: Path) -> None:
    one = {"a": ROWS, "b": ROWS}
    other = {"a": ROWS, "b": ROWS.take([0, 1, 2, 2])}
    found = _difference(tmp_path, one, other, key={"a": ["key"]})
    assert (found or "").startswith("b: column key: 1 values")


def test_every_script_stands_in_the_document() -> None:
    text = (verb.FOLDER / "README.md").read_text("utf-8")
    assert {"joins", "floor"} <= set(verb.scripts())
    assert [name for name in verb.scripts() if f"[{name}]({name}.py)" not in text] == []


def test_a_benchmark_that_does_not_exist_is_named(capsys: Capture) -> None:
    assert main(["benchmark", "join"]) == 2
    assert "there is no benchmark 'join'; did you mean 'joins'?" in capsys.readouterr().err
    assert main(["benchmark", "zzz"]) == 2
    said = capsys.readouterr().err
    names = [*verb.scripts(), verb.ALL]
    assert all(name in said for name in names[:MOST_NAMES])
    assert f"and {len(names) - MOST_NAMES} more" in said


def test_without_the_folder_of_benchmarks_there_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(verb, "FOLDER", tmp_path / "benchmarks")
    assert main(["benchmark", "all"]) == 2
    assert "run benchmarks in a checkout" in capsys.readouterr().err


def _difference(
    folder: Path, one: object, other: object, key: object = (), tolerance: float = 0.0
) -> str | None:
    for name, result in (("one", one), ("other", other)):
        comparison.keep(result, folder / name)
    return comparison.difference(folder / "one", folder / "other", key, tolerance)


def _data_made(work: Path) -> list[tuple[Path, int]]:
    return [(path, path.stat().st_mtime_ns) for path in work.glob("data/*/*")]


def _sleeper(work: Path) -> Path:
    return next(work.rglob("sleeper"))


def _gone(pid: int) -> None:
    _await(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.cwd().startswith(str(folder)) and process.status() != "zombie"
    except psutil.Error:
        return False


def _await(happened: Callable[[], bool]) -> None:
    for _ in range(600):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within half a minute")
