"""Where the servers of an environment are reached, and with what password.

`MILLWRIGHT_POSTGRES_URL`, `MILLWRIGHT_REDIS_URL` and `MLFLOW_TRACKING_URI` name them; what is not
named is what `python -m millwright services up` has started on this machine, which it writes down
in a file that only its owner may read. Nothing here connects to anything.
"""

import json
import os
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from millwright.errors import ConfigurationError
from millwright.settings import State

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
    if not url or (server == "mlflow" and url == usual_mlflow(state)):
        return None
    if urlsplit(url).scheme not in SCHEMES[server]:
        raise ConfigurationError(
            f"{VARIABLES[server]} is {without_password(url)}, and environment "
            f"'{state.environment}' needs one like {EXAMPLES[server]}; unset it to use a server "
            "that is started here"
        )
    return url


def usual_mlflow(state: State) -> str:
    """What an activated virtual environment exports for the local environment's MLflow."""
    return State(state.home, "local").mlflow_uri


def started_here(state: State) -> dict[str, str]:
    """The URLs of the servers that `services up` has started; empty where there are none."""
    try:
        found: dict[str, str] = json.loads(state.endpoints.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        raise ConfigurationError(
            f"{state.endpoints} cannot be read: {err}; make it anew: python -m millwright services "
            f"up --stack {state.environment}"
        ) from err
    return found


def without_password(url: str) -> str:
    """`url` as it may be shown."""
    parts = urlsplit(url)
    if not parts.hostname or "@" not in parts.netloc:
        return url
    user = parts.username or ""
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(
        parts._replace(netloc=f"{user}:***@{place}" if parts.password else f"{user}@{place}")
    )
