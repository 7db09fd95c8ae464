"""What is wrong with the SQLite files of the libraries, and which ZenML's is."""

import sqlite3
from importlib.metadata import version
from pathlib import Path

from millwright.sqlite_files import query


def damage(path: Path) -> str | None:
    """Why the database at `path` cannot be used; None if it can."""
    try:
        if path.stat().st_size == 0:
            return "is empty"
        found = query(path, "PRAGMA quick_check(1)")
    except (sqlite3.Error, OSError) as err:
        return f"cannot be read ({err})"
    return None if found == [("ok",)] else f"is damaged ({found[0][0]})"


def other_zenml(path: Path) -> str | None:
    """The version of the ZenML that the database at `path` is of, if it is not the installed one.

    ZenML names the steps of its migrations by its versions.
    """
    (there,) = query(path, "SELECT version_num FROM alembic_version")[0]
    return None if there == version("zenml") else str(there)
