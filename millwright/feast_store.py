"""Feast, opened for an environment, and the definitions of `feature_repo/` published to it."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from feast import FeatureStore
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total

from millwright.files import file_written_whole
from millwright.settings import REPOSITORY, State

FEATURE_REPO = REPOSITORY / "feature_repo"


def configuration(state: State) -> Path:
    """Write the environment's `feature_store.yaml` with absolute paths, and give its path.

    The file in `feature_repo/` counts its paths from there, for `feast` typed by hand; a pipeline
    may run from anywhere, with its state anywhere.
    """
    text = (FEATURE_REPO / "feature_store.yaml").read_text(encoding="utf-8")
    path = state.root / "feature_store.yaml"
    text = text.replace("../.millwright/", f"{state.home}/")
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with file_written_whole(path) as draft:
            draft.write_text(text, encoding="utf-8")
    return path


def open_store(state: State) -> FeatureStore:
    """The feature store of an environment."""
    return FeatureStore(repo_path=str(FEATURE_REPO), fs_yaml_file=configuration(state))


def apply(state: State) -> str:
    """Do what `feast apply` does, and give what it says."""
    config = load_repo_config(FEATURE_REPO, configuration(state))
    said = io.StringIO()
    with _inside(FEATURE_REPO), contextlib.redirect_stdout(said):
        apply_total(config, FEATURE_REPO, skip_source_validation=True)
    return said.getvalue()


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in `folder` for a while, as Feast's command does: its modules find each other there.

    They are forgotten afterwards, so that the next time reads them anew.
    """
    before, known = Path.cwd(), set(sys.modules)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        os.chdir(before)
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(folder):
                del sys.modules[name]
