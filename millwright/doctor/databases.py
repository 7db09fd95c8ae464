"""SQLite files, looked at without changing them: libraries migrate or create what they open."""

import sqlite3
from contextlib import closing
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


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    """The rows that a query finds in the database at `path`."""
    # A file without a journal is nobody's at the moment, and reading it must not make one.
    journal = path.with_name(f"{path.name}-wal").exists()
    address = f"file:{quote(str(path))}?mode=ro{'' if journal else '&immutable=1'}"
    with closing(sqlite3.connect(address, uri=True, timeout=PATIENCE)) as connection:
        return connection.execute(sql).fetchall()
