"""Predictions of whole fleets in PostgreSQL: a table beside the prediction log of each fleet.

A time is replaced in one transaction, which holds a lock that others who write wait for and
readers do not: they see what was there before until it commits.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pyarrow as pa

from millwright.endpoints import with_parameters, without_password
from millwright.inference.table import PREDICTIONS
from millwright.postgres.connection import connect_arrow, errors_named
from millwright.prediction_log.postgres_sink import schema_of
from millwright.sql import literal, moment, quoted

TABLE = "batch_predictions"
_OPTIONS = (
    "-c statement_timeout=600000 -c lock_timeout=60000 "
    "-c idle_in_transaction_session_timeout=600000 -c client_min_messages=warning"
)
_TYPES: dict[Any, str] = {
    pa.string(): "text",
    pa.int32(): "integer",
    pa.float64(): "double precision",
    pa.bool_(): "boolean",
    pa.timestamp("us", tz="UTC"): "timestamptz",
}


class PostgresTable:
    """The table of a fleet, in the PostgreSQL at what `url` gives when it is needed."""

    def __init__(self, url: Callable[[], str], fleet: str) -> None:
        self.url = url
        self.schema = schema_of(fleet)
        self.name = f"{quoted(self.schema)}.{quoted(TABLE)}"

    def replace(self, as_of: datetime, rows: pa.Table) -> str:
        """See `table.Table`."""
        url = self.url()
        with (
            errors_named(url, "write the predictions of the fleet"),
            connect_arrow(with_parameters(url, _OPTIONS, {})) as connection,
            connection.cursor() as cursor,
        ):
            if not self._is_there(cursor):
                self._create(cursor)
                connection.commit()
            cursor.execute(f"LOCK TABLE {self.name} IN SHARE ROW EXCLUSIVE MODE")
            cursor.execute(f"DELETE FROM {self.name} WHERE as_of = {moment(as_of)}")
            cursor.adbc_ingest(
                TABLE, rows.cast(PREDICTIONS), mode="append", db_schema_name=self.schema
            )
            connection.commit()
        return f"{self.schema}.{TABLE} in {without_password(url)}"

    def read(self, as_of: datetime | None) -> pa.Table:
        """See `table.Table`."""
        url = self.url()
        time = moment(as_of) if as_of else f"(SELECT max(as_of) FROM {self.name})"
        with (
            errors_named(url, "read the predictions of the fleet"),
            connect_arrow(with_parameters(url, _OPTIONS, {})) as connection,
            connection.cursor() as cursor,
        ):
            if not self._is_there(cursor):
                return PREDICTIONS.empty_table()
            cursor.execute(
                f"SELECT {', '.join(map(quoted, PREDICTIONS.names))} FROM {self.name} "
                f'WHERE as_of = {time} ORDER BY rank NULLS LAST, machine_id COLLATE "C"'
            )
            found: pa.Table = cursor.fetch_arrow_table().cast(PREDICTIONS)
            return found

    def _is_there(self, cursor: Any) -> bool:
        cursor.execute(f"SELECT to_regclass({literal(self.name)})::text")
        return bool(cursor.fetchone() != (None,))

    def _create(self, cursor: Any) -> None:
        """Make the table; two processes that begin at once would trip over each other."""
        columns = [
            f"{quoted(each.name)} {_TYPES[each.type]}{'' if each.nullable else ' NOT NULL'}"
            for each in PREDICTIONS
        ]
        cursor.execute(f"SELECT pg_advisory_xact_lock(hashtext({literal(self.schema)}))")
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(self.schema)}")
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {self.name} ({', '.join(columns)}, "
            "PRIMARY KEY (as_of, machine_id))"
        )
