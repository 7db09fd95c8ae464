"""The manifests of one release of the service, for a cluster: written out, and applied if asked.

The label of the Deployment names the release, and so does every line of `docker/kubernetes` that
ends in `# release`. Of two releases each has objects of its own, so that one is taken away when the
other has proved itself.
"""

import re
import shutil
import subprocess
from pathlib import Path

from millwright.errors import MillwrightError
from millwright.files import folder_written_whole
from millwright.settings import REPOSITORY

KUBERNETES = REPOSITORY / "docker" / "kubernetes"
PATIENCE = 300  # seconds for kubectl
_RELEASE = re.compile(r"\bv\d+\b(?=.*# release$)", re.MULTILINE)


def write(target: Path, overlay: str, version: int, root: Path = KUBERNETES) -> Path:
    """Write the manifests to `target`, naming a release, and give the folder to apply."""
    with folder_written_whole(target) as draft:
        shutil.copytree(root, draft, dirs_exist_ok=True)
        for path in (draft / "overlays").rglob("*.yaml"):
            named = _RELEASE.sub(f"v{version}", path.read_text(encoding="utf-8"))
            path.write_text(named, encoding="utf-8")
    return target / "overlays" / overlay


def command(folder: Path, context: str | None) -> list[str]:
    """What applies the manifests in `folder`."""
    chosen = ["--context", context] if context else []
    return ["kubectl", *chosen, "apply", "--kustomize", str(folder)]


def apply(folder: Path, context: str | None) -> str:
    """Apply the manifests, and give what kubectl says.

    Raises:
        MillwrightError: there is no kubectl, or it could not.
    """
    words = command(folder, context)
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise MillwrightError(
            f"the manifests cannot be applied: {err}; apply them yourself: {' '.join(words)}"
        ) from err
    if done.returncode:
        raise MillwrightError(f"{' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout
