"""A service in the background, kept by its supervisor, and the verbs that it follows."""

import http.client
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import psutil
import pytest
from service_plant import MACHINES, TELEMETRY, Plant, expected, new_plant

from millwright import feast_store, interruption, release, revision, traffic
from millwright.__main__ import main
from millwright.doctor import predictions
from millwright.doctor.findings import Patient
from millwright.errors import MillwrightError
from millwright.release import MODEL
from millwright.serving import background
from millwright.settings import REPOSITORY, load_settings
from millwright.traffic import Traffic

CLIENTS = 3


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The code in a folder where it can change, with another process standing by."""
    folder = tmp_path_factory.mktemp("code")
    for name in ("millwright", "configs"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    settings = folder / "configs" / "environments" / "local" / "settings.yaml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("standby: false", "standby: true "), encoding="utf-8")
    assert settings.read_text(encoding="utf-8") != text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "REPOSITORY", folder)
        patch.setattr(revision, "REPOSITORY", folder)
        yield folder


@pytest.fixture(scope="module")
def plant(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    variables = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        made = new_plant(tmp_path_factory.mktemp("plant"), patch)
        feast_store.apply(made.state)
        made.write_online(MACHINES)
        for version in (1, 2):
            made.released(version)
        (made.released(4) / MODEL).write_bytes(b"{}")
        traffic.promote(made.releases, 1)
        # What MLflow is told has tests of its own, and takes seconds to import.
        there = SimpleNamespace(crown=lambda _: None)
        patch.setitem(sys.modules, "millwright.registry", there)
        try:
            yield made
        finally:
            background.stop(made.state, "plant", print)
            os.environ.clear()
            os.environ.update(variables)


@pytest.fixture
def url(plant: Plant) -> str:
    """The service, with two processes, started as a run does it, which waits for signals itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, interruption.SIGNALS)
    try:
        found = background.ensure(plant.state, "plant", print)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    until(lambda: len(children(plant)) == 2)
    return found


def supervisor(plant: Plant) -> psutil.Process:
    found = background.running(plant.state.service("plant"))
    assert found
    return found


def children(plant: Plant) -> list[psutil.Process]:
    """The processes that it keeps, the oldest first."""
    return sorted(supervisor(plant).children(), key=lambda each: each.create_time())


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def ask(url: str) -> tuple[int, float | None]:
    """The status of a question about a machine, on a new connection, and its answer; 0 for none."""
    place = urlsplit(url)
    with closing(http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)) as line:
        try:
            line.request(
                "POST", "/v1/predict", json.dumps({"machines": ["whole"]}),
                {"Content-Type": "application/json"},
            )  # fmt: skip
            said = line.getresponse()
            body = json.loads(said.read())
        except (OSError, http.client.HTTPException):
            return 0, None
    return said.status, body["predictions"][0]["probability"] if said.status == 200 else None


