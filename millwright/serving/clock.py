"""What the times of a request stand for: moments, or the cycles of a fleet that counts those."""

from datetime import datetime

from millwright.durations import CYCLE_ORIGIN, UNITS
from millwright.validation import BEGINNING, LAST_CYCLE

_CYCLE = UNITS["cycle"]

Time = datetime | int  # with a zone, or the number of a cycle


class Clock:
    """The times of one fleet, in UTC."""

    def __init__(self, counts_cycles: bool) -> None:
        self.counts_cycles = counts_cycles

    def fault(self, time: Time, first: int = 0) -> str:
        """Why a time is none of the fleet's; empty if it is. Cycles count from `first`."""
        if self.counts_cycles:
            if isinstance(time, datetime) or not first <= time <= LAST_CYCLE:
                return f"must be the number of a cycle, from {first:,} to {LAST_CYCLE:,}"
        elif not isinstance(time, datetime):
            return "must be an ISO time with its zone, such as 2025-01-31T12:00:00Z"
        elif time < BEGINNING:
            return f"is before {BEGINNING.year}; the machine's clock was never set"
        return ""

    def moment(self, time: Time) -> datetime:
        """The moment that a time without a fault stands for."""
        return time if isinstance(time, datetime) else CYCLE_ORIGIN + time * _CYCLE

    def shown(self, moment: datetime) -> str:
        """A moment as the fleet writes it."""
        if self.counts_cycles:
            return f"cycle {(moment - CYCLE_ORIGIN) // _CYCLE}"
        return moment.isoformat()
