"""What goes wrong with each request, and so would be in the log as often as somebody asks."""

import logging
import time
from collections.abc import Callable

QUIET = 60.0  # seconds between two warnings of the same
KEPT = 1_000  # different ones that are remembered


class Complaints:
    """Warnings: another one is told at once, and the same again after a while, with how many."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}  # when, and how many times since

    def add(self, what: str) -> None:
        """Say what is wrong, in one line, unless that was said lately."""
        now = self._clock()
        since, unsaid = self._told.pop(what, (float("-inf"), 0))
        if now - since < QUIET:
            self._told[what] = since, unsaid + 1
            return
        more = f" ({unsaid:,} more since it was told)" if unsaid else ""
        self._log.warning("%s%s", what, more)
        self._told[what] = now, 0
        while len(self._told) > KEPT:
            del self._told[next(iter(self._told))]
