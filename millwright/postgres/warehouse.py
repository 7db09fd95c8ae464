"""Feature tables in PostgreSQL, computed there from its own copy of the raw store."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import ModuleType
from typing import Any

from millwright import terminal
from millwright.fleet import Fleet
from millwright.postgres import engine, raw_tables
from millwright.postgres.connection import connect, connect_arrow, errors_named
from millwright.postgres.engine import PostgresEngine
from millwright.postgres.raw_tables import RawTables
from millwright.postgres.view_tables import ViewTable, schema_of
from millwright.raw_store import RawStore
from millwright.settings import Engine
from millwright.sql import literal
from millwright.views import View


class PostgresWarehouse:
    """The feature tables of one fleet in the PostgreSQL at `url`."""

    def __init__(self, url: str, fleet: Fleet, raw: RawStore, settings: Engine) -> None:
        self.url = url
        self.fleet = fleet
        self.raw = raw
        self.settings = settings

    @property
    def modules(self) -> Sequence[ModuleType]:
        """Our source that the rows follow from, besides the expressions themselves."""
        return engine, raw_tables

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Load what is new in the raw store; keep others from changing the same tables."""
        with errors_named(self.url, "write the feature tables"):
            # The lock of the environment holds on this machine; this one holds for the server.
            self._do(f"SELECT pg_advisory_lock(hashtext({literal(schema_of(self.fleet))}))")
            try:
                with terminal.progress() as show, connect_arrow(self.url) as connection:
                    RawTables(self.fleet).load(connection, self.raw, show)
                yield
            finally:
                self._connection.close()
                del self.__dict__["_connection"]

    def tables(self, view: View, definition: str, known: Collection[str]) -> ViewTable:
        """The table of `view`."""
        with errors_named(self.url, "read the feature tables"):
            return ViewTable(self.url, self.fleet, view, definition, known, self._do)

    def engines(self, count: int) -> Sequence[PostgresEngine]:
        """So many engines, each in a connection of its own."""
        return [
            PostgresEngine(self.fleet, self.url, self.settings.memory_limit) for _ in range(count)
        ]

    @cached_property
    def _connection(self) -> Any:
        return connect(self.url)

    def _do(self, sql: str) -> Any:
        cursor = self._connection.cursor()
        cursor.execute(sql)
        return cursor
