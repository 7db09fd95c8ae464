"""How often the log is told what goes wrong with each request."""

import logging

import pytest

from millwright.serving import complaints
from millwright.serving.complaints import Complaints


class Told:
    """Complaints by a clock that is set by hand, and what the log has of them."""

    def __init__(self, log: pytest.LogCaptureFixture) -> None:
        self.now = 1000.0
        self.complaints = Complaints(logging.getLogger("millwright.test"), lambda: self.now)
        self._log = log

    def told(self, *texts: str) -> list[str]:
        self._log.clear()
        for text in texts:
            self.complaints.add(text)
        return [each.getMessage() for each in self._log.records]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def test_what_is_new_is_told_at_once_and_the_same_after_a_while_with_its_number(log: Told) -> None:
    assert log.told("away", "away", "frozen", "away") == ["away", "frozen"]
    log.now += complaints.QUIET - 1
    assert log.told("away", "frozen") == []
    log.now += 1
    assert log.told("away", "away") == ["away (3 more since it was told)"]
    log.now += complaints.QUIET
    assert log.told("away") == ["away (1 more since it was told)"]
    log.now += complaints.QUIET
    assert log.told("away") == ["away"]


def test_however_many_different_ones_come_some_are_remembered(
    log: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(complaints, "KEPT", 2)
    assert log.told("a", "b", "c", "c", "b", "d", "b") == ["a", "b", "c", "d"]
    assert log.told("a") == ["a"]
