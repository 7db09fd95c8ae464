"""`feature_store.yaml` and `feature_repo/` as Feast reads them, without publishing anything."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from feast.importer import import_class
from feast.repo_config import (
    RepoConfig,
    get_offline_config_from_type,
    get_online_config_from_type,
    get_registry_config_from_type,
    load_repo_config,
)
from feast.repo_operations import parse_repo
from pydantic import BaseModel, ValidationError

from millwright.check.report import Finding, shown
from millwright.check.stacks import SECRET_KEY, SECRET_VALUE
from millwright.configuration import nearest
from millwright.feast_store import configuration, variables
from millwright.settings import FEATURE_REPO, State

# The key that names the class of each section, how its settings' class is found, and its ending.
_SECTIONS: dict[str, tuple[str, Callable[[str], type[BaseModel]], str]] = {
    "registry": ("registry_type", get_registry_config_from_type, ""),
    "offline_store": ("type", get_offline_config_from_type, "OfflineStore"),
    "online_store": ("type", get_online_config_from_type, "OnlineStore"),
}


def check(state: State) -> list[Finding]:
    """What Feast would refuse, or would take in silence although it is wrong.

    Works in the folder of the definitions, and leaves their modules behind: call it in a process
    of its own, which has `feast_store.variables` in its environment.
    """
    path = configuration(state)
    file = shown(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as err:
        return [Finding(file, f"cannot be read as YAML ({type(err).__name__})", "correct it")]
    if not isinstance(raw, dict):
        return [Finding(file, "is no mapping of keys to values", "correct it")]
    found = [*_texts(path, file, raw, state), *_top(raw, file)]
    os.environ.update(variables(state))
    found += _tried(lambda: _config(path, raw, file), file)
    return found + _tried(_definitions, shown(FEATURE_REPO))


def _texts(path: Path, file: str, raw: dict[str, Any], state: State) -> Iterator[Finding]:
    known = variables(state)
    for name in sorted(set(re.findall(r"\$\{?(\w+)", path.read_text(encoding="utf-8")))):
        if name not in known and f"${{{name}}}" in str(raw):
            wrong = f"has the variable {name}, which nothing sets: Feast would take it literally"
            yield Finding(file, wrong, nearest(name, sorted(known)))
    for section, values in raw.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            plain = isinstance(value, str) and not value.startswith("${")
            if plain and (SECRET_KEY.search(key) or SECRET_VALUE.search(value)):
                wrong = "has a secret in clear"
                yield Finding(f"{file}: {section}.{key}", wrong, "write a variable: ${NAME}")


def _top(raw: dict[str, Any], file: str) -> Iterator[Finding]:
    fields = RepoConfig.model_fields
    known = sorted({*fields, *(str(each.alias) for each in fields.values() if each.alias)})
    for key in raw:
        if key not in known:
            yield Finding(f"{file}: {key}", "is no key that Feast knows", nearest(key, known))


def _config(path: Path, raw: dict[str, Any], file: str) -> list[Finding]:
    """Each section against its own class first, then the whole: Feast names no section."""
    filled = yaml.safe_load(os.path.expandvars(path.read_text(encoding="utf-8")))
    found = [each for section in _SECTIONS for each in _section(section, raw, filled, file)]
    if not found:
        provider = load_repo_config(FEATURE_REPO, path).provider
        if "." in provider:
            import_class(*provider.rsplit(".", 1))
    return found


def _section(
    name: str, raw: dict[str, Any], filled: dict[str, Any], file: str
) -> Iterator[Finding]:
    key, find, suffix = _SECTIONS[name]
    values = filled.get(name)
    if not isinstance(values, dict) or key not in values:
        yield Finding(f"{file}: {name}.{key}", "is missing", "say what kind it is of")
        return
    try:
        config = find(values[key])
        if "." in values[key]:
            import_class(*values[key].rsplit(".", 1), suffix)
    except Exception as err:
        wrong = f"cannot be loaded: {_first_line(err)}"
        yield Finding(f"{file}: {name}.{key}", wrong, "name a class that there is")
        return
    known = sorted(config.model_fields)
    unknown = set(raw[name]) - set(known)
    for each in sorted(unknown):
        wrong = "is no key that Feast knows there"
        yield Finding(f"{file}: {name}.{each}", wrong, nearest(each, known))
    try:
        config(**{each: value for each, value in values.items() if each not in unknown})
    except ValidationError as err:
        for fault in err.errors(include_input=False):
            place = ".".join([f"{file}: {name}", *(str(part) for part in fault["loc"])])
            yield Finding(place, fault["msg"], "correct it")


def _definitions() -> list[Finding]:
    os.chdir(FEATURE_REPO)  # as Feast's command does: the modules find each other there
    sys.path.insert(0, str(FEATURE_REPO))
    found = parse_repo(FEATURE_REPO)
    if not found.feature_views or not found.feature_services:
        wrong = "defines no feature views, or no services that read them"
        return [Finding(shown(FEATURE_REPO), wrong, "see docs/architecture.md")]
    return []


def _tried(work: Callable[[], list[Finding]], place: str) -> list[Finding]:
    try:
        return work()
    except Exception as err:
        return [Finding(place, _first_line(err), "correct it")]


def _first_line(err: Exception) -> str:
    return f"{type(err).__name__}: {(str(err).strip().splitlines() or [''])[0]}"
