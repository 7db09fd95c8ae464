"""Reading the prediction log from PostgreSQL.

Many rows come by Arrow, few by a connection that is made much sooner.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from millwright.endpoints import with_parameters
from millwright.postgres.connection import connect, connect_arrow, errors_named
from millwright.prediction_log.content import LOSSES, OUTCOMES, PREDICTIONS
from millwright.prediction_log.history import COUNTS, Selection
from millwright.prediction_log.postgres_sink import schema_of
from millwright.prediction_log.records import Layout
from millwright.sql import literal, moment, quoted

_LAYOUTS = pa.schema(
    [("layout", pa.int64()), ("columns", pa.list_(pa.string())), ("views", pa.list_(pa.string()))]
)
_OPTIONS = "-c statement_timeout=120000 -c lock_timeout=10000"


class PostgresHistory:
    """The prediction log that `PostgresSink` writes. Every question is a connection of its own."""

    def __init__(self, url: Callable[[], str], fleet: str) -> None:
        self.url = url
        self.schema = schema_of(fleet)

    def predictions(self, selection: Selection, columns: Sequence[str]) -> pa.Table:
        """Some columns of predictions, in no order."""
        form = pa.schema([PREDICTIONS.field(name) for name in columns])
        return self._fetch(form, "predictions", _where("asked_at", selection))

    def newest(self, machine: str, limit: int) -> pa.Table:
        """The last predictions of a machine, which an index finds."""
        return self._fetch_few(
            PREDICTIONS,
            "predictions",
            f"{_where('asked_at', Selection(machine=machine))} "
            f'ORDER BY asked_at DESC, prediction_id COLLATE "C" DESC LIMIT {int(limit)}',
        )

    def counts(self, selection: Selection) -> pa.Table:
        """Predictions and alarms by release, role and status."""
        by = 'release, role COLLATE "C", status COLLATE "C"'
        return self._fetch_few(
            COUNTS,
            f"(SELECT release, role, status, count(*) AS predictions, "
            f"count(*) FILTER (WHERE alarm) AS alarms FROM {self._name('predictions')}"
            f"{_where('asked_at', selection)} GROUP BY release, role, status) AS counted",
            f" ORDER BY {by}",
        )

    def outcomes(self) -> pa.Table:
        """What was said of machines, the last of each machine and time."""
        return self._fetch(OUTCOMES, "outcomes", ' ORDER BY machine_id COLLATE "C", observed_at')

    def losses(self, selection: Selection) -> pa.Table:
        """What is missing."""
        only = Selection(selection.since, selection.until)
        return self._fetch_few(LOSSES, "losses", _where("at", only))

    def layouts(self) -> dict[int, Layout]:
        """The names of columns and views, by number."""
        return {
            row["layout"]: Layout(tuple(row["columns"]), tuple(row["views"]))
            for row in self._fetch_few(_LAYOUTS, "layouts", "").to_pylist()
        }

    def _fetch(self, form: pa.Schema, source: str, rest: str) -> pa.Table:
        """The columns of `form` from a table or a subquery; none where nothing was logged yet."""
        url = self.url()
        with (
            errors_named(url, "read the prediction log"),
            connect_arrow(with_parameters(url, _OPTIONS, {})) as connection,
            connection.cursor() as cursor,
        ):
            if not self._begun(cursor):
                return form.empty_table()
            cursor.execute(self._select(form, source, rest))
            rows: pa.Table = cursor.fetch_arrow_table()
            return rows.cast(form)

    def _fetch_few(self, form: pa.Schema, source: str, rest: str) -> pa.Table:
        """The same, row by row."""
        url = self.url()
        with (
            errors_named(url, "read the prediction log"),
            closing(connect(with_parameters(url, _OPTIONS, {}))) as connection,
            connection.cursor() as cursor,
        ):
            if not self._begun(cursor):
                return form.empty_table()
            cursor.execute(self._select(form, source, rest))
            rows = [dict(zip(form.names, row, strict=True)) for row in cursor.fetchall()]
            return pa.Table.from_pylist(rows, form)

    def _begun(self, cursor: Any) -> bool:
        """Whether there are tables."""
        cursor.execute(f"SELECT to_regclass({literal(self._name('predictions'))})::text")
        return bool(cursor.fetchone() != (None,))

    def _select(self, form: pa.Schema, source: str, rest: str) -> str:
        place = source if source.startswith("(") else self._name(source)
        return f"SELECT {', '.join(map(quoted, form.names))} FROM {place}{rest}"

    def _name(self, table: str) -> str:
        return f"{quoted(self.schema)}.{quoted(table)}"


def _where(time: str, selection: Selection) -> str:
    conditions = []
    if selection.since is not None:
        conditions.append(f"{time} >= {moment(selection.since)}")
    if selection.until is not None:
        conditions.append(f"{time} < {moment(selection.until)}")
    if selection.release is not None:
        conditions.append(f"release = {int(selection.release)}")
    if selection.machine is not None:
        conditions.append(f"machine_id = {literal(selection.machine)}")
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
