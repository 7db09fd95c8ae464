"""Reads features from Feast's SQLite file, while others may write to it."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from millwright.errors import MillwrightError
from millwright.serving.plan import Cells, Plan
from millwright.serving.rows import Moments
from millwright.sql import quoted
from millwright.stores.online_layout import KeyMaker, sqlite_table

AT_ONCE = 10_000  # SQLite takes 32,766 parameters


class SqliteReader:
    """Reads a project's features from the file at `path`, whose writers may take `seconds`."""

    def __init__(self, path: Path, project: str, join_key: str, seconds: float) -> None:
        self.path = path
        self._project = project
        self._keys = KeyMaker(join_key)
        self._seconds = seconds
        self._own = threading.local()

    def __str__(self) -> str:
        return f"the online store {self.path}"

    def cells(self, plan: Plan, machines: Sequence[str]) -> tuple[list[Cells], Moments]:
        """The cells of each machine, and the event times of its views, shape (n, views).

        Raises:
            MillwrightError: the file cannot be read.
        """
        keys = [self._keys.key(machine) for machine in machines]
        rows = [plan.nothing() for _ in keys]
        places: dict[bytes, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        cell_of = {each: place for place, each in enumerate(plan.features)}
        distinct = list(places)
        for view, name in enumerate(plan.names):
            for start in range(0, len(distinct), AT_ONCE):
                for key, feature, value, event in self._values(name, distinct[start:][:AT_ONCE]):
                    cell = cell_of.get((view, feature))
                    for place in places[key]:
                        cells, events = rows[place]
                        if cell is not None:
                            cells[cell] = value
                        events[view] = event
        moments = np.array([times for _, times in rows], np.int64)
        return [cells for cells, _ in rows], moments.reshape(len(rows), len(plan.views))

    def machines(self, plan: Plan) -> Iterator[str]:
        """Every machine that has a row in some view, each once, in no order."""
        head, seen = self._keys.key("")[:-4], set[bytes]()
        there = self._tables()
        for table in [sqlite_table(self._project, name) for name in plan.names]:
            if table in there:
                for (key,) in self._rows(f"SELECT DISTINCT entity_key FROM {quoted(table)}"):
                    if key.startswith(head) and key not in seen:
                        seen.add(key)
                        yield key[len(head) + 4 :].decode()

    def published(self) -> dict[str, list[str]]:
        """The views that were published for this store, with the features of the latest row."""
        found = {}
        for table in self._tables():
            latest = f"SELECT entity_key FROM {quoted(table)} ORDER BY rowid DESC LIMIT 1"
            rows = self._rows(
                f"SELECT feature_name FROM {quoted(table)} WHERE entity_key = ({latest})"
            )
            found[table.removeprefix(f"{self._project}_")] = [name for (name,) in rows]
        return found

    def _tables(self) -> list[str]:
        found = self._rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        return [name for (name,) in found if name.startswith(f"{self._project}_")]

    def _values(self, view: str, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        """Key, feature, value and event time of all that a view has for `keys`.

        What Feast's own store has written counts in seconds, and its tables have no other column.
        """
        seconds = "event_ts * 1000000"
        sql = (
            "SELECT entity_key, feature_name, value, {} "
            f"FROM {quoted(sqlite_table(self._project, view))} "
            f"WHERE entity_key IN ({', '.join('?' * len(keys))})"
        )
        try:
            yield from self._rows(sql.format(f"coalesce(event_us, {seconds})"), keys)
        except MillwrightError as err:
            if "no such column" in str(err):
                yield from self._rows(sql.format(seconds), keys)
            elif "no such table" not in str(err):
                raise

    def _rows(self, sql: str, parameters: Sequence[bytes] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection().execute(sql, parameters)
        except FileNotFoundError:
            raise MillwrightError(f"{self} is not there; publish its views: feast apply") from None
        except (sqlite3.Error, OSError) as err:
            raise MillwrightError(f"{self} cannot be read: {err}") from err

    def _connection(self) -> sqlite3.Connection:
        """A connection of this thread, to the file that is there now."""
        found = self.path.stat()
        file = (found.st_dev, found.st_ino)
        if getattr(self._own, "file", None) != file:
            self._own.connection = sqlite3.connect(
                f"file:{quote(str(self.path))}?mode=rw", uri=True, timeout=self._seconds
            )
            self._own.connection.execute("PRAGMA query_only = ON")
            self._own.file = file
        connection: sqlite3.Connection = self._own.connection
        return connection
