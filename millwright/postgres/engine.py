"""The feature engine of staging and production: PostgreSQL, over its own copy of the raw tables."""

from collections.abc import Iterator, Sequence
from typing import Any

import ibis
import ibis.expr.types as ir

from millwright import features, periods
from millwright.compiled import Compiled, steps_within
from millwright.fleet import Fleet
from millwright.postgres.connection import connect
from millwright.postgres.raw_tables import RawTables
from millwright.sql import literal
from millwright.views import View
from millwright.warehouse import Rows


class PostgresEngine:
    """Computes the rows of feature views for one period at a time, in one connection."""

    def __init__(self, fleet: Fleet, url: str, memory_limit: str, compiled: Compiled) -> None:
        self.fleet = fleet
        self.raw = RawTables(fleet)
        self.connection = connect(url)
        # A query sorts several times at once, each within this.
        self._do(f"SET work_mem = {literal(_part(memory_limit, 8))}")
        self._do("SET max_parallel_workers_per_gather = 0")
        self._compiled = compiled

    def close(self) -> None:
        """Let go of the connection."""
        self.connection.close()

    def compute(self, period: str, views: Sequence[View]) -> Iterator[tuple[View, Rows]]:
        """The rows of each view whose `event_timestamp` lies in `period`.

        Their query reads temporary tables, so it holds until the next view is asked for.
        """
        start, end = periods.limits(period, self.fleet)
        reach = max((view.window or self.fleet.step for view in views), default=self.fleet.step)
        earliest = start - reach - self.fleet.step
        self._name("telemetry", self.raw.between("telemetry", earliest, end))
        # Every view of a period starts from the statistics of each step, so they are kept.
        self._do("DROP TABLE IF EXISTS pg_temp.readings CASCADE")
        self._do(f"CREATE TEMP TABLE readings AS {self._readings()}")
        self._do("ANALYZE pg_temp.readings")
        self._do(f"CREATE TEMP VIEW asked AS {steps_within('readings', start, end, self.fleet)}")
        for view in views:
            for table in view.sources:
                if table != "telemetry":
                    since = None if view.reach is None else earliest
                    self._name(table, self.raw.between(table, since, end))
            sql = (
                f"SELECT * FROM ({self._rows(view)}) AS made WHERE "
                f"event_timestamp >= {literal(start.isoformat())}::timestamptz "
                f"AND event_timestamp < {literal(end.isoformat())}::timestamptz"
            )
            yield view, Rows(sql, self._do)

    def attributes(self, view: View) -> Rows:
        """The rows of the view of machine attributes, whole."""
        self._name("machines", self.raw.between("machines", None, None))
        return Rows(self._rows(view), self._do)

    def _name(self, table: str, rows: str) -> None:
        """Have `table` name these rows for a while."""
        self._do(f"DROP VIEW IF EXISTS pg_temp.{table}")
        self._do(f"CREATE TEMP VIEW {table} AS {rows}")

    def _readings(self) -> str:
        return self._compiled.sql("readings", self._step_readings)

    def _rows(self, view: View) -> str:
        """SQL for the rows of `view`, the same for every period."""

        def expression() -> ir.Table:
            tables = {name: self.raw.expression(name) for name in view.sources}
            if "telemetry" in tables:
                schema = self._step_readings().schema()
                tables |= {name: ibis.table(schema, name=name) for name in ("readings", "asked")}
            return features.build(view, self.fleet, tables)

        return self._compiled.sql(view.name, expression)

    def _step_readings(self) -> ir.Table:
        return features.step_readings(self.raw.expression("telemetry"), self.fleet)

    def _do(self, sql: str) -> Any:
        cursor = self.connection.cursor()
        cursor.execute(sql)
        return cursor


def _part(memory: str, share: int) -> str:
    """A part of an amount of memory, as PostgreSQL writes it."""
    megabytes = float(memory[:-2]) * (1024 if memory.endswith("GB") else 1)
    return f"{max(4, int(megabytes / share))}MB"
