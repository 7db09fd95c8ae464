"""The SQL of feature expressions, which takes longer to make than a small period to compute."""

from collections.abc import Callable
from threading import Lock

import ibis
import ibis.expr.types as ir


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
