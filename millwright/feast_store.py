"""Feast, opened for an environment, and the definitions of `feature_repo/` published to it.

Each environment has a `feature_store.yaml` of its own in `configs/environments/`. What differs from
machine to machine, and every secret, comes into it by variables that only this process has.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from feast import FeatureStore
from feast.diff.registry_diff import RegistryDiff
from feast.errors import FeastError
from feast.repo_config import load_repo_config
from feast.repo_operations import _get_repo_contents, apply_total

from millwright.endpoints import (
    EXAMPLES,
    VARIABLES,
    Endpoints,
    endpoints,
    with_parameters,
    without_password,
)
from millwright.errors import ConfigurationError, first_line
from millwright.settings import ENVIRONMENTS, FEATURE_REPO, State, load_settings

REGISTRY_SCHEMA = "feast_registry"
# What libpq is told about TLS, and what it does where a URL says nothing.
TLS = (("sslmode", "prefer"), ("sslrootcert", ""), ("sslcert", ""), ("sslkey", ""))
# What a wrong definition makes of Feast's code.
WRONG = (
    FeastError, TypeError, ValueError, NameError, AttributeError, ImportError, SyntaxError,
)  # fmt: skip


def open_store(state: State) -> FeatureStore:
    """The feature store of an environment."""
    with _configured(state):
        return FeatureStore(repo_path=str(FEATURE_REPO), fs_yaml_file=configuration(state))


def apply(state: State) -> str:
    """Do what `feast apply` does, and give what it says.

    Raises:
        ConfigurationError: a definition is wrong.
    """
    said = io.StringIO()
    try:
        with _configured(state), _inside(FEATURE_REPO), contextlib.redirect_stdout(said):
            config = load_repo_config(FEATURE_REPO, configuration(state))
            apply_total(config, FEATURE_REPO, skip_source_validation=True)
    except WRONG as err:
        raise ConfigurationError(
            f"the definitions in {FEATURE_REPO} cannot be published: {type(err).__name__}: "
            f"{first_line(err)}; correct them, and see where that is: feast plan"
        ) from err
    return said.getvalue()


def plan(state: State) -> RegistryDiff:
    """How the registry differs from the definitions, as `feast plan` finds it."""
    with _configured(state), _inside(FEATURE_REPO):
        config = load_repo_config(FEATURE_REPO, configuration(state))
        contents = _get_repo_contents(FEATURE_REPO, config.project, config)
        difference, _, _ = open_store(state).plan(contents)
    return difference


def configuration(state: State) -> Path:
    """The `feature_store.yaml` of an environment."""
    return ENVIRONMENTS / state.environment / "feature_store.yaml"


def variables(state: State) -> dict[str, str]:
    """What the variables in `feature_store.yaml` stand for, passwords among it."""
    found = {"MILLWRIGHT_ENVIRONMENT": state.environment, "MILLWRIGHT_STATE": str(state.root)}
    if load_settings(state.environment).servers != "none":
        found |= _of_servers(endpoints(state))
    # The file has them between double quotes, where YAML reads what JSON does.
    return {name: json.dumps(value, ensure_ascii=False)[1:-1] for name, value in found.items()}


def _of_servers(servers: Endpoints) -> dict[str, str]:
    registry = with_parameters(
        servers.postgres,
        f"-csearch_path={REGISTRY_SCHEMA} -ctimezone=UTC",
        {"connect_timeout": "5"},
    )
    shown = without_password(servers.postgres)
    try:
        postgres = urlsplit(servers.postgres)
        port = str(postgres.port or 5432)
    except ValueError:  # which quotes what it cannot read, be it the password
        raise ConfigurationError(
            f"{VARIABLES['postgres']} is {shown}, which cannot be read; write it like "
            f"{EXAMPLES['postgres']}, with %XX for what is special in the password"
        ) from None
    given = dict(parse_qsl(postgres.query.replace("+", "%2B")))
    return {
        "MILLWRIGHT_REGISTRY_URL": registry.replace("postgresql", "postgresql+psycopg2", 1),
        "MILLWRIGHT_POSTGRES_HOST": given.get("host", unquote(postgres.hostname or "localhost")),
        "MILLWRIGHT_POSTGRES_PORT_USED": given.get("port", port),
        "MILLWRIGHT_POSTGRES_DATABASE": given.get("dbname", unquote(postgres.path.lstrip("/"))),
        "MILLWRIGHT_POSTGRES_USER": given.get("user", unquote(postgres.username or "")),
        "MILLWRIGHT_POSTGRES_PASSWORD": given.get("password", unquote(postgres.password or "")),
        **{f"MILLWRIGHT_POSTGRES_{name.upper()}": given.get(name, usual) for name, usual in TLS},
        "MILLWRIGHT_REDIS_CONNECTION": servers.redis,
    }


@contextlib.contextmanager
def _configured(state: State) -> Iterator[None]:
    """Have the variables of `feature_store.yaml` in this process for a while."""
    given = variables(state)
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in `folder` for a while, as Feast's command does: its modules find each other there.

    They are forgotten afterwards, so that the next time reads them anew.
    """
    before, known = Path.cwd(), set(sys.modules)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        os.chdir(before)
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(folder):
                del sys.modules[name]
