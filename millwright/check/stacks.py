"""`stack.yaml`, its secrets and its cluster: everything that can be said of it without ZenML."""

import base64
import binascii
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import yaml

from millwright import active_stack
from millwright.check.report import Finding, of_error, shown
from millwright.check.variables import place, value_of
from millwright.configuration import load, nearest
from millwright.endpoints import VARIABLES
from millwright.errors import ConfigurationError
from millwright.settings import ENVIRONMENTS, HOME, REPOSITORY, Settings, State
from millwright.sqlite_files import query
from millwright.stack_file import StackFile

PLACES = ("HOME_FOLDER", "REPOSITORY")
SECRET_KEY = re.compile(r"token|password|passwd|secret|api_?key|access_?key|credential", re.I)
# What gives a secret away whatever its key is called: a login in a URL, and well-known tokens.
SECRET_VALUE = re.compile(r"://[^/@\s]*:[^/@\s]+@|\bxox[abprs]-|\bAKIA[0-9A-Z]{16}\b|-----BEGIN")
_REFERENCE = re.compile(r"\{\{\s*([^.\s]+)\.([^}\s]+)\s*\}\}")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def read(environment: str) -> tuple[StackFile | None, list[Finding]]:
    """The file as it stands, variables included; what is wrong with it if it cannot be read."""
    try:
        return load(path(environment), StackFile), []
    except ConfigurationError as err:
        return None, of_error(err)


def path(environment: str) -> Path:
    """Where the stack of an environment is described."""
    return ENVIRONMENTS / environment / "stack.yaml"


def check(stack: StackFile, settings: Settings, state: State) -> list[Finding]:
    """What is wrong with a stack file that is a stack file."""
    file = shown(path(settings.environment))
    found = []
    if stack.stack_name != settings.environment:
        wrong = f"is '{stack.stack_name}'"
        found.append(
            Finding(
                f"{file}: stack_name", wrong, f"name it '{settings.environment}', as the folder"
            )
        )
    if stack.zenml_version != version("zenml"):
        wrong = f"is {stack.zenml_version}, and ZenML {version('zenml')} is installed"
        found.append(Finding(f"{file}: zenml_version", wrong, "bring the two together"))
    for where, value in _texts(stack, file):
        found += _variables(where, value, settings)
        found += _secrets(where, value, state)
    return found + _remote(stack, file, state) + _cluster(stack, state)


def variables(stack: StackFile) -> set[str]:
    """The names of all variables that the components have."""
    return {name for _, value in _texts(stack, "") for name in _VARIABLE.findall(value)}


def plan(stack: StackFile, state: State) -> list[str]:
    """Each component with its flavor and where it points; what is not set stays a variable."""
    known = {"HOME_FOLDER": str(state.home), "REPOSITORY": str(REPOSITORY)}
    for name in variables(stack) - set(VARIABLES.values()):
        value = known.get(name) or value_of(name, state)
        if value:
            known[name] = value
    lines = []
    for kind, part in stack.components.items():
        words = [
            f"{key}={Template(str(value)).safe_substitute(known)}"
            for key, value in part.configuration.items()
            if not in_clear(key, str(value))
        ]
        lines.append(f"{kind} {part.name}: {' '.join([part.flavor, *words])}")
    server = zenml_server(state)
    kept = [value for _, value in _texts(stack, "") if _REFERENCE.fullmatch(value)]
    return lines + [f"secret {each}: in ZenML at {place(server)}" for each in kept if server]


def _texts(stack: StackFile, file: str) -> Iterator[tuple[str, str]]:
    for kind, part in stack.components.items():
        for key, value in part.configuration.items():
            if isinstance(value, str):
                yield f"{file}: {kind}.{key}", value


def _variables(where: str, value: str, settings: Settings) -> list[Finding]:
    known = {*PLACES, VARIABLES["mlflow"], *settings.variables}
    found = []
    for name in _VARIABLE.findall(value):
        if name not in known:
            wrong = f"has the variable {name}, which settings.yaml does not name"
            found.append(Finding(where, wrong, nearest(name, sorted(known))))
    if "$" in Template(value).safe_substitute(dict.fromkeys(_VARIABLE.findall(value), "")):
        found.append(Finding(where, "has a $ that begins no variable", "write ${NAME}, or $$"))
    return found


