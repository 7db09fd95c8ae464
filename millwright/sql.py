"""Names, values and files as they are written in DuckDB's SQL."""

import glob
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path


def quoted(name: str) -> str:
    """`name` as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """`value` as a string."""
    return "'" + value.replace("'", "''") + "'"


def moment(time: datetime) -> str:
    """`time`, which has a zone, as a timestamp."""
    return f"TIMESTAMPTZ '{time.astimezone(UTC).isoformat()}'"


def file(path: Path) -> str:
    """The file at `path`, and no other that its name could stand for as a pattern."""
    return literal(glob.escape(str(path)))


def files(paths: Iterable[Path]) -> str:
    """The files at `paths` as a list."""
    return f"[{', '.join(map(file, paths))}]"


def parquet(paths: Iterable[Path]) -> str:
    """The rows of parquet files; columns go by name, and names of folders are no columns."""
    return f"read_parquet({files(paths)}, hive_partitioning=false, union_by_name=true)"
