"""The feature engine of one machine: DuckDB, over the files of the raw store."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir

from millwright import features, periods
from millwright.compiled import Compiled, steps_within
from millwright.fleet import Fleet
from millwright.raw_store import RawStore
from millwright.sql import literal, moment
from millwright.views import View, feature_views
from millwright.warehouse import Rows

# So many values of a view are computed at once, which bounds the memory that they take.
_VALUES_AT_ONCE = 4_000_000


class DuckDBEngine:
    """Computes the rows of feature views for one period at a time, on one thread.

    Threads would add up in whatever order they come by, and a file would not be the same to the
    last bit when it is made again; for the same reason a period is always made from the same rows,
    whichever of its views are asked for. Several engines at once compute several periods.
    """

    def __init__(
        self, fleet: Fleet, raw: RawStore, memory_limit: str, spill: Path, compiled: Compiled
    ) -> None:
        self.fleet = fleet
        self.raw = raw
        self.connection = ibis.duckdb.connect(
            memory_limit=memory_limit, threads=1, temp_directory=str(spill)
        )
        self.connection.raw_sql("SET TimeZone = 'UTC'")
        self._compiled = compiled
        self._reach = max(view.window or fleet.step for view in feature_views(fleet))

    def compute(self, period: str, views: Sequence[View]) -> Iterator[tuple[View, Rows]]:
        """The rows of each view whose `event_timestamp` lies in `period`.

        Their query reads temporary tables, so it holds until the next view is asked for.
        """
        start, end = periods.limits(period, self.fleet)
        earliest = start - self._reach - self.fleet.step
        self._name("telemetry", earliest, end)
        # Every view of a period starts from the statistics of each step, so they are kept.
        self._do(
            f"CREATE OR REPLACE TEMP TABLE made AS FROM ({self._readings()}) "
            "ORDER BY machine_id, step, known"
        )
        self._do("CREATE OR REPLACE TEMP VIEW readings AS FROM made")
        asked = steps_within("readings", start, end, self.fleet)
        self._do(f"CREATE OR REPLACE TEMP VIEW asked AS {asked}")
        for view in views:
            for table in view.sources:
                if table != "telemetry":
                    self._name(table, None if view.reach is None else earliest, end)
            sql = (
                f"SELECT * FROM ({self._rows(view)}) WHERE "
                f"event_timestamp >= {moment(start)} AND event_timestamp < {moment(end)}"
            )
            groups = self._groups(view)
            yield view, Rows(sql if len(groups) < 2 else self._by_group(sql, groups), self._do)

    def _groups(self, view: View) -> list[tuple[str, str]]:
        """The first and the last machine of each group that is computed at once."""
        (rows,) = self._do("SELECT count(*) FROM asked").fetchone()
        count = -(-rows * len(view.features) // _VALUES_AT_ONCE)
        return list(
            self._do(
                "SELECT min(machine_id), max(machine_id) FROM (SELECT machine_id, "
                f"ntile({max(1, count)}) OVER (ORDER BY machine_id) AS place "
                "FROM (SELECT DISTINCT machine_id FROM made)) GROUP BY place ORDER BY place"
            ).fetchall()
        )

    def _by_group(self, sql: str, groups: Sequence[tuple[str, str]]) -> str:
        """SQL for what `sql` gives, computed by groups: no machine's features need another's."""
        self._do(f"CREATE OR REPLACE TEMP TABLE grouped AS FROM ({sql}) LIMIT 0")
        for first, last in groups:
            self._do(
                "CREATE OR REPLACE TEMP VIEW readings AS FROM made "
                f"WHERE machine_id BETWEEN {literal(first)} AND {literal(last)}"
            )
            self._do(f"INSERT INTO grouped {sql}")
        self._do("CREATE OR REPLACE TEMP VIEW readings AS FROM made")
        return "SELECT * FROM grouped"

    def attributes(self, view: View) -> Rows:
        """The rows of the view of machine attributes, whole."""
        self._do(f"CREATE OR REPLACE TEMP VIEW machines AS {self.raw.scan('machines')}")
        return Rows(self._rows(view), self._do)

    def _name(self, table: str, earliest: datetime | None, end: datetime) -> None:
        """Have `table` name its raw rows from behind `earliest` until before `end`."""
        batches = self.raw.batches()
        first = min((p.first for b in batches for p in b.files if p.first), default=end)
        asked = periods.between(max(earliest or first, first), end, self.fleet)
        inside = f"timestamp < {moment(end)}"
        if earliest is not None:
            inside += f" AND timestamp > {moment(earliest)}"
        rows = f"SELECT * FROM ({self.raw.scan(table, asked)}) WHERE {inside}"
        self._do(f"CREATE OR REPLACE TEMP VIEW {table} AS {rows}")

    def _readings(self) -> str:
        return self._compiled.sql(
            "readings",
            lambda: features.step_readings(self.connection.table("telemetry"), self.fleet),
        )

    def _rows(self, view: View) -> str:
        """SQL for the rows of `view`, the same for every period."""

        def expression() -> ir.Table:
            names = [name for name in view.sources if name != "telemetry"]
            if view.kind != "attributes":
                names += ["readings", "asked"]
            tables = {name: self.connection.table(name) for name in names}
            return features.build(view, self.fleet, tables)

        return self._compiled.sql(view.name, expression)

    def _do(self, sql: str) -> Any:
        return self.connection.raw_sql(sql)
