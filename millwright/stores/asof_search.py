"""The search of an ASOF join: which row of a history counts at a cut-off, by number alone.

It takes one sort of the rows and one binary search for each cut-off, and about `BYTES_A_ROW` of
memory. The rule that it carries out stands in `asof_join`.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).min  # the created time of a row that has none
BYTES_A_ROW = 80

Numbers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """The rows of a history in any order: arrays of one length.

    `key` numbers the keys from 0, `event` and `created` are in microseconds, and `id` is the
    number of a row in the files.
    """

    key: Numbers
    event: Numbers
    created: Numbers
    id: Numbers


def search(rows: Rows, keys: Numbers, cutoffs: Numbers, *, as_known: bool, life: int) -> Numbers:
    """The place in `rows` of the row that counts at each cut-off, or -1.

    `keys` are the numbers of the cut-offs' keys. It is fastest where cut-offs are sorted by key and
    time: then each is found where the processor has just been.
    """
    if not len(rows.id):
        return np.full(len(keys), -1)
    effective = np.maximum(rows.event, rows.created) if as_known else rows.event
    line = _Line.through(rows, effective)
    moments = line.points(rows.key, effective)
    order = _order(moments, rows)
    last = np.searchsorted(moments[order], line.points(keys, cutoffs), side="right") - 1
    if as_known:
        last = np.where(last < 0, -1, _newest(line.points(rows.key, rows.event)[order])[last])
    found: Numbers = order[last]
    missed = (last < 0) | (rows.key[found] != keys) | (rows.event[found] < cutoffs - life)
    found[missed] = -1
    return found


def ranked(numbers: Numbers, places: Numbers) -> tuple[Numbers, Numbers]:
    """The numbers at `places`, each once and rising, and instead of a place its rank in them."""
    used = np.zeros(len(numbers) + 1, bool)
    used[places] = True  # -1 is the last
    chosen = np.flatnonzero(used[:-1])
    chosen = chosen[np.argsort(numbers[chosen], kind="stable")]
    ranks = np.full(len(numbers) + 1, -1)
    ranks[chosen] = np.arange(len(chosen))
    return numbers[chosen], ranks[places]


def merged(found: list[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    """Numbers and ranks of several searches as those of one."""
    if len(found) == 1:
        return found[0]
    starts = np.cumsum([0, *(len(numbers) for numbers, _ in found)])
    every = np.concatenate(
        [
            np.where(ranks < 0, -1, ranks + start)
            for (_, ranks), start in zip(found, starts, strict=False)
        ]
    )
    return ranked(np.concatenate([numbers for numbers, _ in found]), every)


@dataclass(frozen=True)
class _Line:
    """Key and time as one number, which rises with the key, then with the time.

    A key has `size` points: one for what is before all rows, then one for each microsecond from
    `first`, or for each of `moments` where there would be too many.
    """

    first: int
    size: int
    moments: Numbers | None

    @classmethod
    def through(cls, rows: Rows, effective: Numbers) -> "_Line":
        """The line on which all rows and times have a point."""
        first, last = int(rows.event.min()), int(effective.max())
        size = last - first + 2
        if size * (int(rows.key.max()) + 1) < 2**62:
            return cls(first, size, None)
        moments = np.unique(np.concatenate([rows.event, effective]))
        return cls(0, len(moments) + 1, moments)

    def points(self, keys: Numbers, times: Numbers) -> Numbers:
        """The points of keys at times."""
        if self.moments is not None:
            offsets = np.searchsorted(self.moments, times, side="right")
        else:
            last = self.first + self.size - 2
            offsets = np.clip(times, self.first - 1, last) - (self.first - 1)
        return keys * self.size + offsets


def _order(moments: Numbers, rows: Rows) -> Numbers:
    """The rows by moment; those of one moment by created time, then by number."""
    order = np.argsort(moments, kind="stable")
    same = np.diff(moments[order]) == 0
    if same.any():
        tied = np.append(same, False) | np.append(False, same)
        places = order[tied]
        ranks = (rows.id, rows.created, moments)
        order[tied] = places[np.lexsort([rank[places] for rank in ranks])]
    return order


def _newest(events: Numbers) -> Numbers:
    """For each row the place of the newest by event time among it and those before it."""
    newest_so_far = np.maximum.accumulate(events)
    places = np.where(events == newest_so_far, np.arange(len(events)), 0)
    return np.maximum.accumulate(places)
