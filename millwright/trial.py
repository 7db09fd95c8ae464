"""What was in service before a release that has still to show itself, and the way back to that.

    releases/trial.json    the release on trial, the champion before it, and how traffic was divided

It is written before the release is promoted and removed when the release has shown itself or is
taken back. A deployment that was killed in between leaves it, and the next one knows by it that the
champion was never proved.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from millwright import release as releases
from millwright import traffic
from millwright.configuration import Strict
from millwright.errors import MillwrightError, ReleaseError
from millwright.files import file_written_whole
from millwright.traffic import Traffic

NOTE = "trial.json"


class Trial(Strict):
    """A release on trial, and what to go back to; `left` is the traffic that a promotion leaves."""

    version: int
    before: int | None
    split: Traffic
    left: Traffic


def begin(folder: Path, version: int) -> Trial:
    """Note what is in service now, or what was before a champion that was never proved.

    Raises:
        ReleaseError: the files cannot be understood, or the note cannot be written.
    """
    champion, split = _number(releases.champion(folder)), traffic.read(folder)
    before, left = champion, split.promoted(version)
    noted = _noted(folder)
    if noted and noted.version == champion:
        before = noted.before
        if split == noted.left:  # nobody has divided it otherwise since
            split = noted.split
    trial = Trial(version=version, before=before, split=split, left=left)
    try:
        with file_written_whole(folder / NOTE) as draft:
            draft.write_text(trial.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as err:
        raise ReleaseError(
            f"cannot write in {folder}: {err.strerror}; nothing was promoted; let it be written"
        ) from err
    return trial


def passed(folder: Path) -> None:
    """The release has shown itself, or somebody has named a champion: nothing is to be taken back.

    Raises:
        ReleaseError: the note cannot be removed.
    """
    try:
        (folder / NOTE).unlink(missing_ok=True)
    except OSError as err:
        raise ReleaseError(f"cannot remove {folder / NOTE}: {err.strerror}; remove it") from err


def undo(folder: Path, trial: Trial, ways_out: Mapping[str, str]) -> str:
    """Take the release back; what became of it, in words.

    `ways_out` has the commands `rollback` and `promote`, for when it cannot be taken back.
    """
    before = folder / f"v{trial.before}" if trial.before is not None else None
    try:
        back = traffic.take_back(folder, trial.version, before, trial.split, trial.left)
        passed(folder)
    except MillwrightError as err:
        way = ways_out["rollback" if before else "promote"]
        return f"and this could not be undone: {err}\n{_champion(folder)} is the champion; {way}"
    return back


def _champion(folder: Path) -> str:
    try:
        present = releases.champion(folder)
    except ReleaseError as err:
        return f"nobody knows which release ({err})"
    return present.name if present else "no release"


def _noted(folder: Path) -> Trial | None:
    """The note of a deployment that was killed; one that cannot be understood is none."""
    try:
        return Trial.model_validate_json((folder / NOTE).read_bytes())
    except (OSError, ValidationError):
        return None


def _number(path: Path | None) -> int | None:
    return int(path.name[1:]) if path else None
