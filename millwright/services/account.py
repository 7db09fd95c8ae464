"""Who runs PostgreSQL, which refuses to be run by root.

Whoever is not root runs it as he is. For root it runs in a user namespace, in which root has
another number: its files stay root's, and nothing else changes on the machine. Where the system
does not let us have one (a container often does not) it runs as the user `nobody`, who then owns
its data and has to be let through the folders above them.
"""

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millwright.errors import MillwrightError

NOBODY = "nobody"
NUMBER = "65534"  # any but 0 will do


@dataclass(frozen=True)
class Account:
    """What stands before a command, and the user who runs it (None: whoever runs this one)."""

    prefix: tuple[str, ...] = ()
    user: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """The user as `subprocess` takes him."""
        if self.user is None:
            return {}
        return {"user": self.user, "group": _group(self.user), "extra_groups": []}

    def run(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], words: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run `command` in `folder` to its end, with `words` as its input."""
        return subprocess.run(
            [*self.prefix, *command],
            cwd=folder,
            env=environment,
            input=words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            **self.identity,
        )

    def take_over(self, folder: Path) -> None:
        """Make sure that `folder` and everything in it belongs to the account.

        Raises:
            MillwrightError: it belongs to somebody else, and this user cannot change that.
        """
        owner = pwd.getpwnam(self.user).pw_uid if self.user else os.geteuid()
        if folder.stat().st_uid == owner and all(
            p.stat().st_uid == owner for p in folder.iterdir()
        ):
            return
        if os.geteuid() != 0:
            raise MillwrightError(
                f"{folder} belongs to user {folder.owner()}; run the command as that user, or give "
                f"it away: sudo chown -R {os.geteuid()} {folder}"
            )
        group = _group(self.user) if self.user else os.getegid()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner, group, follow_symlinks=False)


def account(program: Path, folder: Path, say: Callable[[str], None]) -> Account:
    """Who can run `program` on data in `folder`.

    Raises:
        MillwrightError: nobody can.
    """
    if os.geteuid() != 0:
        return Account()
    unshare = shutil.which("unshare")
    if unshare:
        mapped = (f"--map-user={NUMBER}", f"--map-group={NUMBER}")
        namespace = Account((unshare, "--user", *mapped, "--"))
        if _can_run(namespace, program):
            return namespace
    nobody = Account(user=NOBODY)
    for place in (folder, program):
        _let_through(place, say)
    if not _can_run(nobody, program):
        raise MillwrightError(
            f"PostgreSQL refuses to be run by root, and user {NOBODY} cannot run {program}; run "
            "the command as another user than root, or name a server with MILLWRIGHT_POSTGRES_URL"
        )
    return nobody


def _can_run(account: Account, program: Path) -> bool:
    try:
        return account.run([str(program), "--version"], Path("/"), dict(os.environ)).returncode == 0
    except OSError:
        return False


def _let_through(path: Path, say: Callable[[str], None]) -> None:
    """Let others pass through the folders above `path`, without letting them look into any."""
    for folder in path.parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
            say(f"postgres: user {NOBODY} may pass through {folder} now (chmod o+x)")


def _group(user: str) -> int:
    return pwd.getpwnam(user).pw_gid
