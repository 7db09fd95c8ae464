"""What a person sees: words as they were given, on the right stream."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.text import Text

from millwright import terminal
from millwright.errors import ConfigurationError

FAULT = "gate.yaml:100: [bold]unknown[/bold] key ':warning:' in [/tmp]"
Capture = pytest.CaptureFixture[str]


def test_what_goes_on_and_what_failed_is_on_stderr(capsys: Capture) -> None:
    terminal.say("one")
    terminal.warn("two")
    terminal.fail("three")
    assert capsys.readouterr() == ("", "one\nwarning: two\nerror: three\n")


def test_words_are_told_as_they_are(capsys: Capture) -> None:
    """A line is no emoji, and what stands in brackets is no style."""
    terminal.say(FAULT)
    terminal.fail(FAULT)
    terminal.show_table(FAULT, {FAULT: FAULT})
    out, err = capsys.readouterr()
    assert err == f"{FAULT}\nerror: {FAULT}\n"
    title, row = out.splitlines()
    assert title.rstrip() == FAULT
    assert row.rstrip() == f"{FAULT}  {FAULT}"


def test_a_long_line_is_one_line(capsys: Capture) -> None:
    """So that it can be searched for, and a path copied."""
    text = "a word " * 40 + "/a/path" * 40
    terminal.fail(text)
    assert capsys.readouterr().err == f"error: {text}\n"


def test_progress_that_nobody_watches_is_a_line_for_each_piece(capsys: Capture) -> None:
    with terminal.progress() as show:
        show("machines", 0, 2)
        show("views", 1, 3)
        show("machines", 1, 2)
        show("machines", 2, 2)
        assert capsys.readouterr().err == "  machines: 2 of 2\n"
        show("views", 3, 3)
    assert capsys.readouterr() == ("", "  views: 3 of 3\n")


def test_long_work_that_nobody_watches_says_now_and_then_how_far_it_is(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0, 20, 31, 31, 50, 62, 62])  # it is asked again when a line was told
    monkeypatch.setattr(terminal, "monotonic", lambda: next(clock))
    with terminal.progress() as show:
        for done in range(1, 5):
            show("trials", done, 9)
    assert capsys.readouterr().err == "  trials: 2 of 9\n  trials: 4 of 9\n"


def test_progress_that_fails_lets_the_fault_through() -> None:
    with pytest.raises(KeyError), terminal.progress() as show:
        show("machines", 1, 2)
        raise KeyError("a fault of the work")


def test_a_table_shows_every_line_of_every_value_on_stdout(capsys: Capture) -> None:
    long = "x" * 400
    terminal.show_table("result", {"rows": "1,000", "gate": "first\nsecond", "path": long})
    out, err = capsys.readouterr()
    assert out == f"result\nrows  1,000\ngate  first\n      second\npath  {long}\n"
    assert err == ""


def test_a_terminal_folds_what_is_wider_than_it_is(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    long = "x" * 400
    terminal.show_table("result", {"rows": "1,000", "path": long})
    lines = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert max(map(len, lines)) <= 60
    assert "".join(lines[2:]).replace("path", "").replace(" ", "") == long


def test_a_summary_for_machines_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "summary.json"
    terminal.write_json(path, {"rows": {"test": 3}, "when": datetime(2025, 1, 1, tzinfo=UTC)})
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found == {"rows": {"test": 3}, "when": "2025-01-01 00:00:00+00:00"}


def test_a_summary_that_cannot_be_made_leaves_the_former(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    terminal.write_json(path, {"status": "promoted"})
    with pytest.raises(TypeError):
        terminal.write_json(path, {("no", "key"): 1})  # type: ignore[dict-item]
    assert json.loads(path.read_text()) == {"status": "promoted"}
    assert [each.name for each in tmp_path.iterdir()] == ["summary.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "summary.json"
    with pytest.raises(ConfigurationError, match=f"cannot write the summary to {path}: .* --json"):
        terminal.write_json(path, {})
