"""Where a table of parquet files is: on this machine or in S3.

What speaks to S3 takes 0.2 s to import, so it is imported where a table is there.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from millwright.stores import drafts, parquet_files
from millwright.stores.parquet_files import Table

SCHEME = "s3://"
APPENDED = re.compile(r"rows-(?P<number>\d+)-(?P<content>[0-9a-f]{16})\.parquet")


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


def is_file(place: Place) -> bool:
    """Whether a table at `place` is a single file, or would be one."""
    if isinstance(place, Path):
        return place.is_file() or (place.suffix == ".parquet" and not place.is_dir())
    return place.key.endswith(".parquet")


def below(place: Place, folders: Sequence[str]) -> Place:
    """A folder below `place`."""
    if isinstance(place, Path):
        return place.joinpath(*folders)
    return S3Place("/".join([place.url.rstrip("/"), *folders]), place.endpoint)


def write(batches: Iterable[pa.RecordBatch], place: Place) -> None:
    """Write a parquet file at `place`, or into it unless its name ends in `.parquet`.

    The file is there whole or not at all. Whoever writes the same one meanwhile waits.
    """
    if isinstance(place, S3Place):
        from millwright.stores import object_storage

        object_storage.write(batches, place)
        return
    path = place if place.suffix == ".parquet" else place / "part.parquet"
    with drafts.drafted(path) as draft:
        write_parquet(batches, draft)


def rewrite(batches: Callable[[Table | None], Iterable[pa.RecordBatch]], place: Place) -> None:
    """Write a table that is a single file anew: `batches` of what is there, or of none.

    Whoever does so meanwhile on this machine waits; what another wrote is never lost.

    Raises:
        BusyError: a file in S3 was changed meanwhile.
        DataError: it is a folder in S3.
    """
    if isinstance(place, S3Place):
        from millwright.stores import object_storage

        object_storage.rewrite(batches, place)
        return
    with drafts.drafted(place) as draft:
        write_parquet(batches(find(place) if place.exists() else None), draft)


def append(rows: pa.Table, place: Place) -> None:
    """Add a file to the folder at `place`, unless one with this content was added before.

    The names of such files rise in the order in which they were added.
    """
    if isinstance(place, S3Place):
        from millwright.stores import object_storage

        object_storage.append(rows, place)
        return
    with drafts.unnamed(place, "rows") as (draft, unfinished):
        write_parquet(rows.to_batches(), draft)
        draft.seek(0)
        name = appended(draft, [path.name for path in place.iterdir()])
        if name is not None:
            draft.flush()
            unfinished.replace(place / name)


def appended(draft: IO[bytes], names: Iterable[str]) -> str | None:
    """What a file is called among others that were added to a folder; none, if it is there."""
    content = hashlib.sha256(draft.read()).hexdigest()[:16]
    there = [found for name in names if (found := APPENDED.fullmatch(name))]
    if any(found["content"] == content for found in there):
        return None
    number = max((int(found["number"]) for found in there), default=0) + 1
    return f"rows-{number:06}-{content}.parquet"


def write_parts(batches: Iterable[pa.RecordBatch], place: Place, name: str) -> list[str]:
    """Write one parquet file for each batch into a new folder `name` of `place`.

    Returns their paths or URLs. All of them are there, or none.
    """
    if isinstance(place, S3Place):
        from millwright.stores import object_storage

        return object_storage.write_parts(batches, place, name)
    names = []
    with drafts.folder_drafted(place / name) as unfinished:
        for number, batch in enumerate(batches):
            names.append(part(number))
            with (unfinished / names[-1]).open("wb") as file:
                write_parquet([batch], file)
    return [str(place / name / each) for each in names]


def part(number: int) -> str:
    """What a file among others is called, so that names have the order of the rows."""
    return f"part-{number:05}.parquet"


def write_parquet(batches: Iterable[pa.RecordBatch], file: IO[bytes]) -> None:
    """Write batches as the row groups of a parquet file. There must be at least one.

    Only text repeats often enough to be worth a dictionary.
    """
    writer = None
    try:
        for batch in batches:
            texts: Any = [*_texts(batch.schema)]
            writer = writer or pq.ParquetWriter(file, batch.schema, use_dictionary=texts)
            writer.write_batch(batch, row_group_size=max(batch.num_rows, 1))
    finally:
        if writer is not None:
            writer.close()


def _texts(schema: pa.Schema) -> Iterator[str]:
    for field in schema:
        if pa.types.is_string(field.type) or pa.types.is_dictionary(field.type):
            yield field.name
