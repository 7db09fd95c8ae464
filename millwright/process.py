"""Which environment a command acts on, and what its process has to know for that."""

import os
from pathlib import Path

from millwright import active_stack
from millwright.endpoints import mlflow_uri
from millwright.errors import ConfigurationError
from millwright.settings import HOME, State, load_settings, process_environment, state

VARIABLE = "MILLWRIGHT_ENVIRONMENT"  # chooses for one shell, over the active stack


def chosen(named: str | None) -> State:
    """The state of the environment that was named, or of the one whose ZenML stack is active.

    What `MILLWRIGHT_ENVIRONMENT` says counts as named.

    Raises:
        ConfigurationError: there is no such environment, or the active stack is none of ours.
    """
    settle()
    named = named or os.environ.get(VARIABLE)
    if named:
        load_settings(named)
        return state(named)
    usual = state("local")
    _export(usual, process_environment(usual))
    if not (usual.zenml / "config.yaml").is_file() and "ZENML_ACTIVE_STACK_ID" not in os.environ:
        return usual  # ZenML has not begun yet
    name = active_stack.name()
    if name is not None:
        return state(active_stack.environment_of(name))
    from millwright import stack  # which reads some of the variables when it is imported

    return state(stack.active_environment())


def prepare(state: State) -> None:
    """Let ZenML, MLflow and Feast find the state of an environment.

    Raises:
        ConfigurationError: nothing can be written there, or a server's URL is not known.
    """
    adopt(state, mlflow_uri(state))
    try:
        state.root.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ConfigurationError(
            f"cannot write to {state.root}: {err.strerror}; give a folder that may be "
            "written, with MILLWRIGHT_HOME"
        ) from err


def adopt(state: State, mlflow: str | None) -> None:
    """Set the variables that an environment is found by, and make nothing.

    `mlflow` is the URI of its MLflow; None is the one that has no server.
    """
    _export(state, process_environment(state, mlflow))
    os.environ[VARIABLE] = state.environment


def settle() -> None:
    """Have relative paths mean the same wherever the process works later."""
    for name in ("MILLWRIGHT_HOME", "MILLWRIGHT_FLEETS"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).resolve())
    if os.environ.get("MILLWRIGHT_KEYS"):  # a link there leads to another file one day
        os.environ["MILLWRIGHT_KEYS"] = str(Path(os.environ["MILLWRIGHT_KEYS"]).absolute())


def _own(state: State) -> dict[str, str]:
    """What our own processes have besides."""
    return {
        # Errors of ours end in one line; what ZenML would log of them is a traceback.
        "ZENML_LOGGING_VERBOSITY": "CRITICAL",
        # These would write to the user's home.
        "MPLCONFIGDIR": str(state.cache / "matplotlib"),
        "UV_CACHE_DIR": str(state.cache / "uv"),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        # Where MLflow keeps what is logged by hand; it would make ./mlruns for that.
        "_MLFLOW_SERVER_ARTIFACT_ROOT": state.mlflow_artifacts.as_uri(),
        # A server that is away is ours to report, and at once.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    }


def _export(state: State, variables: dict[str, str]) -> None:
    # What an activated environment exports must not hold for another home or environment.
    usual = [process_environment(State(home, "local")) for home in (HOME, state.home)]
    for name, value in {**variables, **_own(state)}.items():
        if os.environ.get(name) in (None, *(each.get(name) for each in usual)):
            os.environ[name] = value
