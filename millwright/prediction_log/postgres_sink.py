"""The prediction log in PostgreSQL: a schema for each fleet, one transaction for each segment.

    predictions_<fleet>.predictions   one row per answer
    predictions_<fleet>.outcomes      one row per machine and time, the last that was said of it
    predictions_<fleet>.losses        what is missing, and why
    predictions_<fleet>.layouts       the names of columns and views, by number
    predictions_<fleet>.segments      segments that were taken and may yet come again

A segment's name commits with its rows, so one that comes again is known. It is deleted with the
next segment after the journal's file is gone, so that this table stays short.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pyarrow as pa

from millwright.endpoints import with_parameters
from millwright.postgres.connection import ERRORS, connect_arrow, errors_named
from millwright.prediction_log.content import Content
from millwright.prediction_log.sink import RefusedError
from millwright.sql import literal, quoted

AT_ONCE = 20_000  # predictions that are deleted in one transaction
TIDYING = 60.0  # seconds between two looks for what is too old
DATA = "22"  # the class of SQLSTATE of values that cannot be
# A server that hangs on something gives up by itself; one that is gone the connection notices.
_OPTIONS = (
    "-c statement_timeout=60000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=60000 "
    "-c client_min_messages=warning"
)
_TABLES = {
    "segments": "segment text PRIMARY KEY",
    "layouts": "layout bigint PRIMARY KEY, columns text[] NOT NULL, views text[] NOT NULL",
    "losses": "at timestamptz NOT NULL, records bigint, reason text",
    "outcomes": (
        "machine_id text, observed_at timestamptz, failed boolean NOT NULL, component text, "
        "prediction_id text, note text, reported_at timestamptz NOT NULL, "
        "PRIMARY KEY (machine_id, observed_at)"
    ),
    "predictions": (
        "prediction_id text NOT NULL, machine_id text NOT NULL, asked_at timestamptz NOT NULL, "
        "as_of timestamptz NOT NULL, status text NOT NULL, probability double precision, "
        "alarm boolean, threshold double precision NOT NULL, release integer NOT NULL, "
        "role text NOT NULL, feature_service text NOT NULL, source text NOT NULL, "
        "latency double precision NOT NULL, layout bigint NOT NULL, "
        "event_times timestamptz[] NOT NULL, features real[] NOT NULL"
    ),
}
_INDEXES = {
    "predictions_machine": "predictions (machine_id, asked_at DESC)",
    # Rows come in the order of time, nearly: a few bytes for each thousand of them tell where.
    "predictions_time": "predictions USING brin (asked_at)",
}


class PostgresSink:
    """Takes segments to the tables of a fleet, over one connection, opened when it is needed.

    Predictions that were asked longer than `keep` ago are deleted; without it they stay.
    """

    def __init__(self, url: Callable[[], str], fleet: str, keep: timedelta | None = None) -> None:
        self.url = url
        self.keep = keep
        self.schema = schema_of(fleet)
        self._connection: Any = None
        self._gone: list[str] = []
        self._tidied = float("-inf")

    def take(self, segment: str, content: Content) -> None:
        """Keep the rows of a segment.

        Raises:
            RefusedError: PostgreSQL cannot hold a value.
            MillwrightError: it cannot be reached, or refuses something else.
        """
        url = self.url()
        with errors_named(url, "write the prediction log"):
            try:
                self._take(url, segment, content)
            except ERRORS as err:
                self.close()
                if str(getattr(err, "sqlstate", None) or "").startswith(DATA):
                    raise RefusedError(str(err)) from err
                raise
            except BaseException:
                self.close()
                raise

    def forget(self, segment: str) -> None:
        """Know that the segment will not come again; told to the server with the next one."""
        self._gone.append(segment)

    def tidy(self) -> None:
        """Delete what is too old, some rows at a time: nobody who writes is to wait for it.

        Raises:
            MillwrightError: PostgreSQL cannot be reached, or refuses.
        """
        if self.keep is None or self._connection is None or time.monotonic() < self._tidied:
            return
        with errors_named(self.url(), "delete old predictions"):
            try:
                deleted = self._delete(self.keep)
            except BaseException:
                self.close()
                raise
        if deleted < AT_ONCE:
            self._tidied = time.monotonic() + TIDYING

    def close(self) -> None:
        """Let go of the connection; what was not committed is undone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*ERRORS):  # one that is lost need not be closed
                connection.close()

    def _take(self, url: str, segment: str, content: Content) -> None:
        if self._connection is None:
            self._connection = connect_arrow(with_parameters(url, _OPTIONS, {}))
            self._create()
        gone = list(self._gone)
        with self._connection.cursor() as cursor:
            if gone:
                cursor.execute(
                    f"DELETE FROM {self._name('segments')} "
                    f"WHERE segment IN ({', '.join(map(literal, gone))})"
                )
            cursor.execute(
                f"INSERT INTO {self._name('segments')} VALUES ({literal(segment)}) "
                "ON CONFLICT DO NOTHING RETURNING segment"
            )
            if cursor.fetchall():
                self._insert(cursor, content)
        self._connection.commit()
        del self._gone[: len(gone)]

    def _insert(self, cursor: Any, content: Content) -> None:
        for number, layout in content.layouts.items():
            columns, views = _texts(layout.columns), _texts(layout.views)
            cursor.execute(
                f"INSERT INTO {self._name('layouts')} VALUES ({number}, {columns}, {views}) "
                "ON CONFLICT DO NOTHING"
            )
        self._copy(cursor, "losses", content.losses)
        if len(content.outcomes):
            self._replace_outcomes(cursor, content.outcomes)
        self._copy(cursor, "predictions", content.predictions)

    def _replace_outcomes(self, cursor: Any, rows: pa.Table) -> None:
        """Keep the last that was said, in whatever order it comes."""
        cursor.execute("DROP TABLE IF EXISTS pg_temp.reported")
        cursor.adbc_ingest("reported", rows, mode="create", temporary=True)
        names = ", ".join(map(quoted, rows.column_names))
        changes = ", ".join(f"{n} = excluded.{n}" for n in map(quoted, rows.column_names[2:]))
        cursor.execute(
            f"INSERT INTO {self._name('outcomes')} AS known ({names}) "
            f"SELECT {names} FROM pg_temp.reported ON CONFLICT (machine_id, observed_at) "
            f"DO UPDATE SET {changes} WHERE known.reported_at <= excluded.reported_at"
        )

    def _copy(self, cursor: Any, table: str, rows: pa.Table) -> None:
        if len(rows):
            cursor.adbc_ingest(table, rows, mode="append", db_schema_name=self.schema)

    def _delete(self, keep: timedelta) -> int:
        """Delete some of the predictions that are older; several services may do so at once."""
        table = self._name("predictions")
        with self._connection.cursor() as cursor:
            cursor.execute(
                f"WITH gone AS (DELETE FROM {table} WHERE ctid = ANY(ARRAY("
                f"SELECT ctid FROM {table} "
                f"WHERE asked_at < now() - interval '{keep.total_seconds():.0f} seconds' "
                f"LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED)) RETURNING 1) SELECT count(*) FROM gone"
            )
            (deleted,) = cursor.fetchone()
        self._connection.commit()
        return int(deleted)

    def _create(self) -> None:
        """Make the tables, unless they are there: then the user need not be allowed to."""
        with self._connection.cursor() as cursor:
            cursor.execute(f"SELECT to_regclass({literal(self._name('predictions'))})::text")
            if cursor.fetchone() == (None,):
                # Two processes that begin at once would trip over each other.
                cursor.execute(f"SELECT pg_advisory_xact_lock(hashtext({literal(self.schema)}))")
                cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(self.schema)}")
                for table, columns in _TABLES.items():
                    cursor.execute(f"CREATE TABLE IF NOT EXISTS {self._name(table)} ({columns})")
                for index, over in _INDEXES.items():
                    cursor.execute(
                        f"CREATE INDEX IF NOT EXISTS {index} ON {quoted(self.schema)}.{over}"
                    )
        self._connection.commit()

    def _name(self, table: str) -> str:
        return f"{quoted(self.schema)}.{quoted(table)}"


def schema_of(fleet: str) -> str:
    """The schema in which a fleet's prediction log is."""
    return f"predictions_{fleet}"


def _texts(values: tuple[str, ...]) -> str:
    return f"ARRAY[{', '.join(map(literal, values))}]::text[]"
