"""SQLite files, looked at without changing them: libraries migrate or create what they open."""

import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

PATIENCE = 3.0  # seconds for which another may write


def query(path: Path, sql: str, *parameters: str) -> list[tuple[Any, ...]]:
    """The rows that a query finds in the database at `path`.

    Raises:
        sqlite3.Error: it is not there, is no database, or lacks what is asked for.
        OSError: it may not be read.
    """
    journals = [path.with_name(path.name + end) for end in ("-wal", "-journal")]
    if not any(journal.exists() for journal in journals):
        # Nobody's at the moment; reading a file as if it could not change makes no journal.
        return _query(f"{_address(path)}?mode=ro&immutable=1", sql, parameters)
    try:
        return _query(f"{_address(path)}?mode=ro", sql, parameters)
    except sqlite3.OperationalError as err:
        if "readonly" not in str(err) and "unable to open" not in str(err):
            raise
    # What a killed process had begun is taken back by whoever opens the file next: here, of a copy.
    with tempfile.TemporaryDirectory() as folder:
        for each in (path, *filter(Path.exists, journals)):
            shutil.copyfile(each, Path(folder, each.name))
        return _query(_address(Path(folder, path.name)), sql, parameters)


def _address(path: Path) -> str:
    return f"file:{quote(str(path))}"


def _query(address: str, sql: str, parameters: Sequence[str]) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(address, uri=True, timeout=PATIENCE)) as connection:
        return connection.execute(sql, parameters).fetchall()
