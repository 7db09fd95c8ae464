"""Which releases a service has in use, while files change under it."""

import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import pytest
from serving_parts import ENCODER, released, sign

from millwright import release, traffic
from millwright.errors import InputError, ReleaseError
from millwright.release import EXAMPLES, MODEL, POINTER
from millwright.serving import releases as followed
from millwright.serving.releases import Releases
from millwright.traffic import Canary, Traffic


class Proving:
    """What proves a release, and refuses some."""

    def __init__(self) -> None:
        self.proved: Counter[str] = Counter()
        self.refused: set[str] = set()

    def __call__(self, folder: Path) -> None:
        self.proved[folder.name] += 1
        if folder.name in self.refused:
            raise ReleaseError(f"{folder.name} cannot be proved")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    for version in range(1, 9):
        released(folder, version)
    return folder


@pytest.fixture
def folder(originals: Path, tmp_path: Path) -> Path:
    """Eight releases, of which the first is the champion."""
    copied = Path(shutil.copytree(originals, tmp_path / "releases"))
    release.set_champion(copied, copied / "v1")
    return copied


@pytest.fixture
def proving() -> Proving:
    return Proving()


@pytest.fixture
def current(folder: Path, proving: Proving) -> Releases:
    """The first release in use."""
    found = Releases("local", "plant", folder, prove=proving)
    found.refresh()
    assert used(found) == [("champion", 1)]
    assert found.refused is None
    return found


def used(current: Releases) -> list[tuple[str, int]]:
    return [(role, each.version) for role, each in current.routes.all] if current.routes else []


def champion(folder: Path, version: int) -> None:
    release.set_champion(folder, folder / f"v{version}")


def spoil(path: Path) -> bytes:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


def test_without_a_champion_nothing_is_in_use_and_the_way_out_is_told(tmp_path: Path) -> None:
    current = Releases("local", "plant", tmp_path)
    current.refresh()
    assert current.routes is None
    assert "fleet 'plant' has no champion in environment 'local'" in str(current.refused)
    assert "python run.py --pipeline training" in str(current.refused)


def test_what_stays_as_it_is_is_proved_and_loaded_once(
    folder: Path, current: Releases, proving: Proving
) -> None:
    traffic.write(folder, Traffic(tags={"old": 2, "older": 2}, shadow=(3,)))
    for _ in range(4):
        current.refresh()
    first = current.routes
    current.refresh()
    assert current.routes is first
    assert proving.proved == {"v1": 1, "v2": 1, "v3": 1}


def test_those_that_were_in_use_last_come_back_without_being_proved_again(
    folder: Path, current: Releases, proving: Proving
) -> None:
    for version in (2, 3, 4, 2, 1):
        champion(folder, version)
        current.refresh()
        assert used(current) == [("champion", version)]
    assert proving.proved == {"v1": 1, "v2": 1, "v3": 1, "v4": 1}


def test_those_that_were_in_use_long_ago_are_forgotten(
    folder: Path, current: Releases, proving: Proving
) -> None:
    for version in (*range(2, 9), 1):
        champion(folder, version)
        current.refresh()
    assert proving.proved["v1"] == 2
    assert len(current._kept) <= followed.KEPT + 1


def test_however_many_are_in_use_each_is_proved_once(
    folder: Path, current: Releases, proving: Proving
) -> None:
    traffic.write(folder, Traffic(shadow=tuple(range(2, 9))))
    for _ in range(3):
        current.refresh()
    assert len(used(current)) == 8
    assert set(proving.proved.values()) == {1}


def test_a_release_that_was_written_anew_is_proved_anew(
    folder: Path, current: Releases, proving: Proving
) -> None:
    before = current.routes
    shutil.copytree(folder / "v1", folder / "copy")
    shutil.rmtree(folder / "v1")
    (folder / "copy").rename(folder / "v1")
    current.refresh()
    assert proving.proved["v1"] == 2
    assert current.routes is not before


def test_a_broken_champion_is_refused_told_once_and_the_old_one_stays(
    folder: Path, current: Releases, proving: Proving, caplog: pytest.LogCaptureFixture
) -> None:
    before, model = current.routes, spoil(folder / "v2" / MODEL)
    champion(folder, 2)
    for _ in range(3):
        current.refresh()
        assert f"{folder / 'v2'} was changed after it was written" in str(current.refused)
        assert current.routes is before
    assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1
    assert proving.proved["v2"] == 0
    (folder / "v2" / MODEL).write_bytes(model)
    current.refresh()
    assert (current.refused, used(current)) == (None, [("champion", 2)])


