"""What killed commands have left: drafts, and records of servers that do not run."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from millwright.doctor.findings import Check, Finding, Patient
from millwright.endpoints import VARIABLES
from millwright.services.process import forget, read_record, running

DRAFTS = (".*.draft", ".*.former", ".scratch", ".spill-*", ".*.unfinished")
# Folders of servers and of MLflow, which nobody else writes to.
FOREIGN = ("services", "mlflow")
NAMED = 3


def drafts(patient: Patient) -> Iterator[Finding]:
    """Files and folders that a run would have renamed or removed in its end."""
    found = sorted(_drafts(patient.state.root))
    if found and at_work(patient):
        yield Finding("drafts", "ok", f"those of the run that is at work ({holder(patient)})")
    elif found:
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        said = f"left by a killed run: {', '.join(map(str, found[:NAMED]))}{more}"
        mend = patient.command("doctor --repair")
        yield Finding("drafts", "warning", said, mend, lambda: _remove(patient.state.root))
    else:
        yield Finding("drafts", "ok", "none")


def _drafts(root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        if Path(place) == root:
            folders[:] = [name for name in folders if name not in FOREIGN]
        for name in (*folders, *files):
            if any(fnmatch(name, pattern) for pattern in DRAFTS):
                yield Path(place, name)
        folders[:] = [n for n in folders if not any(fnmatch(n, pattern) for pattern in DRAFTS)]


def _remove(root: Path) -> str:
    found = list(_drafts(root))
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return f"{len(found)} drafts removed"


def records(patient: Patient) -> Iterator[Finding]:
    """Records of servers whose process has gone."""
    folders = [patient.state.services / name for name in VARIABLES]
    dead = [each for each in folders if read_record(each) and running(each) is None]
    if dead:
        said = f"{', '.join(each.name for each in dead)} ended without being stopped"
        mend = patient.command("services up")
        yield Finding("server records", "warning", said, mend, lambda: _forget(dead))
    elif patient.settings.servers == "here":
        yield Finding("server records", "ok", "none of a server that does not run")


def _forget(dead: list[Path]) -> str:
    gone = [folder for folder in dead if running(folder) is None]
    for folder in gone:
        forget(folder)
    return f"{len(gone)} records of servers removed"


def at_work(patient: Patient) -> bool:
    """Whether a run holds the environment's lock; it is tried, and let go of at once."""
    try:
        descriptor = os.open(patient.state.lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(patient: Patient) -> str:
    """Who holds the lock."""
    try:
        return f"process {patient.state.lock.with_suffix('.pid').read_text().strip()}"
    except OSError:
        return "another process"


CHECKS = (
    Check("drafts", drafts, "python -m millwright doctor --repair"),
    Check("server records", records, "python -m millwright services status"),
)
