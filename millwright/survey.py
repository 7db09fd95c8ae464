"""A look at all rows of a part at once, so that most checks need not be made row by row.

One pass over a column says whether all its readings are in range; and where no row is without a
reading, none need be asked.
"""

from math import isfinite
from typing import Any

from millwright.fleet import Fleet
from millwright.sources import Part
from millwright.validation import UNSEEN, Column, Survey, columns, is_number


def survey(connection: Any, fleet: Fleet, table: str, part: Part) -> Survey:
    """What the DuckDB `connection` finds in the numbers of `part`, whose rows it can read."""
    found = columns(fleet, table)
    numbers = {
        f"c{place}": column
        for place, column in enumerate(found)
        if column.kind == "number" and is_number(part.types[column.source])
    }
    if not numbers:
        return UNSEEN
    names = ", ".join(f"c{place}" for place in range(len(found)))
    rows = f"({part.rows}) AS data({names})"
    # Extremes may come from what a file says of itself, where some writers keep no trace of NaN;
    # a sum comes from the rows, and is not finite if one of them is not.
    extremes = ", ".join(f"min({cell})::DOUBLE, max({cell})::DOUBLE" for cell in numbers)
    limits = connection.execute(f"SELECT {extremes} FROM {rows}").fetchone()
    sums = ", ".join(f"sum({cell}::DOUBLE)" for cell in numbers)
    totals = connection.execute(f"SELECT {sums} FROM {rows}").fetchone()
    empty = " AND ".join(f"{cell} IS NULL" for cell in numbers)
    blanks = connection.execute(f"SELECT 1 FROM {rows} WHERE {empty} LIMIT 1").fetchone()
    sound = (
        column.name
        for column, low, high, total in zip(
            numbers.values(), limits[::2], limits[1::2], totals, strict=True
        )
        if total is None or (isfinite(total) and _in_range(fleet, table, column, low, high))
    )
    return Survey(frozenset(sound), bool(blanks))


def _in_range(fleet: Fleet, table: str, column: Column, low: float, high: float) -> bool:
    entries: Any = fleet.sensors if table == "telemetry" else fleet.attributes
    limits = entries[column.name].range
    return limits is None or bool(limits[0] <= low and high <= limits[1])