def test_a_process_that_begins_with_a_broken_champion_answers_by_the_last_that_is_sound(
    folder: Path, proving: Proving
) -> None:
    for version in (3, 4, 2, 5):
        traffic.promote(folder, version)
    model = spoil(folder / "v5" / MODEL)
    proving.refused = {"v2"}
    begun = Releases("local", "plant", folder, prove=proving)
    for _ in range(2):
        begun.refresh()
        assert used(begun) == [("champion", 4)]
        assert f"{folder / 'v5'} was changed after it was written" in str(begun.refused)
    assert proving.proved == {"v2": 1, "v4": 1}
    (folder / "v5" / MODEL).write_bytes(model)
    begun.refresh()
    assert (begun.refused, used(begun)) == (None, [("champion", 5)])


def test_no_former_champion_takes_the_place_of_one_that_is_pinned_or_not_named(
    folder: Path, proving: Proving
) -> None:
    traffic.promote(folder, 2)
    traffic.promote(folder, 3)
    proving.refused = {"v3"}
    pinned = Releases("local", "plant", folder, pinned=folder / "v3", prove=proving)
    pinned.refresh()
    assert (pinned.routes, pinned.refused) == (None, "v3 cannot be proved")
    (folder / POINTER).unlink()
    begun = Releases("local", "plant", folder, prove=proving)
    begun.refresh()
    assert begun.routes is None
    assert "has no champion" in str(begun.refused)


def test_a_log_of_champions_that_cannot_be_read_is_told_with_the_champion_that_is_refused(
    folder: Path, proving: Proving
) -> None:
    (folder / traffic.LOG).mkdir()
    proving.refused = {"v1"}
    begun = Releases("local", "plant", folder, prove=proving)
    begun.refresh()
    assert begun.routes is None
    assert str(begun.refused).startswith("v1 cannot be proved")


def test_a_release_that_is_refused_is_tried_again_after_a_while_and_not_before(
    folder: Path, current: Releases, proving: Proving, monkeypatch: pytest.MonkeyPatch
) -> None:
    proving.refused = {"v2"}
    champion(folder, 2)
    for _ in range(3):
        current.refresh()
        assert current.refused == "v2 cannot be proved"
    assert proving.proved["v2"] == 1
    proving.refused = set()
    current.refresh()
    assert used(current) == [("champion", 1)]
    monkeypatch.setattr(followed, "AGAIN", 0.0)
    current.refresh()
    assert (current.refused, used(current)) == (None, [("champion", 2)])


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"fleet": "presses"}, "fleet 'presses'"), ({"environment": "staging"}, "'staging'")],
)
def test_a_release_of_elsewhere_is_refused(
    folder: Path, current: Releases, changes: dict[str, str], told: str
) -> None:
    champion(folder, int(released(folder, 9, **changes).name[1:]))
    current.refresh()
    assert told in str(current.refused)
    assert used(current) == [("champion", 1)]


def test_a_release_whose_model_reads_what_no_view_has_is_refused(
    folder: Path, current: Releases
) -> None:
    more = ENCODER.model_copy(update={"features": (*ENCODER.features, "smell")})
    released(folder, 9, encoder=more)
    champion(folder, 9)
    current.refresh()
    assert "needs 'smell', which no view of its manifest has" in str(current.refused)
    assert used(current) == [("champion", 1)]


@pytest.mark.parametrize("name", [EXAMPLES, MODEL])
def test_a_release_of_which_a_file_is_gone_is_refused(
    folder: Path, current: Releases, name: str
) -> None:
    (folder / "v2" / name).unlink()
    champion(folder, 2)
    current.refresh()
    assert "is not a whole release" in str(current.refused)
    assert used(current) == [("champion", 1)]


def test_a_pointer_that_is_gone_or_spoilt_changes_nothing(folder: Path, current: Releases) -> None:
    before, pointer = current.routes, folder / POINTER
    pointer.write_text("nonsense")
    current.refresh()
    assert "names no release" in str(current.refused)
    pointer.unlink()
    current.refresh()
    assert "fleet 'plant' has no champion in environment 'local'" in str(current.refused)
    assert current.routes is before
    champion(folder, 1)
    current.refresh()
    assert (current.refused, current.routes) == (None, before)


