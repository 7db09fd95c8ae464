"""Which release answers which machine, and the files that say so."""

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millwright import release, traffic
from millwright.errors import InputError, ReleaseError
from millwright.traffic import (
    LOG,
    TRAFFIC,
    Canary,
    Traffic,
    champions,
    former,
    promote,
    read,
    write,
)

MACHINES = [f"machine {number}" for number in range(20_000)]
EVERYTHING = Traffic(
    canary=Canary(version=2, percent=12.5), tags={"b": 2, "slow": 3}, shadow=(3, 4)
)


OPTIONS = "--fleet plant --stack staging"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four releases, of which the first is the champion."""
    found = tmp_path / "staging" / "plant" / "releases"
    for version in range(1, 5):
        (found / f"v{version}").mkdir(parents=True)
    promote(found, 1)
    return found


def champion(folder: Path) -> str:
    found = release.champion(folder)
    assert found is not None
    return found.name


def killed_in(change: Callable[[], object], patch: Callable[[], object]) -> None:
    """Make a change in a process that is killed as soon as it comes to what `patch` replaces."""
    child = os.fork()
    if not child:
        try:
            patch()
            change()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("percent", [0.5, 5, 12.5, 50, 99])
def test_a_canary_takes_about_its_share_of_the_machines(percent: float) -> None:
    taken = sum(Canary(version=2, percent=percent).takes(machine) for machine in MACHINES)
    spread = (percent * (100 - percent) / len(MACHINES)) ** 0.5
    assert taken / len(MACHINES) * 100 == pytest.approx(percent, abs=4 * spread)


def test_a_canary_of_a_hundred_percent_takes_every_machine() -> None:
    assert all(Canary(version=2, percent=100).takes(machine) for machine in MACHINES)


@given(st.text(max_size=50), st.integers(1, 99), st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_canary_keeps_its_machines_when_it_grows(
    machine: str, version: int, one: float, other: float
) -> None:
    less, more = (Canary(version=version, percent=each) for each in sorted((one, other)))
    assert less.takes(machine) == less.takes(machine)
    assert more.takes(machine) or not less.takes(machine)


def test_each_canary_has_machines_of_its_own() -> None:
    """So that it is not always the same machines that new releases are tried on."""
    two, three = (Canary(version=version, percent=50) for version in (2, 3))
    both = sum(two.takes(machine) and three.takes(machine) for machine in MACHINES)
    assert both / len(MACHINES) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    "said",
    [
        {"canary": {"version": 2, "percent": 0}},
        {"canary": {"version": 2, "percent": 101}},
        {"canary": {"version": 2, "percent": float("nan")}},
        {"canary": {"version": 0, "percent": 5}},
        {"tags": {"No tag": 2}},
        {"tags": {"x" * 41: 2}},
        {"tags": {"canary": 2}},
        {"tags": {"champion": 2}},
        {"tags": {"shadow": 2}},
        {"shadow": [2, 2]},
        {"shadows": [2]},
    ],
    ids=str,
)
def test_what_traffic_cannot_be_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        Traffic.model_validate(said)


def test_without_a_file_the_champion_answers_everything(folder: Path) -> None:
    assert read(folder) == Traffic()
    assert Traffic().versions == set()


def test_traffic_comes_back_as_it_was_written(folder: Path) -> None:
    write(folder, EVERYTHING)
    assert read(folder) == EVERYTHING
    assert EVERYTHING.versions == {2, 3, 4}
    assert Traffic.model_validate(traffic.as_json(EVERYTHING)) == EVERYTHING


def test_a_release_is_taken_out_of_all_that_it_has_a_part_in() -> None:
    assert EVERYTHING.without(2) == Traffic(tags={"slow": 3}, shadow=(3, 4))
    assert EVERYTHING.without(3) == EVERYTHING.model_copy(update={"tags": {"b": 2}, "shadow": (4,)})
    assert EVERYTHING.without(9) == EVERYTHING


@pytest.mark.parametrize(
    "split", [Traffic(canary=Canary(version=7, percent=5)), Traffic(tags={"b": 7}),
              Traffic(shadow=(2, 7))],
)  # fmt: skip
def test_a_release_that_is_not_there_gets_no_traffic(folder: Path, split: Traffic) -> None:
    write(folder, EVERYTHING)
    with pytest.raises(InputError, match=r"no release v7 in .*; there are: v1, v2, v3, v4"):
        write(folder, split)
    assert read(folder) == EVERYTHING


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"canary": 3}', b'{"more": 1}'])
def test_a_spoilt_file_is_named_with_the_way_out(folder: Path, content: bytes) -> None:
    (folder / TRAFFIC).write_bytes(content)
    told = f"{folder / TRAFFIC} cannot be understood; .*millwright releases split {OPTIONS}$"
    with pytest.raises(ReleaseError, match=told):
        read(folder)
    write(folder, EVERYTHING)
    assert read(folder) == EVERYTHING


def test_a_killed_write_leaves_what_was_said_before(folder: Path) -> None:
    write(folder, EVERYTHING)
    patch = pytest.MonkeyPatch()
    killed_in(
        lambda: write(folder, Traffic()), lambda: patch.setattr(Traffic, "model_dump_json", die)
    )
    assert read(folder) == EVERYTHING
    write(folder, Traffic(shadow=(4,)))
    assert read(folder) == Traffic(shadow=(4,))
    assert [path.name for path in folder.iterdir() if "unfinished" in path.name] == []


def test_who_is_made_champion_keeps_its_tags_alone_and_is_in_the_log(folder: Path) -> None:
    write(folder, EVERYTHING)
    before = datetime.now(UTC)
    promote(folder, 2)
    assert champion(folder) == "v2"
    assert read(folder) == Traffic(tags={"b": 2, "slow": 3}, shadow=(3, 4))
    promote(folder, 3)
    assert read(folder) == Traffic(tags={"b": 2, "slow": 3}, shadow=(4,))
    versions, times = zip(*champions(folder), strict=True)
    assert versions == (1, 2, 3)
    assert before <= datetime.fromisoformat(times[1]) <= datetime.now(UTC)


def test_to_promote_the_champion_again_changes_nothing(folder: Path) -> None:
    before = champions(folder)
    promote(folder, 1)
    assert (champion(folder), champions(folder)) == ("v1", before)


def test_who_rolls_back_from_a_champion_of_before_is_refused(folder: Path) -> None:
    promote(folder, 2)
    with pytest.raises(ReleaseError, match="v1 is not the champion; v2 is"):
        promote(folder, 3, instead_of=1)
    assert champion(folder) == "v2"
    assert [version for version, _ in champions(folder)] == [1, 2]
    promote(folder, 3, instead_of=2)
    assert champion(folder) == "v3"


def test_a_release_that_is_not_there_is_no_champion(folder: Path) -> None:
    with pytest.raises(InputError, match="there is no release v9"):
        promote(folder, 9)
    assert (champion(folder), len(champions(folder))) == ("v1", 1)


def test_traffic_that_is_spoilt_promotes_nothing(folder: Path) -> None:
    (folder / TRAFFIC).write_text("{")
    with pytest.raises(ReleaseError, match="cannot be understood"):
        promote(folder, 2)
    assert (champion(folder), len(champions(folder))) == ("v1", 1)


def test_the_former_champion_is_the_one_before(folder: Path) -> None:
    told = rf"has had no other champion .* releases list {OPTIONS}, .* promote VERSION {OPTIONS}$"
    with pytest.raises(InputError, match=told):
        former(folder)
    for version in (2, 3):
        promote(folder, version)
    assert former(folder) == 2
    promote(folder, former(folder))
    assert (champion(folder), former(folder)) == ("v2", 3)


def test_a_former_champion_whose_folder_is_gone_is_passed_over(folder: Path) -> None:
    for version in (2, 3):
        promote(folder, version)
    (folder / "v2").rmdir()
    assert former(folder) == 1


def test_a_kill_between_log_and_pointer_changes_neither_the_champion_nor_the_one_before(
    folder: Path,
) -> None:
    promote(folder, 2)
    patch = pytest.MonkeyPatch()
    killed_in(lambda: promote(folder, 3), lambda: patch.setattr(release, "set_champion", die))
    assert [version for version, _ in champions(folder)] == [1, 2, 3]
    assert (champion(folder), former(folder)) == ("v2", 1)
    promote(folder, 3)
    assert (champion(folder), former(folder)) == ("v3", 2)


def test_a_kill_before_the_traffic_is_made_up_for_by_a_rerun(folder: Path) -> None:
    write(folder, EVERYTHING)
    patch = pytest.MonkeyPatch()
    killed_in(lambda: promote(folder, 2), lambda: patch.setattr(traffic, "_write", die))
    assert (champion(folder), read(folder)) == ("v2", EVERYTHING)
    promote(folder, 2)
    assert read(folder) == EVERYTHING.promoted(2)
    assert [version for version, _ in champions(folder)] == [1, 2]


def test_a_champion_that_was_taken_back_is_not_the_former_one_of_the_next(folder: Path) -> None:
    before = release.champion(folder)
    promote(folder, 2)
    traffic.take_back(folder, 2, before, Traffic(), Traffic())
    promote(folder, 3)
    assert former(folder) == 1
    assert [version for version, _ in champions(folder)] == [1, 3]


def test_a_kill_between_log_and_pointer_is_forgotten_by_the_next_champion(folder: Path) -> None:
    killed_in(lambda: promote(folder, 2), lambda: setattr(release, "set_champion", die))
    promote(folder, 3)
    assert former(folder) == 1


def test_a_torn_line_swallows_no_champion(folder: Path) -> None:
    promote(folder, 2)
    with (folder / LOG).open("a") as log:
        log.write("v4 2026-11-2")
    promote(folder, 3)
    promote(folder, 4)
    assert former(folder) == 3


def test_a_log_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / LOG).unlink()
    (folder / LOG).mkdir()
    with pytest.raises(ReleaseError, match=f"{LOG} cannot be read"):
        former(folder)
    with pytest.raises(ReleaseError, match=f"{LOG} cannot be read"):
        promote(folder, 2)
    assert champion(folder) == "v1"


def test_the_champion_is_no_canary(folder: Path) -> None:
    with pytest.raises(InputError, match="v1 is the champion; a canary is another release"):
        write(folder, Traffic(canary=Canary(version=1, percent=10)))


def test_lines_of_the_log_that_say_nothing_are_passed_over(folder: Path) -> None:
    promote(folder, 2)
    log = folder / LOG
    log.write_bytes(b"\xff\xfe\nnonsense\nv7\n" + log.read_bytes() + b"v3 half")
    assert [version for version, _ in champions(folder)] == [1, 2, 3]
    assert former(folder) == 1


def test_releases_are_listed_by_number(tmp_path: Path) -> None:
    for name in ("v10", "v9", "v2", "vx", "v", "champion"):
        (tmp_path / name).mkdir()
    (tmp_path / "v3").touch()
    assert traffic.versions(tmp_path) == [2, 9, 10]
