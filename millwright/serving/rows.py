"""Features of some machines in columns, whichever way they came, and what each view is worth."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NEVER = -(2**63)  # the event time of a view without a row
Status = Literal["present", "stale", "missing"]
STATUSES: tuple[Status, ...] = ("present", "stale", "missing")
PRESENT, STALE, MISSING = range(3)

Moments = NDArray[np.int64]
States = NDArray[np.int8]


class Block(Mapping[str, NDArray[Any]]):
    """Columns whose `numbers` lie side by side, shape (n, len(places)), float32.

    `places` says where each of them does; `texts` are the columns of text.
    """

    def __init__(
        self,
        numbers: NDArray[np.float32],
        places: Mapping[str, int],
        texts: Mapping[str, NDArray[Any]],
    ) -> None:
        self.numbers = numbers
        self.places = places
        self.texts = texts

    def __getitem__(self, name: str) -> NDArray[Any]:
        place = self.places.get(name)
        return self.texts[name] if place is None else self.numbers[:, place]

    def __iter__(self) -> Iterator[str]:
        yield from self.places
        yield from self.texts

    def __len__(self) -> int:
        return len(self.places) + len(self.texts)


@dataclass(frozen=True)
class FeatureRows:
    """The features of n machines, null where a view is not present.

    `columns` has shape (n,) for each feature: float32 with NaN for null, or objects that are text
    or None. `events` and `states` have shape (n, views): of when each view's row is, in
    microseconds since 1970 or NEVER, and which of STATUSES it has.
    """

    columns: Mapping[str, NDArray[Any]]
    events: Moments
    states: States
    views: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.events)


def states(events: Moments, lives: Moments, as_of: Moments) -> States:
    """What rows are worth at `as_of`, shape (n,): shape (n, views), as `events`.

    A row is stale when it is older than its view's time to live, shape (views,) in microseconds.
    One that came true after `as_of` is missing: the store has none of before any more.
    """
    moments = as_of[:, None]
    present = (events <= moments) & (events >= moments - lives)  # which most of them are
    if present.all():
        return np.full(events.shape, PRESENT, np.int8)
    missing = (events == NEVER) | (events > moments)
    return np.where(missing, MISSING, np.where(present, PRESENT, STALE)).astype(np.int8)


def microseconds(lives: Sequence[float | None]) -> Moments:
    """Times to live in seconds as `states` takes them; None is for ever."""
    for_ever = np.iinfo(np.int64).max
    return np.array([for_ever if life is None else round(life * 1e6) for life in lives], np.int64)


def present_alone(rows: FeatureRows, features: Mapping[str, Sequence[str]]) -> FeatureRows:
    """`rows` with null for what is stale or missing, as a historical join has it.

    `features` are those of each view.
    """
    columns = dict(rows.columns)
    for place, view in enumerate(rows.views):
        gone = rows.states[:, place] != PRESENT
        for name in features[view]:
            null: Any = None if columns[name].dtype == object else np.float32("nan")
            columns[name] = np.where(gone, null, columns[name])
    return FeatureRows(columns, rows.events, rows.states, rows.views)


def newest(
    first: FeatureRows, second: FeatureRows, features: Mapping[str, Sequence[str]]
) -> FeatureRows:
    """Of each machine and view the row that was true last; of two of one time that of `first`.

    Both have the same machines and views, in the same order.
    """
    later = second.events > first.events
    columns = {
        name: np.where(later[:, place], second.columns[name], first.columns[name])
        for place, view in enumerate(first.views)
        for name in features[view]
    }
    return FeatureRows(
        columns,
        np.where(later, second.events, first.events),
        np.where(later, second.states, first.states),
        first.views,
    )
