"""Which ZenML stack is active, and so which environment, without ZenML: it takes seconds to import.

What is read here are files of ZenML's own. Where they are not what they are known to be, or
something else has a say in it, ZenML is asked.
"""

import os
import sqlite3
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

from millwright.errors import ConfigurationError
from millwright.settings import ENVIRONMENTS
from millwright.sqlite_files import query

ELSEWHERE = ("ZENML_ACTIVE_STACK_ID", "ZENML_REPOSITORY_", "ZENML_STORE_")


def name() -> str | None:
    """The active stack by `ZENML_CONFIG_PATH`; None if only ZenML can tell."""
    folder = os.environ.get("ZENML_CONFIG_PATH")
    if not folder or any(variable.startswith(ELSEWHERE) for variable in os.environ):
        return None
    here = Path.cwd()
    # As ZenML looks: what may not be looked at is not there.
    if any(os.path.isdir(above / ".zen") for above in (here, *here.parents)):  # noqa: PTH112
        return None
    found = config(Path(folder))
    try:
        if found["store"]["driver"] != "sqlite":
            return None
        stack = UUID(str(found["active_stack_id"])).hex
        rows = query(Path(found["store"]["database"]), "SELECT name FROM stack WHERE id = ?", stack)
    except (OSError, ValueError, LookupError, TypeError, sqlite3.Error):
        return None
    return str(rows[0][0]) if rows else None


def config(folder: Path) -> dict[str, Any]:
    """What ZenML's client keeps in its folder; nothing if that cannot be read."""
    try:
        found = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("store", {}), dict) else {}


def environment_of(stack: str) -> str:
    """The environment of a stack; ZenML's own `default` counts as local.

    Raises:
        ConfigurationError: the stack is none of ours.
    """
    if stack == "default":
        return "local"
    if not Path(ENVIRONMENTS, stack, "stack.yaml").is_file():
        names = ", ".join(sorted(path.parent.name for path in ENVIRONMENTS.glob("*/stack.yaml")))
        raise ConfigurationError(
            f"the active ZenML stack is '{stack}', which is no environment of this project; choose "
            f"one ({names}): zenml stack set local"
        )
    return stack
