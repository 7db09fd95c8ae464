"""SQLite files, looked at without changing them: libraries migrate or create what they open."""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

PATIENCE = 3.0  # seconds for which another may write


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


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    """The rows that a query finds in the database at `path`."""
    journals = [path.with_name(path.name + end) for end in ("-wal", "-journal")]
    if not any(journal.exists() for journal in journals):
        # Nobody's at the moment; reading a file as if it could not change makes no journal.
        return _query(f"{_address(path)}?mode=ro&immutable=1", sql)
    try:
        return _query(f"{_address(path)}?mode=ro", sql)
    except sqlite3.OperationalError as err:
        if "readonly" not in str(err) and "unable to open" not in str(err):
            raise
    # What a killed process had begun is taken back by whoever opens the file next: here, of a copy.
    with tempfile.TemporaryDirectory() as folder:
        for each in (path, *filter(Path.exists, journals)):
            shutil.copyfile(each, Path(folder, each.name))
        return _query(_address(Path(folder, path.name)), sql)


def _address(path: Path) -> str:
    return f"file:{quote(str(path))}"


def _query(address: str, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(address, uri=True, timeout=PATIENCE)) as connection:
        return connection.execute(sql).fetchall()
