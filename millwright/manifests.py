"""The manifests of one release of the service, for a cluster: written out, and applied if asked.

The label of the Deployment names the release, and each release has objects of its own. So the new
one comes up beside the one that serves, and has the traffic when it is ready.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

from millwright.errors import MillwrightError
from millwright.files import folder_written_whole
from millwright.settings import REPOSITORY

KUBERNETES = REPOSITORY / "docker" / "kubernetes"
NAMESPACE = "millwright"
PATIENCE = 600  # seconds for kubectl
# What names a release, but for the tags of images: those are of the code.
_RELEASE = re.compile(r"^(?!\s*newTag:)(.*)\bv\d+\b(?=.*# release$)", re.MULTILINE)


def write(target: Path, overlay: str, version: int, serving: int, root: Path = KUBERNETES) -> Path:
    """Write the manifests of a release to `target`, and give the folder to apply.

    Traffic stays with `serving`, until it is moved.
    """
    with folder_written_whole(target) as draft:
        shutil.copytree(root, draft, dirs_exist_ok=True)
        for path in (draft / "overlays" / overlay).rglob("*.yaml"):
            named = serving if path.name == "traffic.yaml" else version
            text = _RELEASE.sub(rf"\g<1>v{named}", path.read_text(encoding="utf-8"))
            path.write_text(text, encoding="utf-8")
    return target / "overlays" / overlay


def steps(folder: Path, version: int, context: str | None) -> list[list[str]]:
    """What is to be done, in this order: apply, wait until the release is ready, move traffic."""
    kubectl = ["kubectl", *(["--context", context] if context else [])]
    here = [*kubectl, "--namespace", NAMESPACE]
    selector = json.dumps({"spec": {"selector": {"release": f"v{version}"}}})
    return [
        [*kubectl, "apply", "--kustomize", str(folder)],
        [*here, "rollout", "status", f"deployment/millwright-service-v{version}", "--timeout=5m"],
        [*here, "patch", "service", "millwright", "--patch", selector],
    ]


def run(words: list[str]) -> str:
    """Take one step, and give what kubectl says.

    Raises:
        MillwrightError: there is no kubectl, or it could not.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise MillwrightError(f"{' '.join(words)} cannot be run: {err}; run it yourself") from err
    if done.returncode:
        raise MillwrightError(f"{' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout
