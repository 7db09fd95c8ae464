"""How many requests a client may make: so many at once, and so many a second.

This is the bucket of tokens as the generic cell rate algorithm (ITU-T I.371): a client is known by
one number, the time at which its bucket will be full again. Each request moves it by one interval,
and it may lie `burst` intervals ahead of the clock.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

MOST = 10_000  # clients that are known at once
SECOND = 1_000_000_000  # nanoseconds, in which all of this is reckoned


class Limit:
    """The rate of each client of a kind; `rate` is in requests a second, and 0 is no limit.

    No client gains by being forgotten. Only one whose bucket is full is, since it would begin with
    a full one; while there are `most` others, all further clients share a bucket.
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        most: int = MOST,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.rate = rate
        self._interval = round(SECOND / rate) if rate else 0
        self._ahead = (burst - 1) * self._interval
        self._most = most
        self._clock = clock
        self._full: OrderedDict[str, int] = OrderedDict()  # when; who asked last comes last
        self._others = 0

    def wait(self, client: str) -> float:
        """Count a request of `client`: 0, or the seconds until it would be let through."""
        if not self._interval:
            return 0.0
        now = self._clock()
        known = client in self._full or self._has_room(now)
        full = max(now, self._full.get(client, 0) if known else self._others)
        early = full - self._ahead - now
        if early > 0:
            return early / SECOND
        if known:
            self._full[client] = full + self._interval
            self._full.move_to_end(client)
        else:
            self._others = full + self._interval
        return 0.0

    def __len__(self) -> int:
        """How many clients are known."""
        return len(self._full)

    def _has_room(self, now: int) -> bool:
        """Whether one more can be known; it forgets who asked the longest ago, if that is safe."""
        if len(self._full) < self._most:
            return True
        oldest, full = next(iter(self._full.items()))
        if full > now:
            return False
        del self._full[oldest]
        return True
