"""Which of a fleet's releases answers which request: files beside the releases.

    releases/champion        the release that answers unless something else is said here
    releases/champions.log   each champion that there was, one on a line, with the time (UTC)
    releases/traffic.json    canary, tags and shadows

Nothing here loads a model: a service follows these files, and people change them by
`python -m millwright releases`.
"""

import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, FiniteFloat, ValidationError

from millwright import release as releases
from millwright.configuration import Strict
from millwright.errors import InputError, ReleaseError
from millwright.fields import distinct
from millwright.files import file_written_whole
from millwright.lock import held

TRAFFIC, LOG = "traffic.json", "champions.log"
CHAMPION, CANARY, SHADOW = "champion", "canary", "shadow"
PATIENCE = 30.0  # seconds to wait for somebody else who changes the same files
MOST_NAMED = 100  # tags, or shadows
TAG = r"[a-z][a-z0-9_]{0,39}"
_PARTS = 1_000_000  # that machines are divided into


def _free(tag: str) -> str:
    if tag in (CHAMPION, CANARY, SHADOW):
        raise ValueError("is a role of its own; take another name for the tag")
    return tag


Version = Annotated[int, Field(gt=0, lt=1_000_000_000, strict=True)]
Tag = Annotated[str, Field(pattern=f"^{TAG}$", strict=True)]
Versions = Annotated[tuple[Version, ...], AfterValidator(distinct)]


class Canary(Strict):
    """A release that answers for some of the machines, always for the same ones."""

    version: Version
    percent: FiniteFloat = Field(gt=0, le=100, strict=True)

    def takes(self, machine: str) -> bool:
        """Whether it answers for `machine`: with a larger percentage it keeps those it has."""
        place = zlib.crc32(f"{self.version}:{machine}".encode()) % _PARTS
        return place < self.percent / 100 * _PARTS


class Traffic(Strict):
    """What is not answered by the champion.

    `tags` name the release that answers requests which carry that tag. Those in `shadow` predict
    whatever others answer; that is logged and told to nobody.
    """

    canary: Canary | None = None
    tags: dict[Annotated[Tag, AfterValidator(_free)], Version] = Field(
        default_factory=dict, max_length=MOST_NAMED
    )
    shadow: Versions = Field(default=(), max_length=MOST_NAMED)

    @property
    def versions(self) -> set[int]:
        """Every release that is named."""
        canary = {self.canary.version} if self.canary else set()
        return canary | {*self.tags.values()} | {*self.shadow}

    def without(self, version: int) -> "Traffic":
        """The same, but that `version` has no part in it."""
        tags = {tag: each for tag, each in self.tags.items() if each != version}
        return self.promoted(version).model_copy(update={"tags": tags})

    def promoted(self, version: int) -> "Traffic":
        """The same when `version` is the champion: its canary and its shadow say nothing then."""
        return Traffic(
            canary=None if self.canary and self.canary.version == version else self.canary,
            tags=self.tags,
            shadow=tuple(each for each in self.shadow if each != version),
        )


def read(folder: Path) -> Traffic:
    """How traffic is divided among the releases in `folder`.

    Raises:
        ReleaseError: the file cannot be understood.
    """
    path = folder / TRAFFIC
    try:
        return Traffic.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Traffic()
    except (OSError, ValidationError) as err:
        raise ReleaseError(
            f"{path} cannot be understood; write it anew: {_command(folder, 'split')}"
        ) from err


def write(folder: Path, traffic: Traffic) -> None:
    """Divide traffic so, from the next look of the service on.

    Raises:
        InputError: a release that is named is not there, or the canary is the champion.
        MillwrightError: the file cannot be written.
    """
    for version in sorted(traffic.versions):
        named(folder, version)
    with _changing(folder):
        champion = releases.champion(folder)
        if champion and traffic.canary and champion.name == f"v{traffic.canary.version}":
            raise InputError(f"{champion.name} is the champion; a canary is another release")
        _write(folder, traffic)


def promote(folder: Path, version: int, instead_of: int | None = None) -> None:
    """Make a release the champion, and no canary or shadow any more; its tags stay.

    With `instead_of` it is done as long as that is the champion.

    Raises:
        InputError: there is no such release.
        ReleaseError: another is the champion than was said, or the files cannot be understood.
        MillwrightError: they cannot be written.
    """
    release = named(folder, version)
    with _changing(folder):
        if instead_of is not None:
            check_champion(folder, instead_of)
        before = read(folder)
        present = releases.champion(folder)
        # In the log first: a kill in between leaves a line too many, and `former` passes over it.
        if present != release:
            _log(folder, present, version)
            releases.set_champion(folder, release)
        after = before.promoted(version)
        if after != before:
            _write(folder, after)


