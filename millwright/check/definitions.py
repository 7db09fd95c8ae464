"""`feature_store.yaml` and `feature_repo/` as Feast reads them, without publishing anything."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from feast.importer import import_class
from feast.repo_config import RepoConfig, get_offline_store_type, load_repo_config
from feast.repo_operations import parse_repo
from pydantic import BaseModel, ValidationError

from millwright.check.report import Finding, shown
from millwright.check.stacks import SECRET_KEY, SECRET_VALUE
from millwright.configuration import nearest
from millwright.feast_store import FEATURE_REPO, configuration, variables
from millwright.settings import State

_SECTIONS = ("registry", "offline_store", "online_store")


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
    config = load_repo_config(FEATURE_REPO, path)
    found = []
    for section in _SECTIONS:
        try:
            parsed: BaseModel = getattr(config, section)
        except ValidationError as err:
            found += [_fault(fault, f"{file}: {section}") for fault in err.errors()]
            continue
        known = sorted(type(parsed).model_fields)
        for key in raw[section] if isinstance(raw.get(section), dict) else ():
            if key not in known:
                wrong = "is no key that Feast knows there"
                found.append(Finding(f"{file}: {section}.{key}", wrong, nearest(key, known)))
    for name in (
        config.provider,
        get_offline_store_type(config.offline_store.type),
        str(config.online_store.type),
    ):
        if "." in name:
            import_class(*name.rsplit(".", 1))
    return found


def _definitions() -> list[Finding]:
    before = Path.cwd()
    os.chdir(FEATURE_REPO)
    try:
        found = parse_repo(FEATURE_REPO)
    finally:
        os.chdir(before)
    if not found.feature_views or not found.feature_services:
        wrong = "defines no feature views, or no services that read them"
        return [Finding(shown(FEATURE_REPO), wrong, "see docs/architecture.md")]
    return []


def _fault(fault: Any, place: str) -> Finding:
    key = ".".join([place, *(str(part) for part in fault["loc"])])
    return Finding(key, str(fault["msg"]), "correct it")


def _tried(work: Callable[[], list[Finding]], place: str) -> list[Finding]:
    try:
        return work()
    except Exception as err:  # noqa: BLE001 - whatever Feast or a definition raises is a finding
        said = str(err).strip().splitlines() or [type(err).__name__]
        return [Finding(place, f"{type(err).__name__}: {said[0]}", "correct it")]
