"""Where a table of parquet files is: on this machine or in S3.

What speaks to S3 takes 0.2 s to import, so it is imported where a table is there.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from millwright.stores import parquet_files
from millwright.stores.parquet_files import Table

SCHEME = "s3://"


@dataclass(frozen=True)
class S3Place:
    """Where a table is, or is to be: `s3://bucket/key`, at an endpoint if not at AWS's own."""

    url: str
    endpoint: str | None = None

    @property
    def bucket(self) -> str:
        """The name of the bucket."""
        return self.url.removeprefix(SCHEME).partition("/")[0]

    @property
    def key(self) -> str:
        """The name of a file or folder in it; empty for all of it."""
        return self.url.removeprefix(SCHEME).partition("/")[2].strip("/")

    @property
    def folder(self) -> str:
        """What the names of all files below begin with."""
        return f"{self.key}/" if self.key else ""

    def __str__(self) -> str:
        return self.url


Place = Path | S3Place


def find(place: Place) -> Table:
    """List the files of the table at `place`; a missing folder is a table without rows.

    Raises:
        DataError: `place` names a file, and there is none.
        MillwrightError: the storage cannot be reached, or refuses.
    """
    if isinstance(place, Path):
        return parquet_files.find(place)
    from millwright.stores import object_storage

    return object_storage.find(place)


def exists(place: Place) -> bool:
    """Whether there is a file or folder of that name."""
    if isinstance(place, Path):
        return place.exists()
    from millwright.stores import object_storage

    return object_storage.exists(place)


def write(rows: pa.Table, place: Place) -> None:
    """Write a parquet file at `place`, or into it unless its name ends in `.parquet`.

    The file is there whole or not at all.
    """
    if isinstance(place, S3Place):
        from millwright.stores import object_storage

        object_storage.write(rows, place)
        return
    path = place if place.suffix == ".parquet" else place / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    pq.write_table(rows, unfinished)
    unfinished.replace(path)