def check_champion(folder: Path, version: int) -> None:
    """See that a release is the champion, before it is rolled back from.

    Raises:
        ReleaseError: it is not, or not any more.
    """
    present = releases.champion(folder)
    if present is None or present.name != f"v{version}":
        raise ReleaseError(
            f"v{version} is not the champion; {present.name if present else 'nothing'} is: it was "
            "rolled back already, or another was promoted"
        )


def take_back(
    folder: Path, version: int, before: Path | None, split: Traffic, left: Traffic
) -> str:
    """Undo a promotion that went wrong, unless another came after it; what became of it, in words.

    Traffic is divided as in `split` again, if it still is as the promotion has `left` it. The log
    keeps its line, and `former` passes over it.

    Raises:
        MillwrightError: the files cannot be understood or written, or somebody else changes them.
    """
    with _changing(folder):
        present = releases.champion(folder)
        if present is None or present.name != f"v{version}":
            return f"{present.name if present else 'no release'} is the champion"
        if before and before.name == present.name:
            return f"v{version} was the champion before, and stays"
        # First: a kill in between leaves what the promotion began with, for a rerun to take back.
        if split != left and read(folder) == left:
            _write(folder, split)
        if before is None:
            (folder / releases.POINTER).unlink()
            return f"v{version} is no champion any more; a service that runs answers by it still"
        releases.set_champion(folder, before)
        return f"rolled back: {before.name} is the champion again"


def former(folder: Path) -> int:
    """The champion before the present one.

    Raises:
        InputError: there was none.
    """
    if found := formers(folder):
        return found[0]
    choosing = f"{_command(folder, 'list')}, and promote it: {_command(folder, 'promote VERSION')}"
    raise InputError(f"{folder} has had no other champion to roll back to; choose one: {choosing}")


def formers(folder: Path) -> list[int]:
    """The champions before the present one whose releases are there, each once, the latest first.

    Raises:
        ReleaseError: the log or the pointer cannot be read.
    """
    present = releases.champion(folder)
    found = dict.fromkeys(f"v{version}" for version, _ in reversed(_answered(folder, present)))
    return [
        int(name[1:]) for name in found if folder / name != present and (folder / name).is_dir()
    ]


def champions(folder: Path) -> list[tuple[int, str]]:
    """Each champion that there was with the time since when it was, the latest last.

    Raises:
        ReleaseError: the log cannot be read.
    """
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as err:
        raise ReleaseError(
            f"{folder / LOG} cannot be read: {err.strerror}; move it away, and promote the release "
            "that is wanted"
        ) from err
    found = [re.fullmatch(r"v(\d{1,9}) (\S+)", line) for line in lines]
    return [(int(line[1]), line[2]) for line in found if line]


def named(folder: Path, version: int) -> Path:
    """The release of a version.

    Raises:
        InputError: it is not there.
    """
    path = folder / f"v{version}"
    if not path.is_dir():
        known = ", ".join(f"v{each}" for each in versions(folder)) or "none yet"
        raise InputError(f"there is no release v{version} in {folder}; there are: {known}")
    return path


def versions(folder: Path) -> list[int]:
    """Every version that was released, the latest last."""
    names = [each.name[1:] for each in folder.glob("v*") if each.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())


def as_json(traffic: Traffic) -> dict[str, object]:
    """For `--json` and for the service's own description."""
    described: dict[str, object] = json.loads(traffic.model_dump_json())
    return described


def _command(folder: Path, action: str) -> str:
    """What does something with the releases in `folder`, wherever it is typed in."""
    fleet, environment = folder.parent.name, folder.parent.parent.name
    return f"python -m millwright releases {action} --fleet {fleet} --stack {environment}"


@contextmanager
def _changing(folder: Path) -> Iterator[None]:
    """Be alone in changing these files: services and commands do so, and drafts have one name."""
    with held(folder / "traffic.lock", lambda _: None, PATIENCE):
        try:
            yield
        except OSError as err:
            raise ReleaseError(
                f"cannot write in {folder}: {err.strerror}; let it be written, or change it where "
                "it can be"
            ) from err


def _log(folder: Path, present: Path | None, version: int) -> None:
    """Add a champion to the log, after those that have answered."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    lines = [*_answered(folder, present), (version, now)]
    with file_written_whole(folder / LOG) as draft:
        text = "".join(f"v{each} {since}\n" for each, since in lines)
        draft.write_text(text, encoding="utf-8")


def _answered(folder: Path, present: Path | None) -> list[tuple[int, str]]:
    """The champions up to the present one: what stands after it never came to answer."""
    found = champions(folder)
    places = [place for place, (version, _) in enumerate(found)
              if present and present.name == f"v{version}"]  # fmt: skip
    return found[: places[-1] + 1] if places else found


def _write(folder: Path, traffic: Traffic) -> None:
    with file_written_whole(folder / TRAFFIC) as draft:
        draft.write_text(traffic.model_dump_json(indent=1) + "\n", encoding="utf-8")
