"""The verb `releases` refuses what it was told wrongly, names it, and changes nothing."""

from pathlib import Path

import pytest
from raw_tables import contents
from serving_parts import released, sign

from millwright import traffic
from millwright.__main__ import main
from millwright.release import MANIFEST, POINTER
from millwright.settings import State

WORDS = ("--stack", "local", "--fleet", "simulated")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The releases of a fleet: v2 is the champion, and v1 was."""
    monkeypatch.setenv("MILLWRIGHT_HOME", str(tmp_path))
    made = State(tmp_path, "local").releases("simulated")
    for version in (1, 2):
        released(made, version, fleet="simulated")
        traffic.promote(made, version)
    return made


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_folder_that_is_not_there_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "file").touch()
    assert main(["releases", "verify", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / name} is no folder; name that of a release")


def test_a_release_under_the_name_of_another_becomes_no_champion(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (folder / "v1" / MANIFEST).read_text()
    (folder / "v1" / MANIFEST).write_text(text.replace('"version": 1', '"version": 3'))
    sign(folder / "v1")
    before = contents(folder)
    for words in (["promote", "v1"], ["rollback"]):
        assert main(["releases", *words, *WORDS]) == 1
        assert f"{folder / 'v1'} is version 3 by its manifest" in capsys.readouterr().err
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "told"), [(traffic.TRAFFIC, "cannot be understood"), (POINTER, "names no release")]
)
def test_a_spoilt_file_beside_the_releases_makes_none_of_them_a_broken_one(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    (folder / name).write_text("{")
    assert main(["releases", "list", *WORDS]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {folder / name} {told}")
    assert "broken" not in said.out
