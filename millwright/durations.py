"""Lengths of time as people write them in a configuration file: `24h`, `34d`, `30 cycles`."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator

UNITS = {
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    # A fleet that counts cycles has no clock. One cycle is an hour on ours, counted from
    # CYCLE_ORIGIN, so that everything behind the ingest deals in timestamps alone.
    "cycle": timedelta(hours=1),
}
CYCLE_ORIGIN = datetime(2000, 1, 1, tzinfo=UTC)

_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|cycle)s?")


def parse(text: Any) -> timedelta:
    """Read `text` as a length of time; a timedelta passes as it is."""
    if isinstance(text, timedelta):
        return text
    match = _PATTERN.fullmatch(str(text).strip())
    if not match:
        raise ValueError(
            f"'{text}' is not a length of time; write 90s, 15min, 24h, 34d or 30 cycles"
        )
    try:
        length = float(match[1]) * UNITS[match[2]]
    except OverflowError as err:
        raise ValueError(f"'{text}' is longer than any history; write less") from err
    if length <= timedelta(0):
        raise ValueError(f"'{text}' must be longer than nothing")
    return length


def label(length: timedelta, cycles: bool = False) -> str:
    """The shortest way to write `length`, fit for the name of a column: `24h`, `30c`."""
    if cycles:
        return f"{length / UNITS['cycle']:g}c"
    for unit in ("h", "min", "s"):
        if length % UNITS[unit] == timedelta(0):
            return f"{length // UNITS[unit]}{unit}"
    return f"{length.total_seconds():g}s"


Duration = Annotated[timedelta, BeforeValidator(parse)]
