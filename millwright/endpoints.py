"""Where the servers of an environment are reached, and with what password.

`MILLWRIGHT_POSTGRES_URL`, `MILLWRIGHT_REDIS_URL` and `MLFLOW_TRACKING_URI` name them; what is not
named is what `python -m millwright services up` has started on this machine, which it writes down
in a file that only its owner may read. Nothing here connects to anything.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode

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
_KEY = r"[\w-]*(?:password|passwd|secret|token|signature|api_?key)"
_PARAMETER = re.compile(rf"([?&]{_KEY}=)([^&#]*)", re.IGNORECASE)
_SETTING = re.compile(rf"(\b{_KEY}\s*=\s*)('(?:\\.|[^'\\])*'|[^\s&#]+)", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z][\w+.-]*://\S+")
# A folder, or a host and perhaps a port: what stands where a URL should, and is surely no secret.
_PLACE = re.compile(r"/.*|[\w./~-]+(:\d+)?")
_NO_PORT = re.compile(r"([^\[:/?#][^:/?#]*):(?!\d*(?:[/?#]|$))")


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
    return Endpoints(**{name: endpoint(name, state) for name in VARIABLES})


def endpoint(server: str, state: State) -> str:
    """The URL of one server of an environment, password included.

    Raises:
        ConfigurationError: it is neither named nor started here, or its URL is of another kind.
    """
    url = named(server, state) or started_here(state).get(server)
    if url is None:
        ways = [f"name it: export {VARIABLES[server]}={example(server, state)}"]
        if load_settings(state.environment).servers == "here":
            up = f"python -m millwright services up --stack {state.environment}"
            ways.insert(0, f"start it here: {up}")
        raise ConfigurationError(
            f"environment '{state.environment}' needs {server}, and no URL of it is known; "
            f"{', or '.join(ways)}"
        )
    return url


def named(server: str, state: State) -> str | None:
    """The URL that a variable gives a server, None where it gives none.

    Raises:
        ConfigurationError: the URL is of another kind, or has a login that would be kept.
    """
    url = os.environ.get(VARIABLES[server])
    if not url or (server == "mlflow" and url in usual_mlflow(state)):
        return None
    if url.partition("://")[0] not in SCHEMES[server]:
        raise ConfigurationError(
            f"{VARIABLES[server]} is {without_password(url)}, and environment "
            f"'{state.environment}' needs one like {example(server, state)}; unset it to use a "
            "server that is started here"
        )
    if server == "mlflow" and "@" in url:
        raise ConfigurationError(
            f"{VARIABLES[server]} is {without_password(url)}, and ZenML would keep the login in "
            "it; take it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    return url


def example(server: str, state: State) -> str:
    """What the URL of a server looks like; by TLS where servers are elsewhere."""
    secured = server == "redis" and load_settings(state.environment).servers == "elsewhere"
    return EXAMPLES[server].replace("redis://", "rediss://") if secured else EXAMPLES[server]


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


def with_parameters(url: str, options: str, defaults: Mapping[str, str]) -> str:
    """A URL of PostgreSQL with our `options` after the user's, and `defaults` where he says none.

    Of two options that say the same thing, PostgreSQL takes the last.
    """
    place, _, query = url.partition("?")
    # libpq reads a plus sign as it is.
    given = dict(parse_qsl(query.replace("+", "%2B")))
    given["options"] = " ".join(filter(None, [given.get("options"), options]))
    return f"{place}?{urlencode({**defaults, **given}, quote_via=quote)}"


def without_password(url: str) -> str:
    """`url` as it may be shown, even if it is not quite a URL."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return _without_scheme(url)
    # Up to the last @: a password that should have been escaped may hold one, or a slash.
    account, at, place = rest.rpartition("@")
    if _PARAMETER.search(account):
        return f"{scheme}://***"  # nobody can tell where that secret ends
    if not at:
        return f"{scheme}://" + _PARAMETER.sub(r"\1***", _without_account(place))
    user, colon, password = account.partition(":")
    if colon and (password or not scheme.startswith("http")):
        shown = f"{user}:***"
    else:
        shown = account if scheme.startswith("postgres") else "***"
    return f"{scheme}://{shown}@" + _PARAMETER.sub(r"\1***", place)


def without_secrets(text: str, *urls: str) -> str:
    """`text` as it may be shown: without what is secret in `urls`, or in any URL within it.

    A library that cannot read a URL may quote any part of it, so a password that should have been
    escaped is taken out piece by piece.
    """
    for url in filter(None, urls):
        text = text.replace(url, without_password(url))
    text = _SETTING.sub(r"\1***", _WORD.sub(_shown, text))
    found = {secret for url in urls for secret in _secrets(url)} - {""}
    if not found:
        return text
    # At once and the longest first: nothing is looked for in what was put in.
    pattern = "|".join(map(re.escape, sorted(found, key=len, reverse=True)))
    return re.sub(rf"\*\*\*|{pattern}", "***", text)


def _without_scheme(place: str) -> str:
    if _PLACE.fullmatch(place):
        return place
    return f"***@{place.rpartition('@')[2]}" if "@" in place and "=" not in place else "***"


def _without_account(place: str) -> str:
    """`place` without what stands where a port should: an account whose host was forgotten."""
    mistaken = _NO_PORT.match(place)
    return f"{mistaken[1]}:***" if mistaken else place


def _shown(word: "re.Match[str]") -> str:
    url = word[0].rstrip(".,:;)]}>'\"")
    return without_password(url) + word[0][len(url) :]


def _secrets(url: str) -> Iterator[str]:
    """The passwords in `url`, escaped and not, and the pieces that it may be taken for."""
    scheme, _, rest = url.partition("://")
    account, at, place = rest.rpartition("@")
    user, colon, password = account.partition(":")
    written = [value for _, value in _PARAMETER.findall(rest)]
    if colon:
        written.append(password)
        written += [] if password else [user]
    elif at and not scheme.startswith("postgres"):
        written.append(account)
    elif not at and _NO_PORT.match(place):
        written.append(place.partition(":")[2])
    for secret in written:
        yield from (secret, unquote(secret), *re.split(r"[@/:?#\[\]]", secret))
