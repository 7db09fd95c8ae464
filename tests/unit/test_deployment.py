"""A deployment compares before it changes anything, and takes back what goes wrong afterwards."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from raw_tables import plant

from millwright import asked_service, deployment, release, run_options, traffic, trial
from millwright.deployment import Sample, Surroundings, deploy
from millwright.errors import BusyError, ConfigurationError, MillwrightError, ReleaseError
from millwright.serving import background
from millwright.settings import Serving, State
from millwright.traffic import Canary, Traffic

START = datetime(2025, 1, 31, tzinfo=UTC)
MACHINES = ["a", "b", "c"]
EXPECTED = {"a": 0.1, "b": 0.2}  # of c the offline store knows nothing


CANARY = Traffic(canary=Canary(version=1, percent=10))


class Plant:
    """A fleet with three releases, the second of them in service, and what is predicted online."""

    def __init__(self, home: Path, **serving: Any) -> None:
        self.state = State(home, "local")
        self.folder = self.state.releases("plant")
        for version in (1, 2, 3):
            (self.folder / f"v{version}").mkdir(parents=True)
        for version in (1, 2):
            traffic.promote(self.folder, version)
        self.online: dict[str, float | None] = {**EXPECTED, "c": None}
        settings = SimpleNamespace(serving=Serving.model_validate(serving), servers="none")
        self.project: Any = SimpleNamespace(fleet=plant(), state=self.state, settings=settings)

    @property
    def champion(self) -> str | None:
        path = release.champion(self.folder)
        return path.name if path else None

    def put(self, path: Path) -> None:
        traffic.promote(self.folder, int(path.name[1:]))

    def deploy(self, put: Callable[[Path], object] | None = None) -> deployment.Deployment:
        return deploy(self.project, 3, Surroundings(put or self.put, lambda *_: pd.DataFrame()))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """A plant whose service runs elsewhere; the stores and the model are not what is tested."""
    made = Plant(tmp_path, start=False)
    monkeypatch.delenv(asked_service.SERVICE, raising=False)
    monkeypatch.setattr(deployment, "_sample", lambda *_: Sample(MACHINES, START, EXPECTED))
    monkeypatch.setattr(deployment, "_scored_here", lambda *_: made.online)
    return made


def test_a_release_that_answers_as_it_should_is_the_champion(here: Plant) -> None:
    found = here.deploy()
    assert (found.status, found.version, found.compared) == ("deployed", 3, 2)
    assert found.largest_difference == 0
    assert here.champion == "v3"


@pytest.mark.parametrize(
    ("online", "said"),
    [
        ({"a": 0.1, "b": 0.2001}, "0.2001 is predicted online for machine b"),
        ({"a": 0.1, "b": None}, "machine b is not predicted"),
        ({"a": None, "b": None}, "machine a is not predicted"),
        ({"a": float("nan"), "b": 0.2}, "is predicted online for machine a"),
    ],
)
def test_what_is_predicted_otherwise_changes_nothing(
    here: Plant, online: dict[str, float | None], said: str
) -> None:
    here.online = online
    before = (here.folder / traffic.LOG).read_text()
    with pytest.raises(ReleaseError, match=said):
        here.deploy()
    assert here.champion == "v2"
    assert (here.folder / traffic.LOG).read_text() == before


def test_a_machine_that_the_settings_refuse_stops_nothing(tmp_path: Path, here: Plant) -> None:
    here.project.settings.serving = Serving(stale="refuse", start=False)
    here.online = {"a": 0.1, "b": None}
    assert here.deploy().compared == 1


def test_whatever_goes_wrong_afterwards_the_former_champion_is_back(here: Plant) -> None:
    split = Traffic(canary=Canary(version=1, percent=10), shadow=(3,))
    traffic.write(here.folder, split)

    def put(path: Path) -> None:
        here.put(path)
        raise KeyError("a library's own error")

    with pytest.raises(ReleaseError, match=r"a library's own error.*\n.*rolled back: v2"):
        here.deploy(put)
    assert here.champion == "v2"
    assert traffic.read(here.folder) == split
    assert traffic.former(here.folder) == 1  # and not what was just taken back


def test_a_champion_that_somebody_else_has_named_meanwhile_stays(here: Plant) -> None:
    def put(path: Path) -> None:
        here.put(path)
        traffic.promote(here.folder, 1)
        raise OSError("too late")

    with pytest.raises(ReleaseError, match="v1 is the champion"):
        here.deploy(put)
    assert here.champion == "v1"


def test_without_a_champion_before_there_is_none_afterwards(here: Plant) -> None:
    (here.folder / release.POINTER).unlink()

    def put(path: Path) -> None:
        here.put(path)
        raise OSError("no space")

    with pytest.raises(ReleaseError, match="v3 is no champion any more"):
        here.deploy(put)
    assert here.champion is None


class KilledError(BaseException):
    """What nobody catches, as little as a kill."""


def kill(path: Path) -> None:
    raise KilledError


def killed(plant: Plant) -> None:
    """A deployment that is killed when v3 was promoted, and the service not asked yet."""

    def put(path: Path) -> None:
        plant.put(path)
        kill(path)

    with pytest.raises(KilledError):
        plant.deploy(put)
    assert plant.champion == "v3"


def answers_otherwise(plant: Plant, path: Path) -> None:
    plant.put(path)
    raise ReleaseError("the service answers otherwise")


@pytest.mark.parametrize("kills", [1, 2])
def test_a_champion_that_was_never_proved_is_not_gone_back_to(here: Plant, kills: int) -> None:
    split = Traffic(canary=Canary(version=3, percent=10), shadow=(1,))
    traffic.write(here.folder, split)
    for _ in range(kills):
        killed(here)
    with pytest.raises(ReleaseError, match="rolled back: v2"):
        here.deploy(partial(answers_otherwise, here))
    assert (here.champion, traffic.read(here.folder)) == ("v2", split)
    assert not (here.folder / trial.NOTE).exists()


def test_a_rerun_that_ends_well_says_what_was_before_and_leaves_no_note(here: Plant) -> None:
    killed(here)
    assert here.deploy().before == 2
    assert not (here.folder / trial.NOTE).exists()
    with pytest.raises(ReleaseError, match="v3 was the champion before, and stays"):
        here.deploy(partial(answers_otherwise, here))


def test_the_note_is_gone_once_somebody_has_named_the_champion(here: Plant) -> None:
    killed(here)
    trial.passed(here.folder)
    with pytest.raises(ReleaseError, match="v3 was the champion before, and stays"):
        here.deploy(partial(answers_otherwise, here))


def test_what_was_noted_of_another_champion_counts_for_nothing(here: Plant) -> None:
    traffic.write(here.folder, Traffic(canary=Canary(version=3, percent=10)))
    killed(here)
    traffic.promote(here.folder, 1)
    with pytest.raises(ReleaseError, match="rolled back: v1"):
        here.deploy(partial(answers_otherwise, here))
    assert traffic.read(here.folder) == Traffic()


def test_a_canary_that_somebody_has_set_meanwhile_stays(here: Plant) -> None:
    traffic.write(here.folder, Traffic(shadow=(3,)))
    meanwhile = Traffic(canary=Canary(version=1, percent=20))

    def put(path: Path) -> None:
        here.put(path)
        traffic.write(here.folder, meanwhile)
        raise OSError("too late")

    with pytest.raises(ReleaseError, match="rolled back: v2"):
        here.deploy(put)
    assert (here.champion, traffic.read(here.folder)) == ("v2", meanwhile)


def test_an_undo_that_is_killed_is_made_up_for_by_a_rerun(
    here: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Traffic(canary=Canary(version=3, percent=10))
    traffic.write(here.folder, split)

    def put(path: Path) -> None:
        here.put(path)
        monkeypatch.setattr(release, "set_champion", lambda *_: kill(path))
        raise OSError("no service")

    with pytest.raises(KilledError):
        here.deploy(put)
    monkeypatch.undo()
    monkeypatch.setattr(deployment, "_sample", lambda *_: Sample(MACHINES, START, EXPECTED))
    monkeypatch.setattr(deployment, "_scored_here", lambda *_: here.online)
    with pytest.raises(ReleaseError, match="rolled back: v2"):
        here.deploy(partial(answers_otherwise, here))
    assert (here.champion, traffic.read(here.folder)) == ("v2", split)


@pytest.mark.parametrize(("before", "way"), [(True, "rollback"), (False, "promote VERSION")])
def test_an_undo_that_fails_is_told_with_what_went_wrong_before_and_the_way_out(
    here: Plant, monkeypatch: pytest.MonkeyPatch, before: bool, way: str
) -> None:
    if not before:
        (here.folder / release.POINTER).unlink()

    def put(path: Path) -> None:
        here.put(path)
        monkeypatch.setattr(traffic, "take_back", busy)
        raise OSError("no service answers")

    def busy(*_: Any) -> str:
        raise BusyError("process 7 still holds the lock")

    with pytest.raises(ReleaseError) as raised:
        here.deploy(put)
    why, undone, champion = str(raised.value).splitlines()
    assert why == "no service answers"
    assert undone == "and this could not be undone: process 7 still holds the lock"
    assert champion.startswith("v3 is the champion; ")
    assert way in champion
    assert (here.folder / trial.NOTE).exists()  # for the next deployment to go by


def test_the_service_is_asked_for_the_machines_that_the_release_answers_for(
    here: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "predictions": [
            {"machine": "a", "probability": 0.9, "version": 1},  # the canary's
            {"machine": "b", "probability": 0.2, "version": 3},
            {"machine": "c", "probability": None, "version": 3},
        ]
    }
    traffic.write(here.folder, CANARY)
    waited: list[tuple[str, int]] = []
    monkeypatch.setenv(asked_service.SERVICE, "http://127.0.0.1:9/")
    monkeypatch.setattr(background, "await_release", lambda url, v: waited.append((url, v)))
    monkeypatch.setattr(background, "ask", lambda *_: (200, said))
    found = here.deploy()
    assert waited == [("http://127.0.0.1:9", 3)]
    assert (found.url, found.compared) == ("http://127.0.0.1:9", 1)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, {"error": "a key is needed"}),
        (403, {"error": "without keys this machine alone is answered"}),
        (200, {"predictions": [{"machine": "a", "probability": 0.9, "version": 1}]}),
    ],
    ids=["keys", "elsewhere", "all by the canary"],
)
def test_a_service_that_says_nothing_of_the_release_is_only_waited_for(
    here: Plant, monkeypatch: pytest.MonkeyPatch, status: int, said: dict[str, Any]
) -> None:
    traffic.write(here.folder, CANARY)
    monkeypatch.delenv(background.KEY, raising=False)
    monkeypatch.setenv(asked_service.SERVICE, "http://127.0.0.1:9")
    monkeypatch.setattr(background, "await_release", lambda *_: None)
    monkeypatch.setattr(background, "ask", lambda *_: (status, said))
    found = here.deploy()
    assert (found.compared, found.asked, here.champion) == (2, False, "v3")


def test_a_key_that_the_service_does_not_take_is_told_and_the_former_champion_is_back(
    here: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(background.KEY, "mw_wrong")
    monkeypatch.setenv(asked_service.SERVICE, "http://127.0.0.1:9")
    monkeypatch.setattr(background, "await_release", lambda *_: None)
    monkeypatch.setattr(background, "ask", lambda *_: (401, {"error": "the key is none"}))
    with pytest.raises(ReleaseError, match=r"answers 401: the key is none\n.*v2 is the champion"):
        here.deploy()


def prediction(machine: str, probability: object, version: object = 3) -> dict[str, object]:
    return {"machine": machine, "probability": probability, "version": version}


RIGHT = {"predictions": [prediction(machine, each) for machine, each in EXPECTED.items()]}


@pytest.fixture
def asked(here: Plant, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """What a service elsewhere answers one after the other, the last of it again and again."""
    answers: list[tuple[int, Any]] = []
    monkeypatch.setenv(asked_service.SERVICE, "http://127.0.0.1:9")
    monkeypatch.setattr(asked_service, "PAUSE", 0)
    monkeypatch.setattr(background, "await_release", lambda *_: None)
    monkeypatch.setattr(
        background, "ask", lambda *_: answers.pop(0) if len(answers) > 1 else answers[0]
    )
    return answers


def test_a_service_that_cannot_answer_for_a_moment_is_asked_again(
    here: Plant, asked: list[tuple[int, Any]]
) -> None:
    asked += [(503, {"error": "ask again"}), (429, {"error": "wait"}), (0, {}), (200, RIGHT)]
    found = here.deploy()
    assert (found.asked, here.champion, len(asked)) == (True, "v3", 1)


def test_one_that_goes_on_like_that_is_waited_for_no_longer_than_is_stated(
    here: Plant, asked: list[tuple[int, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_service, "PATIENCE", 0)
    asked.append((503, {"error": "the store is away"}))
    with pytest.raises(ReleaseError, match="answers 503: the store is away\nrolled back: v2"):
        here.deploy()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"predictions": []}, "predicts none of 3 machines"),
        ({"predictions": [prediction("a", 0.1, 2)]}, "for machine a by v2 instead of v3"),
        ({}, "is no service of Millwright (predictions: Field required); see which one MILLWRIGHT"),
        ({"predictions": [{"machine": "a"}]}, "predictions.0.version: Field required"),
        ({"predictions": [prediction("a", "0.1")]}, "predictions.0.probability: Input should be"),
        ({"predictions": "none"}, "is no service of Millwright"),
    ],
)
def test_an_answer_that_says_nothing_of_the_release_without_a_canary_is_refused(
    here: Plant, asked: list[tuple[int, Any]], said: object, told: str
) -> None:
    asked.append((200, said))
    with pytest.raises(ReleaseError) as raised:
        here.deploy()
    assert told in str(raised.value)
    assert here.champion == "v2"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "http://127.0.0.1:port", "ftp://x", "http://", "http://[::1", "x"]
)
def test_what_is_no_url_of_a_service_is_refused_before_anything_is_done(
    here: Plant, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv(asked_service.SERVICE, url)
    monkeypatch.setattr(deployment, "_sample", None)
    run = run_options.parser().parse_args(["--pipeline", "deployment"])
    for refused in (here.deploy, partial(run_options.check, run, [])):
        with pytest.raises(ConfigurationError, match=r"_SERVICE_URL is .*http://HOST:8000"):
            refused()


@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (0, {}, "it does not answer"),
        (200, {"ready": True}, "it answers 200"),
        (200, {"release": {"version": 2}}, "it answers 200 by v2"),
        (503, {"reason": "no store"}, "it answers 503: no store"),
        (401, {"error": "show a key"}, "it answers 401: show a key"),
        (200, {"release": "v3"}, "it answers 200: what answers there is no service of Millwright"),
        (200, {"refused": ["v3"]}, "what answers there is no service of Millwright"),
    ],
)
def test_what_a_service_said_last_is_told_when_nobody_waits_any_longer(
    monkeypatch: pytest.MonkeyPatch, status: int, said: object, told: str
) -> None:
    monkeypatch.setattr(background, "ask", lambda *_: (status, said))
    with pytest.raises(MillwrightError, match=f": {told}; look at its log"):
        background.await_release("http://x", 3, 0)


@pytest.mark.parametrize(
    ("refused", "given_up"),
    [("the release /x/v3 was changed", True), ("fleet has no champion", False),
     ("the release /x/v9 is broken", False)],
)  # fmt: skip
def test_only_what_is_said_of_the_release_ends_the_waiting_for_it(
    monkeypatch: pytest.MonkeyPatch, refused: str, given_up: bool
) -> None:
    answers = [
        (503, {"release": {"version": 2}, "refused": refused}),
        (200, {"release": {"version": 3}, "refused": None}),
    ]
    monkeypatch.setattr(background, "ask", lambda *_: answers.pop(0))
    if given_up:
        with pytest.raises(Exception, match="refuses v3"):
            background.await_release("http://x", 3, 5)
    else:
        background.await_release("http://x", 3, 5)
        assert not answers