@contextmanager
def asked_all_the_time(url: str) -> Iterator[list[tuple[int, float | None]]]:
    """Clients who ask without an end, and what they were answered."""
    answers: list[tuple[int, float | None]] = []
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(0.02):
            answers.append(ask(url))

    threads = [threading.Thread(target=go_on) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def of(plant: Plant, version: int) -> float:
    return expected(plant, version, *TELEMETRY, "machine_attributes")


def verb(*words: str, code: int = 0) -> None:
    assert main(["releases", *words, "--fleet", "plant", "--stack", "local"]) == code


def test_what_a_run_has_started_can_be_ended_by_signals(plant: Plant, url: str) -> None:
    for process in (supervisor(plant), *children(plant)):
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        (blocked,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
        assert int(blocked, 16) == 0


def test_two_who_want_the_service_have_the_same_one(plant: Plant) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(background.ensure(plant.state, "plant", lambda _: None))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found == [background.address(plant.state, "plant")] * 2
    before = supervisor(plant)
    assert background.ensure(plant.state, "plant", print) == found[0]
    assert supervisor(plant) == before
    assert ask(found[0]) == (200, of(plant, 1))


def test_what_a_service_lacks_to_predict_is_told_when_it_is_started_and_when_it_runs(
    code: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = new_plant(tmp_path, monkeypatch)
    words = ["serve", "--background", "--stack", "local", "--fleet", "plant"]
    try:
        for _ in range(2):
            assert main(words) == 3
            said = capsys.readouterr().err
            assert "serving fleet plant at http://127.0.0.1:" in said
            assert "fleet 'plant' has no champion in environment 'local'; train one: python" in said
        patient = Patient(empty.state, load_settings("local"), {})
        assert [each.level for each in predictions.service(patient)] == ["fault"]
        release.set_champion(empty.releases, empty.released(1))
        feast_store.apply(empty.state)
        background.await_release(str(background.address(empty.state, "plant")), 1)
        assert main(words) == 0
        assert "warning" not in capsys.readouterr().err
        assert [each.level for each in predictions.service(patient)] == ["ok"]
    finally:
        background.stop(empty.state, "plant", print)


def test_the_service_follows_the_verbs(
    plant: Plant, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.json"
    verb("promote", "v2", "--json", str(summary))
    assert "answers by it after" in capsys.readouterr().out
    assert json.loads(summary.read_text())["champion"] == 2
    assert ask(url) == (200, of(plant, 2))
    verb("rollback")
    assert "v1 is the champion\n" in (said := capsys.readouterr().out)
    assert "releases rollback" in said
    verb("promote", "v1")
    assert "v1 is the champion already" in (said := capsys.readouterr().out)
    assert "releases rollback" not in said
    assert ask(url) == (200, of(plant, 1))
    verb("split", "--canary", "v2=100", "--tag", "tried=2")
    assert ask(url) == (200, of(plant, 2))
    verb("split")
    assert ask(url) == (200, of(plant, 1))


def test_a_pointer_that_is_moved_by_hand_is_followed(plant: Plant, url: str) -> None:
    release.set_champion(plant.releases, plant.releases / "v2")
    background.await_release(url, 2)
    assert ask(url) == (200, of(plant, 2))


def test_a_broken_champion_is_refused_aloud_and_the_old_one_answers(plant: Plant, url: str) -> None:
    traffic.promote(plant.releases, 1)
    background.await_release(url, 1)
    release.set_champion(plant.releases, plant.releases / "v4")
    with pytest.raises(MillwrightError, match="refuses v4: the release"):
        background.await_release(url, 4)
    assert ask(url) == (200, of(plant, 1))
    release.set_champion(plant.releases, plant.releases / "v1")
    background.await_release(url, 1)


def test_the_process_that_answers_is_killed_thrice_and_one_that_stands_by_takes_over(
    plant: Plant, url: str
) -> None:
    with asked_all_the_time(url) as answers:
        for _ in range(3):
            until(lambda: len(children(plant)) == 2)
            children(plant)[0].kill()
            count = len([each for each in answers if each[0] == 200])
            until(lambda: len([each for each in answers if each[0] == 200]) > count + 20)  # noqa: B023
    # Who stands by follows the champion, and may be a moment behind when it takes over.
    right = {(200, of(plant, version)) for version in (1, 2)}
    failed = [each for each in answers if each not in right]
    assert {status for status, _ in failed} <= {0}
    assert len(failed) <= 3 * CLIENTS  # those in flight


def test_other_code_replaces_what_runs_and_no_request_fails(
    plant: Plant, code: Path, url: str
) -> None:
    before = {each.pid for each in children(plant)}
    kept = supervisor(plant)
    with asked_all_the_time(url) as answers:
        with (code / "millwright" / "traffic.py").open("a", encoding="utf-8") as module:
            module.write("# another revision\n")
        assert background.ensure(plant.state, "plant", print) == url
        count = len(answers)
        until(lambda: len(answers) > count + 20)
    assert {*answers} == {(200, of(plant, 1))}
    assert supervisor(plant) == kept
    until(lambda: not before & {each.pid for each in children(plant)})


def test_a_stopped_service_leaves_no_process(plant: Plant, url: str) -> None:
    family = [supervisor(plant), *children(plant)]
    words = ["serve", "--stop", "--stack", "local", "--fleet", "plant"]
    assert main(words) == 0
    assert not [each for each in family if background.alive(each)]
    assert background.address(plant.state, "plant") is None
    assert not background.stop(plant.state, "plant", print)
    assert main(words) == 0


def test_a_port_that_somebody_has_taken_is_left_to_them(plant: Plant) -> None:
    folder = plant.state.service("plant")
    before = (folder / "address").read_text().strip()
    port = urlsplit(before).port or 0
    assert background._port(folder) == port  # what it was found at before
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        found = background.ensure(plant.state, "plant", print)
        assert found != before
        assert ask(found) == (200, of(plant, 1))


def test_when_the_supervisor_is_killed_all_that_it_kept_end(plant: Plant, url: str) -> None:
    family = [supervisor(plant), *children(plant)]
    family[0].kill()
    psutil.wait_procs(family, 30)
    assert not [each for each in family if background.alive(each)]
    assert background.address(plant.state, "plant") is None
    assert ask(url) == (0, None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["promote", "v9"], "there is no release v9"),
        (["promote", "champion"], "'champion' is no release; write it like v3"),
        (["promote", "v" + "9" * 300], "is no release; write it like v3"),
        (["promote", "v0"], "is no release; write it like v3"),
        (["show", "v9"], "there are: v1, v2, v4"),
        (["split", "--canary", "v2=0"], "write it like v4=10"),
        (["split", "--canary", "v2=nan"], "write it like v4=10"),
        (["split", "--tag", "B=v2"], "write it like b=v4"),
        (["split", "--tag", "b=v2", "--tag", "b=v1"], "--tag names one tag twice"),
        (["split", "--tag", "shadow=v2"], "--tag shadow: is a role of its own"),
        (["split", "--shadow", "v2", "--shadow", "v2"], "--shadow: entry 2 is the same as entry 1"),
        (["split", "--shadow", "v9"], "there is no release v9"),
        (["list", "--fleet", "plants"], "did you mean 'plant'?"),
        (["list", "--stack", "lokal"], "there is no environment 'lokal'; did you mean 'local'?"),
    ],
)
def test_what_cannot_be_asked_of_releases_is_told_with_the_way_out(
    plant: Plant, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    traffic.write(plant.releases, Traffic())
    before = release.champion(plant.releases)
    whole = ["releases", words[0], "--fleet", "plant", "--stack", "local", *words[1:]]
    with suppress(SystemExit):  # by which the parser ends, with the same code
        assert main(whole) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert release.champion(plant.releases) == before
    assert traffic.read(plant.releases) == Traffic()


def test_releases_are_listed_and_shown(
    plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.json"
    verb("list", "--json", str(summary))
    said = capsys.readouterr().out
    assert "v1: champion; learned until" in " ".join(said.replace("v1 ", "v1: ").split())
    assert "broken" in said
    listed = json.loads(summary.read_text())
    assert (listed["fleet"], listed["champion"]) == ("plant", 1)
    verb("show", "v2", "--json", str(summary))
    assert json.loads(summary.read_text())["version"] == 2
    assert "answers nothing" not in capsys.readouterr().err
    verb("promote", "v4", code=1)
    assert "was changed after it was written" in capsys.readouterr().err
