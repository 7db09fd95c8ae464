"""`feast` and `mlflow` as typed in the project's virtual environment: they follow the active stack.

Both are the tools themselves. What they are told here is which environment they act on, which is
the one of the active ZenML stack (`zenml stack set staging`), or `MILLWRIGHT_ENVIRONMENT`.
"""

import os
import sys
from collections.abc import Callable, Sequence

from millwright import startup, terminal
from millwright.endpoints import mlflow_uri
from millwright.errors import InputError, MillwrightError
from millwright.process import chosen, prepare
from millwright.settings import State, load_settings
from millwright.watch import watched


def feast(words: Sequence[str] | None = None) -> int:
    """Feast's command, in the feature store of the active environment."""

    def work(state: State) -> int:
        from feast.cli.cli import cli
        from feast.errors import FeastError

        from millwright import feast_store

        os.environ.update(feast_store.variables(state))
        os.environ.setdefault(feast_store.FILE_VARIABLE, str(feast_store.configuration(state)))
        asked = list(sys.argv[1:] if words is None else words)
        # Feast takes the folder that it is in for the definitions, and would find none there.
        if not {"-c", "--chdir"} & set(asked):
            asked = ["--chdir", str(feast_store.FEATURE_REPO), *asked]
        try:
            return int(cli.main(asked, prog_name="feast", standalone_mode=True) or 0)
        except FeastError as err:
            # What was typed is wrong; where in Feast that was noticed helps nobody.
            raise InputError(" ".join(str(err).split())) from err
        except ValueError as err:
            if not any(word.startswith("materialize") for word in asked):
                raise
            raise InputError(" ".join(str(err).split())) from err  # what it says of a wrong window

    return _inside(work)


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
    startup.import_quickly()
    try:
        state = chosen(None)
        prepare(state)
        sys.stderr.write(f"environment: {state.environment}\n")
        with watched(state, load_settings(state.environment), terminal.fail):
            return work(state)
    except MillwrightError as err:
        terminal.fail(str(err))
        return err.exit_code
    except KeyboardInterrupt:
        terminal.fail("interrupted")
        return 130
