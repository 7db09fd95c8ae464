"""Reads features from Feast's SQLite file, while others may write to it."""

import itertools
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from millwright.errors import MillwrightError
from millwright.serving.plan import Cells, MistypedError, Plan
from millwright.serving.rows import NEVER, Moments
from millwright.serving.unreadable import ODD, PassedOver, unreadable
from millwright.sql import quoted
from millwright.stores.online_layout import EARLIEST, LATEST, KeyMaker, sqlite_table

LISTED = 500  # machines that are looked at before the first of them is named
AT_ONCE = 10_000  # SQLite takes 32,766 parameters
ALONE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)


class SqliteReader:
    """Reads a project's features from the file at `path`, whose writers may take `seconds`."""

    def __init__(self, path: Path, project: str, join_key: str, seconds: float) -> None:
        self.path = path
        self._project = project
        self._keys = KeyMaker(join_key)
        self._seconds = seconds
        self._own = threading.local()
        self._passed_over = PassedOver()

    def __str__(self) -> str:
        return f"the online store {self.path}"

    def cells(self, plan: Plan, machines: Sequence[str]) -> tuple[list[Cells], Moments]:
        """The cells of each machine, and the event times of its views, shape (n, views).

        Raises:
            MistypedError: what is there of a machine is no row.
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
        try:
            moments = _moments([times for _, times in rows])
        except ODD:
            raise _refusal(machines, rows) from None
        return [cells for cells, _ in rows], moments.reshape(len(rows), len(plan.views))

    def machines(self, plan: Plan) -> Iterator[str]:
        """Every machine that has a row in some view, each once, in no order."""
        there = self._tables()
        tables = [sqlite_table(self._project, name) for name in plan.names]
        tables = [table for table in tables if table in there]
        seen: set[Any] = set()
        for table in tables:
            keys = self._rows(f"SELECT DISTINCT entity_key FROM {quoted(table)}")
            while some := [key for (key,) in itertools.islice(keys, LISTED)]:
                new = [key for key in some if key not in seen]
                seen.update(new)
                if not new:  # as in each table after the first, mostly
                    continue
                odd = {key for each in tables for key in self._odd(each, new)}
                yield from self._named(key for key in new if key not in odd)

    def _named(self, keys: Iterable[Any]) -> Iterator[str]:
        for key in keys:
            try:
                machine = self._keys.value(key)
            except ODD:
                self._passed_over.add(f"the key {key!r} of {self}, which is no text")
            else:
                if machine is not None:
                    yield machine

    def _odd(self, table: str, keys: Sequence[Any]) -> Iterator[Any]:
        """Those of some keys with a row whose event time is none, which no machine is read by."""
        some = ", ".join("?" * len(keys))
        sql = (
            f"SELECT DISTINCT entity_key FROM {quoted(table)} "
            f"WHERE entity_key IN ({some}) AND ({{}} BETWEEN ? AND ?) IS NOT 1"
        )
        for (key,) in self._timed(sql, (*keys, EARLIEST, LATEST)):
            self._passed_over.add(f"the key {key!r} of {self}, whose event time is none")
            yield key

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
        """Key, feature, value and event time of all that a view has for `keys`."""
        sql = (
            "SELECT entity_key, feature_name, value, {} "
            f"FROM {quoted(sqlite_table(self._project, view))} "
            f"WHERE entity_key IN ({', '.join('?' * len(keys))})"
        )
        try:
            yield from self._timed(sql, keys)
        except MillwrightError as err:
            if "no such table" not in str(err):
                raise

    def _timed(self, sql: str, parameters: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """What a query finds that has the event time for `{}`.

        What Feast's own store has written counts in seconds, and its tables have no other column.
        """
        seconds = "event_ts * 1000000"
        try:
            yield from self._rows(sql.format(f"coalesce(event_us, {seconds})"), parameters)
        except MillwrightError as err:
            if "no such column" not in str(err):
                raise
            yield from self._rows(sql.format(seconds), parameters)

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._found(sql, parameters)
        except FileNotFoundError:
            raise MillwrightError(f"{self} is not there; publish its views: feast apply") from None
        except (sqlite3.Error, OSError) as err:
            raise MillwrightError(f"{self} cannot be read: {err}") from err

    def _found(self, sql: str, parameters: Sequence[Any]) -> sqlite3.Cursor:
        """What a query finds, also where SQLite can make no files beside its own to share it.

        Where those would hold nothing anyway, the file is read as if it could not change: that is
        so on a disk that is full or read-only, which is why nobody writes at the moment.
        """
        try:
            return self._connection().execute(sql, parameters)
        except sqlite3.OperationalError as err:
            log = self.path.with_name(f"{self.path.name}-wal")
            if err.sqlite_errorcode & 0xFF not in ALONE or (log.exists() and log.stat().st_size):
                raise
            return self._connect("mode=ro&immutable=1").execute(sql, parameters)

    def _connection(self) -> sqlite3.Connection:
        """A connection of this thread, to the file that is there now."""
        found = self.path.stat()
        file = (found.st_dev, found.st_ino)
        if getattr(self._own, "file", None) != file:
            self._own.connection = self._connect("mode=rw")
            self._own.connection.execute("PRAGMA query_only = ON")
            self._own.file = file
        connection: sqlite3.Connection = self._own.connection
        return connection

    def _connect(self, how: str) -> sqlite3.Connection:
        place = f"file:{quote(str(self.path))}?{how}"
        return sqlite3.connect(place, uri=True, timeout=self._seconds)


def _moments(times: Sequence[Sequence[Any]]) -> Moments:
    """Event times as an array.

    Raises:
        ValueError, TypeError, OverflowError: one is none.
    """
    found = np.array(times, np.int64)
    if ((found > LATEST) | (found < EARLIEST) & (found != NEVER)).any():
        raise ValueError("a time that is in no year from 1 to 9999")
    return found


def _refusal(machines: Sequence[str], rows: Sequence[tuple[Cells, list[int]]]) -> MistypedError:
    """Which machine's event times are none, and why."""
    for machine, (_, times) in zip(machines, rows, strict=True):
        try:
            _moments([times])
        except ODD as err:
            return unreadable(machine, err)
    return MistypedError("the online store has what is no event time; publish and fill it again")
