"""Which code this is: a hash of the source, and the commit."""

import hashlib
import os
import subprocess

from millwright.settings import REPOSITORY

_CODE = ("millwright", "steps", "pipelines", "feature_repo")


def code_version() -> str:
    """A hash of the project's own source, which a cached result depends on."""
    digest = hashlib.sha256()
    for folder in _CODE:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(path.relative_to(REPOSITORY).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def git_revision() -> str | None:
    """The commit that is checked out, with `-dirty` if files differ; None outside a repository.

    An image has no repository: what it was built from stands in `MILLWRIGHT_REVISION`.
    """
    told = os.environ.get("MILLWRIGHT_REVISION")
    if told and told != "unknown":
        return told

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        dirty = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{revision}-dirty" if dirty else revision
