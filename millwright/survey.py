"""A look at all rows of a part at once, so that most checks need not be made row by row.

One pass over a column says whether all its readings are in range; and where no row is without a
reading, none need be asked.
"""

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
    strays = ", ".join(
        f"coalesce(bool_or({_strays(fleet, table, cell, column)}), false)"
        for cell, column in numbers.items()
    )
    suspicious = connection.execute(f"SELECT {strays} FROM {rows}").fetchone()
    empty = " AND ".join(f"{cell} IS NULL" for cell in numbers)
    blanks = connection.execute(f"SELECT 1 FROM {rows} WHERE {empty} LIMIT 1").fetchone()
    pairs = zip(numbers.values(), suspicious, strict=True)
    return Survey(frozenset(column.name for column, stray in pairs if not stray), bool(blanks))


def _strays(fleet: Fleet, table: str, cell: str, column: Column) -> str:
    """Whether a number is not finite or outside its range."""
    entries: Any = fleet.sensors if table == "telemetry" else fleet.attributes
    limits = entries[column.name].range
    # Asked for by itself: what DuckDB takes from a file's statistics about a range leaves out
    # NaN, of which some writers keep no trace there.
    infinite = f"NOT isfinite({cell}::DOUBLE)"
    if limits is None:
        return infinite
    return f"{infinite} OR {cell}::DOUBLE NOT BETWEEN {limits[0]!r} AND {limits[1]!r}"
