"""`feast` and `mlflow` as typed in the project's virtual environment: they follow the active stack.

Both are the tools themselves. What they are told here is which environment they act on, which is
the one of the active ZenML stack (`zenml stack set staging`), or `MILLWRIGHT_ENVIRONMENT`. Where
another Feast project is meant, or this is no checkout of ours, `feast` is told nothing.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from millwright import startup, terminal
from millwright.endpoints import mlflow_uri
from millwright.errors import InputError, MillwrightError
from millwright.process import chosen, prepare
from millwright.settings import ENVIRONMENTS, FEAST_FILE, FEATURE_REPO, State, load_settings
from millwright.watch import watched

# Commands of Feast's that read its registry, and no definitions that somebody has written.
READING = frozenset(
    (
        "data-sources", "entities", "feature-services", "feature-views", "features", "materialize",
        "materialize-incremental", "projects", "registry-dump", "saved-datasets", "version",
    )
)  # fmt: skip


def feast(words: Sequence[str] | None = None) -> int:
    """Feast's command: in the project that is there or named, or else in our environment."""
    asked = list(sys.argv[1:] if words is None else words)
    folder, file, command = _meant(asked)
    if command in READING:
        startup.leave_feast_unchecked()
    if not FEATURE_REPO.is_dir() or (file and ENVIRONMENTS not in file.parents):
        return _told(partial(_feast, asked))

    def work(state: State) -> int:
        from millwright import feast_store

        os.environ.update(feast_store.variables(state))
        os.environ.setdefault(FEAST_FILE, str(feast_store.configuration(state)))
        # Feast takes the folder that it is in for the definitions, and would find none there.
        return _feast(asked if folder else ["--chdir", str(FEATURE_REPO), *asked])

    return _inside(work)


def _meant(asked: Sequence[str]) -> tuple[str | None, Path | None, str | None]:
    """The folder that Feast is to go to, the `feature_store.yaml` there, and what it is to do."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--chdir", default=os.environ.get("FEATURE_REPO_DIR_ENV_VAR"))
    parser.add_argument("-f", "--feature-store-yaml", default=os.environ.get(FEAST_FILE))
    parser.add_argument("--log-level")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    said, _ = parser.parse_known_args(asked)
    file = Path(said.feature_store_yaml or Path(said.chdir or ".") / "feature_store.yaml")
    there = file.resolve() if said.feature_store_yaml or file.is_file() else None
    return said.chdir, there, said.command[0] if said.command else None


def _feast(asked: list[str]) -> int:
    from feast.cli.cli import cli
    from feast.errors import FeastError
    from feast.repo_config import FeastConfigError

    try:
        return int(cli.main(asked, prog_name="feast", standalone_mode=True) or 0)
    except (FeastError, FeastConfigError) as err:
        # What was typed is wrong; where in Feast that was noticed helps nobody.
        raise InputError(" ".join(str(err).split())) from err
    except ValueError as err:
        if not any(word.startswith("materialize") for word in asked):
            raise
        raise InputError(" ".join(str(err).split())) from err  # what it says of a wrong window


def mlflow(words: Sequence[str] | None = None) -> int:
    """MLflow's command, on the runs and models of the active environment."""

    def work(state: State) -> int:
        from mlflow.cli import cli

        asked = list(sys.argv[1:] if words is None else words)
        uri = mlflow_uri(state)
        if asked and asked[0] in ("ui", "server") and uri.startswith("http"):
            raise InputError(
                f"MLflow of environment '{state.environment}' runs already: open {uri}"
            )
        return int(cli.main(words, prog_name="mlflow", standalone_mode=True) or 0)

    return _inside(work)


def _inside(work: Callable[[State], int]) -> int:
    """Do `work` in the state of the active environment."""

    def prepared() -> int:
        state = chosen(None)
        prepare(state)
        sys.stderr.write(f"environment: {state.environment}\n")
        with watched(state, load_settings(state.environment), terminal.fail):
            return work(state)

    return _told(prepared)


def _told(work: Callable[[], int]) -> int:
    startup.import_quickly()
    try:
        return work()
    except MillwrightError as err:
        terminal.fail(str(err))
        return err.exit_code
    except KeyboardInterrupt:
        terminal.fail("interrupted")
        return 130
