"""A PostgreSQL server as a store talks to it: by Arrow and COPY, in UTC, one transaction at a time.

A server that is down, frozen or cut off is an error within ten seconds. No error shows a password.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import adbc_driver_manager
import pyarrow as pa
from adbc_driver_postgresql import dbapi

from millwright.errors import ConfigurationError, DataError, MillwrightError
from millwright.sql import literal, quoted

# A host name may stand for two addresses, and libpq waits for each of them.
PATIENCE = {
    "connect_timeout": "4",
    "tcp_user_timeout": "8000",
    "keepalives": "1",
    "keepalives_idle": "4",
    "keepalives_interval": "1",
    "keepalives_count": "4",
}
# What a sort or a hash table may hold before it goes on on disk: there are a few at a time.
WORK_MEMORY = "256MB"
# Classes of SQLSTATE that are nobody's data: connection, others at work, resources,
# interruption, system.
TROUBLE = ("08", "40", "53", "55", "57", "58", "XX")


@dataclass(frozen=True)
class Server:
    """A database of a server. `host` is a name, an address or the folder of a Unix socket.

    `schema` is where tables are that are named without one, before those of `public`. `more` has
    further parameters of libpq, such as `sslmode`.
    """

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    schema: str = "public"
    more: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> str:
        """What the database is called in messages."""
        return f"{self.host}:{self.port}/{self.database}"

    @property
    def parameters(self) -> str:
        """How libpq is told where to connect, with the password."""
        given = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.database,
            "user": self.user,
            "password": self.password,
            **PATIENCE,
            **dict(self.more),
        }
        return " ".join(f"{name}={_value(value)}" for name, value in given.items() if value)


class Session:
    """One transaction on a server, as `connect` opens it."""

    def __init__(self, cursor: dbapi.Cursor, server: Server) -> None:
        self._cursor = cursor
        self.server = server

    def run(self, sql: str) -> None:
        """Execute a statement that gives no rows."""
        self._cursor.execute(sql)

    def fetch(self, sql: str) -> pa.Table:
        """The rows of a query. `sql` may only select, because it is wrapped into a COPY."""
        self._cursor.execute(sql)
        rows: pa.Table = self._cursor.fetch_arrow_table()
        return rows.cast(_plain(rows.schema))

    def snapshot(self) -> str:
        """What this transaction sees, for others to see the same for as long as it lasts."""
        name: str = self.fetch("SELECT pg_export_snapshot() AS name")["name"][0].as_py()
        return name

    def load(self, name: str, rows: pa.Table | pa.RecordBatchReader) -> None:
        """Copy `rows` into a new temporary table."""
        self._cursor.adbc_ingest(name, rows, mode="create", temporary=True)


@contextmanager
def connect(
    server: Server, *, isolation: str = "REPEATABLE READ", snapshot: str | None = None
) -> Iterator[Session]:
    """Open a transaction that sees one moment of the database; the end of the block commits it.

    It is the moment of the session that gave `snapshot`, if there is one.

    Raises:
        ConfigurationError: the server refuses the user or the password.
        MillwrightError: the server cannot be reached, or was lost on the way.
        DataError: the server refuses something else.
    """
    try:
        # The driver begins its transactions twice once it has copied rows in; this one is ours.
        connection = dbapi.connect(server.parameters, autocommit=True)
    except adbc_driver_manager.Error as err:
        raise _refused(err, server) from err
    with connection, connection.cursor() as cursor, translated(server, server.place):
        cursor.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        if snapshot:
            cursor.execute(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}")
        cursor.execute("SET TimeZone = 'UTC'")
        cursor.execute(f"SET search_path = {quoted(server.schema)}, public")
        cursor.execute(f"SET work_mem = '{WORK_MEMORY}'")
        cursor.execute("SET jit = off")  # it compiles longer than these queries take
        yield Session(cursor, server)
        cursor.execute("COMMIT")


@contextmanager
def translated(server: Server, thing: str) -> Iterator[None]:
    """Name the server, or the `thing` in it, in whatever goes wrong."""
    try:
        yield
    except adbc_driver_manager.Error as err:
        reason = _reason(err, server)
        if err.sqlstate.startswith(TROUBLE) if err.sqlstate else _is_lost(err):
            raise MillwrightError(
                f"PostgreSQL at {server.place} broke off: {reason}; run this again when it is well"
            ) from err
        raise DataError(f"{thing}: {reason}") from err


def _is_lost(err: adbc_driver_manager.Error) -> bool:
    """Whether the driver, which gives no SQLSTATE, tells of the connection and not of data."""
    return isinstance(err, adbc_driver_manager.OperationalError) and "ERROR:" not in str(err)


def _plain(schema: pa.Schema) -> pa.Schema:
    """`schema` without the driver's notes of PostgreSQL's types, which Arrow would compare."""
    return pa.schema([pa.field(column.name, column.type) for column in schema])


def _refused(err: adbc_driver_manager.Error, server: Server) -> MillwrightError:
    reason = _reason(err, server)
    if "password" in reason.replace(server.place, ""):
        return ConfigurationError(
            f"PostgreSQL at {server.place} refuses the password of user '{server.user}': {reason}; "
            "correct it in MILLWRIGHT_POSTGRES_URL or in feature_store.yaml"
        )
    if "FATAL" in reason:
        return MillwrightError(f"PostgreSQL at {server.place} refuses to serve: {reason}")
    return MillwrightError(
        f"PostgreSQL at {server.place} cannot be reached: {reason}; start one here: "
        "python -m millwright services up, or name yours: export MILLWRIGHT_POSTGRES_URL="
        "postgresql://USER:PASSWORD@HOST:5432/DATABASE"
    )


def _reason(err: adbc_driver_manager.Error, server: Server) -> str:
    """What PostgreSQL says, in one line and without the SQL it says it of."""
    details = {str(name): value for name, value in err.details or []}
    primary = next((v for name, v in details.items() if "MESSAGE_PRIMARY" in name), None)
    text = primary.decode(errors="replace") if primary else str(err)
    text = " ".join(text.partition("Query was:")[0].split()).removeprefix("IO: ")
    text = text.removeprefix("[libpq] ").removeprefix("Failed to connect: ")
    return text.replace(server.password, "***") if server.password else text


def _value(text: str) -> str:
    """`text` as libpq reads a value that may hold anything."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
