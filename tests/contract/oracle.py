"""What a historical join must answer, row by row in plain Python: slow, and plainly right."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class Row:
    """One row of a feature view."""

    key: tuple[object, ...]
    event: datetime | None
    created: datetime | None
    values: tuple[object, ...]


def visible(row: Row, cutoff: datetime, *, as_known: bool) -> bool:
    if row.event is None or row.event > cutoff:
        return False
    return not as_known or (row.created is not None and row.created <= cutoff)


def answer(
    rows: Iterable[Row],
    key: Sequence[object],
    cutoff: datetime | None,
    *,
    as_known: bool,
    time_to_live: timedelta | None,
) -> Row | None:
    """The row of `key` that counts at `cutoff`. Of equal rows it is the last one."""
    winner = None
    if cutoff is None or None in key:
        return None
    for row in rows:
        if row.key != tuple(key) or not visible(row, cutoff, as_known=as_known):
            continue
        if winner is None or _age(row) >= _age(winner):
            winner = row
    if winner is not None and time_to_live and winner.event < cutoff - time_to_live:
        return None
    return winner


def _age(row: Row) -> tuple[datetime, datetime]:
    """Rows that were never known are the oldest of their time."""
    return row.event, row.created or datetime.min.replace(tzinfo=UTC)
