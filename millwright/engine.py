"""The feature engine of one machine: DuckDB, over the files of the raw store."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import ibis
import ibis.expr.types as ir

from millwright import features, periods
from millwright.fleet import Fleet
from millwright.raw_store import RawStore
from millwright.settings import Engine
from millwright.views import View

KEYS = ("machine_id", "event_timestamp", "created_timestamp")


class DuckDBEngine:
    """Computes the rows of feature views for one period at a time."""

    def __init__(self, fleet: Fleet, raw: RawStore, settings: Engine, spill: Path) -> None:
        self.fleet = fleet
        self.raw = raw
        self.connection = ibis.duckdb.connect(
            memory_limit=settings.memory_limit,
            threads=settings.threads,
            temp_directory=str(spill),
        )
        self.connection.raw_sql("SET TimeZone = 'UTC'")

    def write(self, view: View, table: ir.Table, target: Path) -> int:
        """Write the rows of `table` to a parquet file, by machine and time, and count them."""
        columns = {name: table[name].cast(kind) for name, kind in view.features.items()}
        rows = table.select(*KEYS, **columns).order_by(*KEYS)
        rows.to_parquet(target, compression="zstd")
        return int(self.connection.read_parquet(target).count().execute())

    def compute(self, period: str, views: list[View]) -> Iterator[tuple[View, ir.Table]]:
        """The table of each view, with the rows whose `event_timestamp` lies in `period`."""
        start, end = periods.limits(period, self.fleet)
        reach = max((view.window or self.fleet.step for view in views), default=self.fleet.step)
        earliest = start - reach - self.fleet.step
        tables = {"readings": self._readings(earliest, end)}
        for view in views:
            for name in view.sources:
                if name != "telemetry":
                    tables[name] = self._raw(name, None if view.reach is None else earliest, end)
            table = features.build(view, self.fleet, tables)
            inside = (table.event_timestamp >= start) & (table.event_timestamp < end)
            yield view, table.filter(inside)

    def attributes(self, view: View) -> ir.Table:
        """The table of the view of machine attributes, whole."""
        return features.build(view, self.fleet, {"machines": self._raw("machines", None, None)})

    def query(self, sql: str) -> ir.Table:
        """The result of DuckDB's SQL."""
        return self.connection.sql(sql, dialect="duckdb")

    def _readings(self, earliest: datetime, end: datetime) -> ir.Table:
        """The statistics of each step, kept in memory: every view of a period starts from them."""
        readings = features.step_readings(self._raw("telemetry", earliest, end), self.fleet)
        return self.connection.create_table("readings", readings, temp=True, overwrite=True)

    def _raw(self, name: str, earliest: datetime | None, end: datetime | None) -> ir.Table:
        """The rows of a raw table from `earliest` until before `end`."""
        if end is None:
            return self.query(self.raw.scan(name))
        batches = self.raw.batches()
        first = min((p.first for b in batches for p in b.files if p.first), default=end)
        asked = periods.between(max(earliest or first, first), end, self.fleet)
        table = self.query(self.raw.scan(name, asked))
        inside = table.timestamp < end
        if earliest is not None:
            inside &= table.timestamp > earliest
        return table.filter(inside)
