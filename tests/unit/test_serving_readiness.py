"""What the service says of itself when it is asked whether it is ready."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from serving_parts import HOUR, ROW, VIEWS, Memory, loaded

from millwright.serving.predictions import micros
from millwright.serving.readiness import SAMPLE, Readiness
from millwright.serving.routes import Loaded, Routes

NAMES = [view["name"] for view in VIEWS]


class Published(Memory):
    """A store that says what was published for it."""

    views: Mapping[str, Collection[str]] | None = None

    def published(self) -> Any:
        return self.views


class Used:
    def __init__(self, routes: Routes | None, refused: str | None = None) -> None:
        self.routes = routes
        self.refused = refused


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded(tmp_path_factory.mktemp("releases"), 1)


def now() -> int:
    return micros(datetime.now(UTC))


def told(used: Any, store: Memory) -> dict[str, Any]:
    return Readiness(used, store).told()


def test_without_a_release_it_is_not_ready_and_says_what_is_refused() -> None:
    said = told(Used(None), Published({}))
    assert (said["ready"], said["reason"]) == (False, "no release is loaded yet")
    said = told(Used(None, "v3 is broken"), Published({}))
    assert (said["ready"], said["reason"], said["refused"]) == (False, *["v3 is broken"] * 2)


def test_old_features_are_told_and_it_is_ready_all_the_same(champion: Loaded) -> None:
    moment = now()
    events = {"step": moment - 60 * HOUR, "window": moment - HOUR}
    store = Published({"a": (ROW, events), "b": (ROW, {"step": moment - 50 * HOUR})})
    said = told(Used(Routes(champion), "v2 is broken"), store)
    assert (said["ready"], said["reason"], said["refused"]) == (True, None, "v2 is broken")
    assert said["release"] == {"model": "plant_failure", "version": 1}
    assert said["releases"] == [{"role": "champion", "version": 1}]
    step, window, attributes = (said["features"][name] for name in NAMES)
    assert (step["fresh"], window["fresh"]) == (False, True)
    assert step["age"] == pytest.approx(50 * 3600, abs=60)
    assert micros(datetime.fromisoformat(step["newest"])) == moment - 50 * HOUR
    assert attributes == {"newest": None, "age": None, "fresh": False}


def test_a_store_that_does_not_answer_or_has_other_types_makes_it_not_ready(
    champion: Loaded,
) -> None:
    store = Published({"a": ({**ROW, "heat": "hot"}, {"step": now()})})
    said = told(Used(Routes(champion)), store)
    assert not said["ready"]
    assert "'heat' of view 'step' is of another type" in said["reason"]
    store.broken = True
    said = told(Used(Routes(champion)), store)
    assert (said["ready"], said["reason"]) == (False, "the store does not answer")
    assert said["release"]["version"] == 1


def test_a_machine_of_other_types_among_sound_ones_is_told_to_the_log_and_it_is_ready(
    champion: Loaded, caplog: pytest.LogCaptureFixture
) -> None:
    moment = now()
    store = Published(
        {
            "a": (ROW, {"step": moment - 2 * HOUR}),
            "odd": ({**ROW, "heat": "hot"}, {"step": moment}),
            "b": (ROW, {"step": moment - HOUR}),
        }
    )
    said = told(Used(Routes(champion)), store)
    assert (said["ready"], said["reason"]) == (True, None)
    assert micros(datetime.fromisoformat(said["features"]["step"]["newest"])) == moment - HOUR
    (warning,) = caplog.records
    assert "'heat' of view 'step' is of another type" in warning.getMessage()


def test_a_view_or_a_feature_that_is_not_published_is_named(champion: Loaded) -> None:
    store = Published({})
    whole: dict[str, Collection[str]] = {view["name"]: [*view["features"]] for view in VIEWS}
    for views, reason in (
        (whole, None),
        ({**whole, "window": []}, None),  # nobody knows yet
        ({name: whole[name] for name in NAMES if name != "window"}, "view 'window' is not in"),
        ({**whole, "step": ["heat"]}, "has no 'noise', which the release needs"),
    ):
        store.views = views
        said = told(Used(Routes(champion)), store)
        assert said["ready"] == (reason is None)
        assert (reason or "") in (said["reason"] or "")


def test_some_machines_are_looked_at_and_the_same_ones_for_a_while(champion: Loaded) -> None:
    store = Published({f"m{number}": (ROW, {}) for number in range(500)})
    used: Any = Used(Routes(champion))
    readiness = Readiness(used, store)
    for _ in range(3):
        assert readiness.told()["ready"]
    assert len({*map(tuple, store.reads)}) == 1
    assert len(store.reads[0]) == SAMPLE
