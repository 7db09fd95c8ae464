"""Where the servers of an environment are reached, and with what password.

`MILLWRIGHT_POSTGRES_URL`, `MILLWRIGHT_REDIS_URL` and `MLFLOW_TRACKING_URI` name them; what is not
named is what `python -m millwright services up` has started on this machine, which it writes down
in a file that only its owner may read. Nothing here connects to anything.
"""

import json
import os
import re
from dataclasses import dataclass

from millwright.errors import ConfigurationError
from millwright.settings import HOME, State, load_settings

VARIABLES = {
    "postgres": "MILLWRIGHT_POSTGRES_URL",
    "redis": "MILLWRIGHT_REDIS_URL",
    "mlflow": "MLFLOW_TRACKING_URI",
}
SCHEMES = {
    "postgres": ("postgresql",),
    "redis": ("redis", "rediss"),
    "mlflow": ("http", "https"),
}
EXAMPLES = {
    "postgres": "postgresql://USER:PASSWORD@HOST:5432/DATABASE",
    "redis": "redis://:PASSWORD@HOST:6379/0",
    "mlflow": "https://HOST:5000",
}
_SECRET = re.compile(r"([?&](?:ssl)?password=)[^&#]*", re.IGNORECASE)


@dataclass(frozen=True)
class Endpoints:
    """The URL of each server, passwords included: to connect with, never to show."""

    postgres: str
    redis: str
    mlflow: str

    def __repr__(self) -> str:
        shown = {name: without_password(url) for name, url in vars(self).items()}
        return f"Endpoints({shown})"


def endpoints(state: State) -> Endpoints:
    """The servers of an environment.

    Raises:
        ConfigurationError: a server is neither named nor started here, or its URL is of another
            kind.
    """
    started = started_here(state)
    found = {}
    for name in VARIABLES:
        url = named(name, state) or started.get(name)
        if url is None:
            raise ConfigurationError(
                f"environment '{state.environment}' needs {name}, and no URL of it is known; start "
                f"it here: python -m millwright services up --stack {state.environment}, or name "
                f"it: export {VARIABLES[name]}={EXAMPLES[name]}"
            )
        found[name] = url
    return Endpoints(**found)


def named(server: str, state: State) -> str | None:
    """The URL that a variable gives a server, None where it gives none.

    Raises:
        ConfigurationError: the URL is of another kind.
    """
    url = os.environ.get(VARIABLES[server])
    if not url or (server == "mlflow" and url in usual_mlflow(state)):
        return None
    if url.partition("://")[0] not in SCHEMES[server]:
        raise ConfigurationError(
            f"{VARIABLES[server]} is {without_password(url)}, and environment "
            f"'{state.environment}' needs one like {EXAMPLES[server]}; unset it to use a server "
            "that is started here"
        )
    return url


def usual_mlflow(state: State) -> set[str]:
    """What an activated virtual environment exports for the local environment's MLflow."""
    return {State(home, "local").mlflow_uri for home in (HOME, state.home)}


def mlflow_uri(state: State) -> str:
    """Where the environment keeps MLflow's runs and models: its server, or a file.

    Raises:
        ConfigurationError: another place is named, or no server is known.
    """
    if load_settings(state.environment).servers != "none":
        return endpoints(state).mlflow
    url = os.environ.get(VARIABLES["mlflow"])
    if url and url not in usual_mlflow(state):
        raise ConfigurationError(
            f"{VARIABLES['mlflow']} is {without_password(url)}, and environment "
            f"'{state.environment}' keeps MLflow in {state.mlflow_uri}; unset it, or choose the "
            "environment that it belongs to: --stack NAME"
        )
    return state.mlflow_uri


def started_here(state: State) -> dict[str, str]:
    """The URLs of the servers that `services up` has started; empty where there are none."""
    try:
        found: dict[str, str] = json.loads(state.endpoints.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        raise ConfigurationError(_unreadable(state, str(err))) from err
    if not isinstance(found, dict) or not all(isinstance(url, str) for url in found.values()):
        raise ConfigurationError(_unreadable(state, "it is no list of URLs by name"))
    return found


def _unreadable(state: State, why: str) -> str:
    return (
        f"{state.endpoints} cannot be read: {why}; make it anew: python -m millwright services "
        f"up --stack {state.environment}"
    )


def without_password(url: str) -> str:
    """`url` as it may be shown, even if it is not quite a URL."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    # Up to the last @: a password that should have been escaped may hold one, or a slash.
    account, at, place = rest.rpartition("@")
    user, colon, _ = account.partition(":")
    shown = f"{user}:***@" if colon else f"{account}{at}"
    return f"{scheme}://{shown}" + _SECRET.sub(r"\1***", place)
