"""The bar that appears by itself where work takes long and a person looks on."""

import io
import time

from pytest import MonkeyPatch

from millwright.stores import progress
from millwright.stores.progress import counting, reporting


class Screen(io.StringIO):
    """What stderr is: a terminal or not."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def shown(monkeypatch: MonkeyPatch, *, patience: float, terminal: bool = True) -> str:
    """What is seen of work that takes 0.3 s."""
    screen = Screen(terminal=terminal)
    with monkeypatch.context() as patch:  # in the test itself: pytest sets stderr for each phase
        patch.setattr("sys.stderr", screen)
        patch.setenv("TERM", "xterm")
        patch.setattr(progress, "SECONDS", patience)
        with counting("rows of readings read", 3000) as advance:
            for _ in range(3):
                time.sleep(0.1)
                advance(1000)
    return screen.getvalue()


def test_what_takes_long_shows_rows_and_rate(monkeypatch):
    seen = shown(monkeypatch, patience=0)
    assert "rows of readings read" in seen
    assert "3000/3000" in seen
    assert "rows/s" in seen


def test_what_is_quick_shows_nothing(monkeypatch):
    assert shown(monkeypatch, patience=60) == ""


def test_who_asks_is_told_instead_of_a_bar(monkeypatch):
    told = []
    with reporting(lambda *what: told.append(what)):
        assert shown(monkeypatch, patience=0) == ""
    assert told == [("rows of readings read", done, 3000) for done in (0, 1000, 2000, 3000)]


def test_where_nobody_looks_on_there_is_silence(monkeypatch):
    assert shown(monkeypatch, patience=0, terminal=False) == ""