def test_a_broken_canary_stops_no_new_champion(
    folder: Path, current: Releases, proving: Proving
) -> None:
    proving.refused = {"v3"}
    canary = Canary(version=3, percent=100)
    traffic.write(folder, Traffic(canary=canary, tags={"three": 3, "four": 4}, shadow=(3, 5)))
    champion(folder, 2)
    current.refresh()
    assert current.refused == "v3 cannot be proved"
    assert used(current) == [("champion", 2), ("four", 4), ("shadow", 5)]
    routes = current.routes
    assert routes is not None
    assert routes.of("any", None)[1] == "champion"
    with pytest.raises(InputError, match="no tag 'three'; there are: four"):
        routes.of("any", "three")


def test_every_release_that_is_refused_is_named(
    folder: Path, current: Releases, proving: Proving
) -> None:
    proving.refused = {"v3", "v4"}
    traffic.write(folder, Traffic(shadow=(3, 4)))
    current.refresh()
    assert current.refused == "v3 cannot be proved; v4 cannot be proved"


def test_spoilt_traffic_is_named_and_the_champion_answers(folder: Path, current: Releases) -> None:
    (folder / traffic.TRAFFIC).write_text("{")
    champion(folder, 2)
    current.refresh()
    assert f"{folder / traffic.TRAFFIC} cannot be understood" in str(current.refused)
    assert used(current) == [("champion", 2)]


def test_spoilt_traffic_leaves_it_divided_as_it_was(folder: Path, current: Releases) -> None:
    traffic.write(folder, Traffic(canary=Canary(version=3, percent=10), tags={"four": 4}))
    current.refresh()
    (folder / traffic.TRAFFIC).write_text("{")
    champion(folder, 2)
    current.refresh()
    assert "cannot be understood" in str(current.refused)
    assert used(current) == [("champion", 2), ("canary", 3), ("four", 4)]


def test_a_release_that_is_in_use_answers_on_when_its_folder_breaks(
    folder: Path, current: Releases
) -> None:
    traffic.write(folder, Traffic(canary=Canary(version=3, percent=10)))
    current.refresh()
    spoil(folder / "v3" / MODEL)
    current.refresh()
    assert f"{folder / 'v3'} was changed after it was written" in str(current.refused)
    assert used(current) == [("champion", 1), ("canary", 3)]


def test_traffic_is_followed_while_the_champion_cannot_be(folder: Path, current: Releases) -> None:
    spoil(folder / "v2" / MODEL)
    champion(folder, 2)
    traffic.write(folder, Traffic(tags={"four": 4}))
    current.refresh()
    assert f"{folder / 'v2'} was changed after it was written" in str(current.refused)
    assert used(current) == [("champion", 1), ("four", 4)]


def test_a_pinned_release_answers_alone_whatever_the_files_say(
    folder: Path, proving: Proving
) -> None:
    traffic.write(folder, Traffic(canary=Canary(version=3, percent=100), shadow=(4,)))
    current = Releases("local", "plant", folder, pinned=folder / "v2", prove=proving)
    current.refresh()
    champion(folder, 5)
    current.refresh()
    assert (used(current), current.refused) == ([("champion", 2)], None)
    assert set(proving.proved) == {"v2"}


def test_a_machine_has_the_release_of_its_tag_of_the_canary_or_of_the_champion(
    folder: Path, current: Releases
) -> None:
    canary = Canary(version=2, percent=50)
    traffic.write(folder, Traffic(canary=canary, tags={"three": 3}))
    current.refresh()
    routes = current.routes
    assert routes is not None
    for machine in (f"m{number}" for number in range(100)):
        found, role = routes.of(machine, None)
        wanted = (2, "canary") if canary.takes(machine) else (1, "champion")
        assert (found.version, role) == wanted
        found, role = routes.of(machine, "three")
        assert (found.version, role) == (3, "three")


def test_a_failure_that_nobody_has_foreseen_leaves_what_is_in_use(
    folder: Path, current: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = current.routes

    def broken(_: Path) -> None:
        raise RuntimeError("hidden")

    monkeypatch.setattr(release, "load", broken)
    champion(folder, 2)
    current.refresh()
    assert current.routes is before
    assert current.refused == "the champion cannot be loaded: RuntimeError"


def test_a_manifest_of_an_older_version_is_refused_with_a_reason(
    folder: Path, current: Releases
) -> None:
    path = folder / "v2"
    values = json.loads((path / release.MANIFEST).read_bytes())
    del values["views"]
    (path / release.MANIFEST).write_text(json.dumps(values))
    sign(path)
    champion(folder, 2)
    current.refresh()
    assert "is whole but not readable by this version" in str(current.refused)
    assert used(current) == [("champion", 1)]
