"""The machine: Python and its packages, the disk, the clock."""

import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from packaging.requirements import Requirement

from millwright.doctor.findings import Check, Finding, Patient
from millwright.raw_store import RawStore
from millwright.settings import REPOSITORY

LOCKS = REPOSITORY / "requirements"
GIGABYTE = 1_000_000_000
FEW, TOO_FEW = 5 * GIGABYTE, 1 * GIGABYTE  # bytes that are free
FEW_INODES, TOO_FEW_INODES = 50_000, 5_000
NAMED = 6  # packages that a line names
TOLERANCE = timedelta(seconds=2)


def python(patient: Patient) -> Iterator[Finding]:  # noqa: ARG001 - all checks look alike
    """The interpreter's version."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        yield Finding("python", "ok", found)
    else:
        mend = "make setup PYTHON=/path/to/python3.11"
        yield Finding("python", "fault", f"{found}, and 3.11 is needed", mend)


def packages(patient: Patient) -> Iterator[Finding]:  # noqa: ARG001
    """The installed packages against the lock."""
    lock = lock_file()
    wanted = locked(lock)
    apart = differences(wanted, installed)
    if not apart:
        yield Finding("packages", "ok", f"{len(wanted)} as in requirements/{lock.name}")
        return
    more = f" and {len(apart) - NAMED} more" if len(apart) > NAMED else ""
    said = f"not as in requirements/{lock.name}: {', '.join(apart[:NAMED])}{more}"
    yield Finding("packages", "fault", said, "make setup")


def lock_file() -> Path:
    """The lock that this installation was made from: without what only developers need, or with."""
    develop, run = LOCKS / "dev.txt", LOCKS / "runtime.txt"
    if not run.is_file():
        return develop
    extra = set(locked(develop)) - set(locked(run))
    return develop if any(installed(name) for name in extra) else run


def locked(path: Path) -> dict[str, str]:
    """The version that a lock gives each package that this machine needs."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line[:1].isalnum():
            wanted = Requirement(line.rstrip("\\ "))
            if wanted.marker is None or wanted.marker.evaluate():
                found[wanted.name] = next(iter(wanted.specifier)).version
    return found


def installed(name: str) -> str | None:
    """The version of a package that is installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def differences(wanted: dict[str, str], have: Callable[[str], str | None]) -> list[str]:
    """Each package that is not as it should be, in words."""
    return [
        f"{name} is {there or 'missing'} instead of {should}"
        for name, should in wanted.items()
        if (there := have(name)) != should
    ]


def state_folder(patient: Patient) -> Iterator[Finding]:
    """Whether state can be written, to a folder that is there or could be made."""
    place = patient.state.root
    there = next(path for path in (place, *place.parents) if path.exists())
    mend = "export MILLWRIGHT_HOME=/a/folder/that/may/be/written"
    if not there.is_dir():
        yield Finding("state folder", "fault", f"{there} is a file, and has to be a folder", mend)
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Finding("state folder", "fault", f"{there} may not be written", mend)
    else:
        yield Finding("state folder", "ok", f"{place}{'' if there == place else ', not made yet'}")


def disk(
    patient: Patient, measure: Callable[[Path], os.statvfs_result] = os.statvfs
) -> Iterator[Finding]:
    """The room that is left where the state is."""
    place = patient.state.root
    there = next(path for path in (place, *place.parents) if path.exists())
    found = measure(there)
    free, inodes = found.f_bavail * found.f_frsize, found.f_favail
    # Some file systems count no inodes.
    counted = inodes if found.f_files else FEW_INODES
    said = f"{free / GIGABYTE:,.1f} GB free at {there}"
    if found.f_files:
        said += f", {inodes:,} more files"
    if free < TOO_FEW or counted < TOO_FEW_INODES:
        yield Finding("disk", "fault", said, f"du -xh --max-depth=3 {there} | sort -h | tail")
    elif free < FEW or counted < FEW_INODES:
        yield Finding("disk", "warning", said, f"du -xh --max-depth=3 {there} | sort -h | tail")
    else:
        yield Finding("disk", "ok", said)


def time_zones(patient: Patient) -> Iterator[Finding]:  # noqa: ARG001
    """The time zone database, by which local times in exports are understood."""
    try:
        ZoneInfo("Europe/Berlin")
    except ZoneInfoNotFoundError:
        mend = "apt-get install tzdata"
        yield Finding("time zones", "fault", "this machine has no time zone database", mend)
    else:
        yield Finding("time zones", "ok", "there is a database of them")


def clock(patient: Patient) -> Iterator[Finding]:
    """This machine's clock, which can be neither before its own code nor before its data."""
    yield from judge_clock(datetime.now(UTC), newest_moments(patient))


def newest_moments(patient: Patient) -> dict[str, datetime]:
    """Moments that lie behind us, by what happened then."""
    code = max(path.stat().st_mtime for path in (REPOSITORY / "millwright").glob("*.py"))
    found = {"the project's code was written": datetime.fromtimestamp(code, UTC)}
    for fleet in patient.fleets():
        pieces = [p for b in RawStore(patient.state.raw(fleet.name), fleet).batches()
                  for p in b.files]  # fmt: skip
        if pieces:
            known = max(piece.last_received for piece in pieces)
            found[f"the newest row of fleet {fleet.name} became known"] = known
    return found


def judge_clock(now: datetime, moments: dict[str, datetime]) -> Iterator[Finding]:
    """Whether `now` comes after all `moments`."""
    ahead = {what: when for what, when in moments.items() if when > now + TOLERANCE}
    for what, when in ahead.items():
        said = f"the clock says {now:%Y-%m-%d %H:%M} UTC, and {what} at {when:%Y-%m-%d %H:%M}"
        yield Finding("clock", "fault", said, "timedatectl set-ntp true")
    if not ahead:
        yield Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC, after all that is stored")


CHECKS = (
    Check("python", python, "make setup"),
    Check("packages", packages, "make setup"),
    Check("state folder", state_folder, "export MILLWRIGHT_HOME=/a/folder/that/may/be/written"),
    Check("disk", disk, "df -h"),
    Check("time zones", time_zones, "apt-get install tzdata"),
    Check("clock", clock, "timedatectl set-ntp true"),
)