def _secrets(where: str, value: str, state: State) -> list[Finding]:
    if in_clear(where.rpartition(".")[2], value):
        way_out = "keep it in ZenML (zenml secret create NAME --KEY=...) and write {{NAME.KEY}}"
        return [Finding(where, "has a secret in clear", way_out)]
    reference = _REFERENCE.fullmatch(value)
    if reference is None:
        return []
    name, key = reference.groups()
    database = _zenml_database(state)
    if database is None:
        return []  # a server's, and a check asks no server
    keys = _secret_keys(database, name)
    if keys is None:
        wrong = f"names the secret '{name}', which ZenML does not have"
        return [Finding(where, wrong, f"zenml secret create {name} --{key}=...", yours=True)]
    if keys and key not in keys:
        wrong = f"names the key '{key}' of the secret '{name}', which has no such key"
        return [Finding(where, wrong, f"zenml secret update {name} --{key}=...", yours=True)]
    return []


def in_clear(key: str, value: str) -> bool:
    """Whether a secret stands in a file, by its key or by its own form."""
    named = SECRET_KEY.search(key) and not key.endswith(("_variable", "_as_secret"))
    kept = not value or _REFERENCE.fullmatch(value) or value in ("True", "False")
    return bool((named and not kept) or SECRET_VALUE.search(value))


def zenml_server(state: State) -> str | None:
    """The ZenML server that the environment's client talks to, if it is none of its own files."""
    url = os.environ.get("ZENML_STORE_URL") or _zenml_store(state).get("url")
    return str(url) if url and not str(url).startswith("sqlite:") else None


def zenml_folder(state: State) -> Path:
    """Where ZenML's client has its configuration."""
    given = os.environ.get("ZENML_CONFIG_PATH")
    usual = (None, "", str(State(HOME, "local").zenml))
    return state.zenml if given in usual else Path(str(given))


def _remote(stack: StackFile, file: str, state: State) -> list[Finding]:
    """ZenML refuses to run steps elsewhere that could not reach its database from there."""
    orchestrator = stack.components.get("orchestrator")
    if orchestrator is None or orchestrator.flavor in ("local", "local_docker"):
        return []
    if orchestrator.configuration.get("local") is True or zenml_server(state):
        return []
    wrong = f"runs steps elsewhere ({orchestrator.flavor}), and ZenML keeps its records in a file"
    way_out = "name a ZenML server: export ZENML_STORE_URL=https://... and ZENML_STORE_API_KEY=..."
    return [Finding(f"{file}: orchestrator.flavor", wrong, way_out, yours=True)]


def _zenml_store(state: State) -> dict[str, Any]:
    found: dict[str, Any] = active_stack.config(zenml_folder(state)).get("store", {})
    return found


def _zenml_database(state: State) -> Path | None:
    """ZenML's own SQLite file, which may not be there yet; None if it uses a server."""
    if zenml_server(state):
        return None
    named = _zenml_store(state).get("database")
    usual = zenml_folder(state) / "stores" / "default_zen_store" / "zenml.db"
    return Path(named) if named else usual


def _secret_keys(database: Path, secret: str) -> set[str] | None:
    """The keys of a secret, none at all if they are encrypted; None where there is no secret."""
    if not database.is_file():
        return None
    # Read as it lies there: ZenML's own client would bring the database up to date.
    try:
        rows = query(database, 'SELECT "values" FROM secret WHERE name = ?', secret)
    except (sqlite3.Error, OSError):
        return None
    if not rows:
        return None
    try:
        return set(json.loads(base64.b64decode(rows[0][0] or "", validate=True)))
    except (ValueError, binascii.Error):
        return set()


def _cluster(stack: StackFile, state: State) -> list[Finding]:
    orchestrator = stack.components.get("orchestrator")
    if orchestrator is None:
        return []
    if (
        orchestrator.configuration.get("incluster") is True
        and "KUBERNETES_SERVICE_HOST" in os.environ
    ):
        return []  # within a pod, ZenML has no need of a context
    asked = str(orchestrator.configuration.get("kubernetes_context") or "")
    names = _VARIABLE.findall(asked)
    values = {name: value_of(name, state) for name in names}
    if not asked or None in values.values():
        return []  # that it is not set is a finding of its own
    context = Template(asked).safe_substitute(values)
    place = names[0] if names else "kubernetes_context"
    given = os.environ.get("KUBECONFIG")
    files = [Path(each) for each in given.split(os.pathsep) if each] if given else []
    files = [file for file in files or [Path.home() / ".kube" / "config"] if file.is_file()]
    if not files:
        wrong = f"is the context '{context}', and there is no kubeconfig"
        return [Finding(place, wrong, "name one: export KUBECONFIG=FILE", yours=True)]
    contexts = sorted({name for file in files for name in _contexts(file)})
    if context in contexts:
        return []
    wrong = f"is the context '{context}', which {', '.join(map(str, files))} does not have"
    return [Finding(place, wrong, nearest(context, contexts), yours=True)]


def _contexts(file: Path) -> list[str]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        return [str(each["name"]) for each in found.get("contexts") or []]
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, UnicodeDecodeError):
        return []
