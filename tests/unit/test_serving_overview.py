"""The whole fleet at one look, some of whose machines cannot be read."""

from typing import Any

import pytest
from serving_parts import HOUR, ROW, VIEWS, Memory, loaded

from millwright.errors import MillwrightError
from millwright.serving import overview
from millwright.serving.overview import Fleet
from millwright.serving.plan import MistypedError
from millwright.serving.policy import Policy
from millwright.serving.routes import Loaded, Routes
from millwright.serving.scoring import Scoring

EVENTS = {view["name"]: HOUR for view in VIEWS}
SOUND = (ROW, EVENTS)
ODD = ({**ROW, "heat": "hot"}, EVENTS)


class Used:
    def __init__(self, champion: Loaded) -> None:
        self.routes = Routes(champion)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Used(loaded(tmp_path_factory.mktemp("releases"), 1))


def fleet(used: Any, machines: Any) -> Fleet:
    return Fleet(Scoring(used, Memory(machines), Policy(), lambda _: None))


def test_machines_that_cannot_be_read_are_left_out_of_the_fleet_and_the_log_names_one(
    used: Any, caplog: pytest.LogCaptureFixture
) -> None:
    machines = {f"m{place}": ODD if place in (0, 7, 8) else SOUND for place in range(20)}
    told = fleet(used, machines).overview(None).told(100)
    assert told["machines"] == sum(told["outcomes"].values()) == 17
    (warning,) = caplog.records
    assert "'heat' of view 'step' is of another type" in warning.getMessage()


def test_an_odd_machine_is_told_once_however_often_the_fleet_is_looked_at(
    used: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "KEPT", -1.0)
    whole = fleet(used, {"odd": ODD, "sound": SOUND})
    assert [whole.overview(None).told(9)["machines"] for _ in range(3)] == [1] * 3
    assert len(caplog.records) == 1


def test_machines_that_are_read_together_may_all_be_odd(
    used: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "TOGETHER", 2)
    machines = {f"m{place}": ODD if place in (0, 1, 6) else SOUND for place in range(7)}
    assert fleet(used, machines).overview(None).told(9)["machines"] == 4
    assert len(caplog.records) == 1


def test_where_not_one_machine_can_be_read_that_is_no_empty_fleet(
    used: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for together in (2, 500):
        monkeypatch.setattr(overview, "TOGETHER", together)
        with pytest.raises(MistypedError, match="'heat' of view 'step' is of another type"):
            fleet(used, dict.fromkeys("abcde", ODD)).overview(None)
    assert not caplog.records


def test_a_store_that_does_not_answer_is_asked_once(used: Any) -> None:
    store = Memory(dict.fromkeys("abcde", SOUND))
    store.broken = True
    with pytest.raises(MillwrightError, match="does not answer"):
        Fleet(Scoring(used, store, Policy(), lambda _: None)).overview(None)
    assert len(store.reads) == 1
