"""The SQL that engines share: of feature expressions, and of the steps that they are asked for.

That of an expression takes longer to make than a small period to compute.
"""

from collections.abc import Callable
from datetime import datetime
from threading import Lock

import ibis
import ibis.expr.types as ir

from millwright.fleet import Fleet


class Compiled:
    """The SQL of expressions by name, in one dialect.

    Engines that run side by side share it. Python compiles one at a time anyway.
    """

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self._known: dict[str, str] = {}
        self._lock = Lock()

    def sql(self, name: str, expression: Callable[[], ir.Table]) -> str:
        """The SQL of `expression`, which is asked for when nobody has asked for `name` before."""
        with self._lock:
            if name not in self._known:
                self._known[name] = str(ibis.to_sql(expression(), dialect=self.dialect))
            return self._known[name]


def steps_within(readings: str, start: datetime, end: datetime, fleet: Fleet) -> str:
    """SQL for the readings of steps from `start` until before `end`.

    Those before a period are there to be looked back on, and get no features of theirs.
    """
    seconds = int(fleet.step.total_seconds())
    return (
        f"SELECT * FROM {readings} WHERE step * {seconds} >= {start.timestamp():.0f} "
        f"AND step * {seconds} < {end.timestamp():.0f}"
    )
