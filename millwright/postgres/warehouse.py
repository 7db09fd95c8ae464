"""Feature tables in PostgreSQL, computed there from its own copy of the raw store."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from types import ModuleType
from typing import Any

from millwright import terminal
from millwright.compiled import Compiled
from millwright.fleet import Fleet
from millwright.lock import PATIENCE
from millwright.postgres import engine, lock, names, raw_tables
from millwright.postgres.connection import connect, connect_arrow, errors_named
from millwright.postgres.engine import PostgresEngine
from millwright.postgres.raw_tables import RawTables
from millwright.postgres.view_tables import ViewTable, schema_of
from millwright.raw_store import RawStore
from millwright.settings import Engine
from millwright.views import View, feature_views
from millwright.warehouse import part_of


class PostgresWarehouse:
    """The feature tables of one fleet in the PostgreSQL at `url`."""

    def __init__(self, url: str, fleet: Fleet, raw: RawStore, settings: Engine) -> None:
        self.url = url
        self.fleet = fleet
        self.raw = raw
        self.settings = settings
        self._connection: Any = None
        schemas = (RawTables(fleet).schema, schema_of(fleet))
        names.check(fleet, schemas, feature_views(fleet))

    @property
    def modules(self) -> Sequence[ModuleType]:
        """Our source that the rows follow from, besides the expressions themselves."""
        return engine, raw_tables

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Load what is new in the raw store; keep others from changing the same tables."""
        with errors_named(self.url, "write the feature tables"), self._connected() as connection:
            # The lock of the environment holds on this machine; this one holds for the server.
            lock.take(connection, schema_of(self.fleet), terminal.say, PATIENCE)
            with terminal.progress() as show, connect_arrow(self.url) as arrow:
                RawTables(self.fleet).load(arrow, self.raw, show)
            yield

    def tables(self, view: View, definition: str, known: Collection[str]) -> ViewTable:
        """The table of `view`."""
        with self._connected():
            return ViewTable(self.url, self.fleet, view, definition, known, self._do)

    @contextmanager
    def engines(self, count: int) -> Iterator[Sequence[PostgresEngine]]:
        """So many engines, each with its part of the memory and a connection of its own."""
        limit = part_of(self.settings.memory_limit, count)
        compiled = Compiled("postgres")
        with ExitStack() as stack:
            yield [
                stack.enter_context(closing(PostgresEngine(self.fleet, self.url, limit, compiled)))
                for _ in range(count)
            ]

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """One connection for the block, and for blocks within it."""
        if self._connection is not None:
            yield self._connection
            return
        with errors_named(self.url, "read the feature tables"):
            self._connection = connect(self.url)
        try:
            yield self._connection
        finally:
            self._connection.close()
            self._connection = None

    def _do(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows that a statement gives; none of one that gives no rows."""
        with (
            errors_named(self.url, "use the feature tables"),
            self._connected() as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []
