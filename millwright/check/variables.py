"""The variables of an environment: whether they are set, and of the right form.

A value is never shown whole: of a URL, no more than its server and what it holds there.
"""

import os
import re
from urllib.parse import SplitResult, parse_qs, urlsplit

from millwright.check.report import Finding
from millwright.endpoints import VARIABLES, example, named, started_here, usual_mlflow
from millwright.errors import ConfigurationError
from millwright.settings import Settings, State

# The forms of variables that are no URLs, and what each one is in words.
_FORMS = {
    "MILLWRIGHT_S3_BUCKET": (
        r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "the name of a bucket alone, such as plant-artifacts",
    ),
    "MILLWRIGHT_IMAGE_REGISTRY": (
        r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)*",
        "a host and a path without https://, such as registry.example.org/plant",
    ),
    "MILLWRIGHT_KUBERNETES_CONTEXT": (r"\S+", "a name that kubectl config get-contexts lists"),
    "SLACK_CHANNEL": (r"[CGD][A-Z0-9]{6,}", "the id of a channel, such as C0123456789"),
}
_PLACEHOLDERS = {
    "MILLWRIGHT_POSTGRES_URL": "postgresql://user:password@postgres.invalid:5432/millwright",
    "MILLWRIGHT_REDIS_URL": "rediss://:password@redis.invalid:6379/0",
    "MLFLOW_TRACKING_URI": "https://mlflow.invalid",
    "MILLWRIGHT_IMAGE_REGISTRY": "registry.invalid/millwright",
    "SLACK_CHANNEL": "C0000000000",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def placeholder(name: str) -> str:
    """A value of the right form for a variable, which leads nowhere."""
    return _PLACEHOLDERS.get(name, "placeholder")


def value_of(name: str, state: State) -> str | None:
    """What a variable says; what an activated environment says of local files does not count."""
    value = os.environ.get(name, "").strip()
    if name == VARIABLES["mlflow"] and value in usual_mlflow(state):
        return None
    return value or None


def check(settings: Settings, state: State) -> list[Finding]:
    """Every variable that is not set, or not what it has to be."""
    if settings.servers == "none":
        return _mlflow_elsewhere(state)
    found = []
    for server, name in VARIABLES.items():
        if value_of(name, state) is not None:
            found += _url(server, name, settings, state)
        elif name not in settings.variables:
            found += _not_started(server, state)
    for name, meaning in settings.variables.items():
        value = value_of(name, state)
        if value is None:
            way_out = f"export {name}={_example(name, state)}"
            found.append(Finding(name, f"is not set: {meaning}", way_out, yours=True))
        elif name in _FORMS and not re.fullmatch(_FORMS[name][0], value):
            found.append(Finding(name, "is of another form", f"it is {_FORMS[name][1]}"))
    return found


def servers(settings: Settings, state: State) -> dict[str, str]:
    """Where each server is, without a word of who logs in to it."""
    if settings.servers == "none":
        return {"mlflow": state.mlflow_uri}
    places = {}
    for server, name in VARIABLES.items():
        url = value_of(name, state)
        if url is None and settings.servers == "here":
            url = _started(state).get(server)
        places[server] = place(url) if url else f"${{{name}}}, which is not set"
    return places


def place(url: str) -> str:
    """Scheme, host and path of a URL: without its account, and without its options."""
    scheme, mark, rest = url.partition("://")
    # Up to the last @: a password that should have been escaped may hold one, or a slash.
    return f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0]}" if mark else "no URL"


def _url(server: str, name: str, settings: Settings, state: State) -> list[Finding]:
    shape = example(server, state)
    if server == "mlflow" and "@" in (value_of(name, state) or ""):
        wrong = "has a login in it, which runs and registered models would keep"
        way_out = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        return [Finding(name, wrong, way_out)]
    try:
        url = named(server, state)
        parts = urlsplit(url or "")
        _ = parts.port
    except (ConfigurationError, ValueError):
        return [Finding(name, "is no URL of this server", f"export {name}={shape}")]
    if "@" in parts.path + parts.query + parts.fragment:
        wrong = "has a character in its account that ends it too early"
        return [Finding(name, wrong, "write it by its code, such as %2F for / and %40 for @")]
    if not parts.hostname and "host" not in parse_qs(parts.query):
        return [Finding(name, "names no host", f"export {name}={shape}")]
    if server == "postgres" and not parts.path.strip("/"):
        return [Finding(name, "names no database", f"export {name}={shape}")]
    return _open_ways(server, name, parts) if settings.servers == "elsewhere" else []


def _open_ways(server: str, name: str, parts: SplitResult) -> list[Finding]:
    """What others could read on its way, or where they should not look for it."""
    found = []
    if server == "redis" and parts.scheme != "rediss":
        found.append(Finding(name, "goes to Redis without TLS", "begin it with rediss://"))
    if server == "postgres":
        mode = parse_qs(parts.query).get("sslmode", ["prefer"])[-1]
        if mode in ("disable", "allow"):
            wrong = f"goes to PostgreSQL without TLS by sslmode={mode}"
            found.append(Finding(name, wrong, "say sslmode=verify-full, or sslmode=require"))
    if server == "mlflow" and parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        found.append(Finding(name, "goes to MLflow without TLS", "begin it with https://"))
    return found


def _not_started(server: str, state: State) -> list[Finding]:
    start = f"python -m millwright services up --stack {state.environment}"
    try:
        if server in started_here(state):
            return []
    except ConfigurationError:
        wrong = "cannot be read as a list of servers"
        return [Finding(str(state.endpoints), wrong, f"make it anew: {start}", yours=True)]
    wrong = f"no URL of {server} is known"
    name = f"export {VARIABLES[server]}={example(server, state)}"
    way_out = f"start it here: {start}, or name it: {name}"
    return [Finding(VARIABLES[server], wrong, way_out, yours=True)]


def _mlflow_elsewhere(state: State) -> list[Finding]:
    name = VARIABLES["mlflow"]
    if value_of(name, state) is None:
        return []
    wrong = f"names another place than environment '{state.environment}' keeps MLflow in"
    return [Finding(name, wrong, f"unset {name}, or choose its environment with --stack")]


def _started(state: State) -> dict[str, str]:
    try:
        return started_here(state)
    except ConfigurationError:
        return {}


def _example(name: str, state: State) -> str:
    servers = [server for server, variable in VARIABLES.items() if variable == name]
    return example(servers[0], state) if servers else "..."
