"""The quarantine: rows that an ingest refused, as the source gave them, with the reasons."""

from collections.abc import Iterable
from pathlib import Path

from millwright.errors import InputError
from millwright.files import put_into_place
from millwright.raw_files import write_parquet
from millwright.sql import literal, quoted
from millwright.staging import Staging, forget_rejects
from millwright.validation import NUMBER, REASONS, bit, columns

# Beside the data's own columns in a quarantine file.
_NOTES = ("reason", "reasons", "origin", "row", "line")


def set_aside(staging: Staging, table: str, quarantine: Path, scratch: Path) -> Path:
    """Write the refused rows of `table` as the source gave them; same rows, same file.

    Raises:
        InputError: the quarantine cannot be written.
    """
    draft = scratch / f"refused-{table}.parquet"
    parts = range(len(staging.parts[table]))
    rows = " UNION ALL ".join(f"({_originals(staging, table, number)})" for number in parts)
    ordered = f"SELECT * FROM ({rows}) ORDER BY origin, row"
    content = write_parquet(staging.connection, ordered, draft)
    path = quarantine / f"{table}-{content[:16]}.parquet"
    try:
        if not path.exists():
            put_into_place(draft, path)
    except OSError as err:
        raise InputError(
            f"cannot write to the quarantine {quarantine}: {err.strerror}; "
            "give it a folder that may be written, with MILLWRIGHT_HOME"
        ) from err
    return path


def _originals(staging: Staging, table: str, number: int) -> str:
    """SQL for the refused rows of a part, cell by cell as text, with where and why."""
    part = staging.parts[table][number]
    if part.is_csv:
        forget_rejects(staging.connection)
    sources = [column.source for column in columns(staging.fleet, table)]
    reasons = ", ".join(
        f"CASE WHEN refusals & {bit(reason)} > 0 THEN '{reason}' END" for reason in REASONS
    )
    # The data may call its columns anything, so they go by their places.
    cells = ", ".join(f"c{place}" for place in range(len(sources)))
    headings = _headings(sources)
    texts = ", ".join(
        f"c{sources.index(source)}::VARCHAR AS {quoted(heading)}"
        for source, heading in headings.items()
    )
    nulls = ", ".join("NULL" for _ in headings)
    malformed = f"FROM malformed_{table} WHERE part = {number}"
    # The reader of CSV leaves malformed lines out, so rows behind them count on.
    before = f"SELECT position - row_number() OVER (ORDER BY position) AS good {malformed}"
    return (
        f"WITH refused AS MATERIALIZED (SELECT place - (SELECT min(place) FROM {table} "
        f"WHERE part = {number}) + 1 AS place, list_filter([{reasons}], lambda reason: "
        f"reason IS NOT NULL) AS reasons FROM {table} WHERE part = {number} AND refusals > 0), "
        f"shifts AS MATERIALIZED ({before}) "
        f"SELECT reasons[1] AS reason, reasons, {literal(part.origin)} AS origin, place + "
        "(SELECT count(*) FROM shifts WHERE good < place) AS row, NULL::VARCHAR AS line, "
        f"{texts} FROM (SELECT * EXCLUDE ({NUMBER}), row_number() OVER () FROM ({part.rows})) "
        f"AS data({cells}, place) JOIN refused USING (place) UNION ALL "
        f"SELECT 'malformed_row', ['malformed_row'], {literal(part.origin)}, position, line, "
        f"{nulls} {malformed}"
    )


def _headings(sources: Iterable[str]) -> dict[str, str]:
    """What columns of the data are called beside the notes: no two are the same to DuckDB."""
    taken, headings = set(_NOTES), {}
    for source in dict.fromkeys(sources):
        heading = source
        while heading.lower() in taken:
            heading += "_"
        taken.add(heading.lower())
        headings[source] = heading
    return headings
