"""Parquet in S3, and in whatever speaks its protocol, read where it lies.

DuckDB asks for the ranges that a query needs, and each becomes one request. Each request names the
version (the ETag) of the object that was listed, so the storage itself refuses an object that was
changed meanwhile.
"""

import io
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from glob import escape
from typing import IO, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from botocore import exceptions
from fsspec import AbstractFileSystem

from millwright.errors import DataError, MillwrightError, first_line
from millwright.sql import literal
from millwright.stores.parquet_files import hidden
from millwright.stores.places import SCHEME, S3Place, appended, part, write_parquet
from millwright.stores.s3 import client_of, named

READS = 3  # attempts at a range; the first ones may break off in the middle


@dataclass(frozen=True)
class Object:
    """A file in a bucket, in the version that was listed."""

    bucket: str
    key: str
    size: int
    version: str
    modified: datetime


@dataclass(frozen=True)
class Objects:
    """The parquet files at `place`, in order of their names: a `parquet_files.Table`."""

    place: S3Place
    storage: "Storage"

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, by the names that DuckDB knows them by."""
        return tuple(self.storage.objects)

    @property
    def sql(self) -> str:
        """The table in the FROM clause of a query, under the name `s`."""
        files = ", ".join(literal(escape(path)) for path in self.paths)
        return f"read_parquet([{files}], hive_partitioning=false, union_by_name=true) AS s"

    def versions(self) -> None:
        """Each request says which version it means, so there is nothing to compare."""

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Have `connection` know the files."""
        if not connection.filesystem_is_registered(self.storage.protocol):
            connection.register_filesystem(self.storage)

    def schema(self) -> pa.Schema:
        """The columns of the first file."""
        with self.storage.open(self.paths[0]) as file:
            return pq.read_schema(pa.PythonFile(file, mode="r"))

    def explain(self, err: duckdb.Error) -> MillwrightError:
        """Why they cannot be read."""
        said = first_line(err).replace(f"{self.storage.protocol}://", SCHEME)
        return self.storage.failure or DataError(f"cannot read {self.place}: {said}")


def find(place: S3Place) -> Objects:
    """List the files of the table at `place`; a missing folder is a table without rows.

    Raises:
        ConfigurationError: there is no such bucket, or it is not for these credentials.
        DataError: `place` names a file, and there is none.
        MillwrightError: the endpoint cannot be reached.
    """
    with named(place):
        client = client_of(place)
        found = [*_at(client, place)] or [*_below(client, place)]
    if not found and place.key.endswith(".parquet"):
        raise DataError(f"there is no file {place}; write it, or name a folder of parquet files")
    return Objects(place, Storage(client, place, found))


def exists(place: S3Place) -> bool:
    """Whether there is a file of that name, or one below it."""
    with named(place):
        client = client_of(place)
        listed = client.list_objects_v2(Bucket=place.bucket, Prefix=place.folder, MaxKeys=1)
        return bool(listed["KeyCount"]) or any(_at(client, place))


def write(batches: Iterable[pa.RecordBatch], place: S3Place) -> None:
    """Write a parquet file at `place`, or into it unless its name ends in `.parquet`.

    The file is there whole or not at all.
    """
    is_file = place.key.endswith(".parquet")
    _upload(batches, place, place.key if is_file else f"{place.folder}part.parquet")


def rewrite(batches: Callable[[Objects | None], Iterable[pa.RecordBatch]], place: S3Place) -> None:
    """Write a table that is a single file anew, if it is still the version that was listed."""
    files = find(place) if exists(place) else None
    versions = {file.key: file.version for file in files.storage.objects.values()} if files else {}
    if files and [*versions] != [place.key]:
        raise DataError(f"{place} is a folder; give it a name that does not end in .parquet")
    there = {"IfMatch": versions[place.key]} if files else {"IfNoneMatch": "*"}
    with tempfile.TemporaryFile() as draft:
        write_parquet(batches(files), draft)
        draft.seek(0)
        with named(place):
            client_of(place).put_object(Bucket=place.bucket, Key=place.key, Body=draft, **there)


def append(rows: pa.Table, place: S3Place) -> None:
    """Add a file to the folder at `place`, unless one with this content was added before."""
    with named(place):
        keys = [file.key for file in _below(client_of(place), place)]
    with tempfile.TemporaryFile() as draft:
        write_parquet(rows.to_batches(), draft)
        draft.seek(0)
        name = appended(draft, [key.removeprefix(place.folder) for key in keys])
        if name is not None:
            _put(draft, place, f"{place.folder}{name}")


def write_parts(batches: Iterable[pa.RecordBatch], place: S3Place, name: str) -> list[str]:
    """Write one parquet file for each batch into a new folder `name` of `place`.

    Returns their URLs. All of them are there, or none, unless this process is killed.
    """
    keys: list[str] = []
    try:
        for number, batch in enumerate(batches):
            keys.append(f"{place.folder}{name}/{part(number)}")
            _upload([batch], place, keys[-1])
    except BaseException:
        with suppress(MillwrightError), named(place):
            for key in keys:
                client_of(place).delete_object(Bucket=place.bucket, Key=key)
        raise
    return [f"{SCHEME}{place.bucket}/{key}" for key in keys]


def _upload(batches: Iterable[pa.RecordBatch], place: S3Place, key: str) -> None:
    with tempfile.TemporaryFile() as draft:
        write_parquet(batches, draft)
        _put(draft, place, key)


def _put(draft: IO[bytes], place: S3Place, key: str) -> None:
    draft.seek(0)
    with named(place):
        client_of(place).upload_fileobj(draft, place.bucket, key)


class Storage(AbstractFileSystem):  # type: ignore[misc]
    """The objects of one table as a file system for DuckDB, under a protocol of its own.

    Another table may be at another endpoint, and a connection knows one file system a protocol.
    """

    cachable = False

    def __init__(self, client: Any, place: S3Place, objects: list[Object]) -> None:
        super().__init__()
        self.client = client
        self.place = place
        self.protocol = f"s3-{uuid.uuid4().hex}"
        self.objects = {f"{self.protocol}://{each.bucket}/{each.key}": each for each in objects}
        self.failure: MillwrightError | None = None  # which DuckDB would tell with a traceback

    def glob(self, path: str, **_: Any) -> list[str]:
        """The one file that a pattern with every special character escaped stands for."""
        return [re.sub(r"\[([*?[])\]", r"\1", path)]

    def open(self, path: str, *_: Any, **__: Any) -> io.RawIOBase:
        """Open a file to read ranges of it."""
        return Reader(self, self.objects[path])

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What is known of a file."""
        return {"name": path, "size": self.objects[path].size, "type": "file"}

    def modified(self, path: str) -> datetime:
        """When a file was last written."""
        return self.objects[path].modified

    def fetch(self, file: Object, first: int, size: int) -> bytes:
        """Some bytes of a file, in one request if all goes well."""
        try:
            with named(self.place):
                for _ in range(READS - 1):
                    with suppress(exceptions.HTTPClientError):  # it broke off, maybe half-way
                        return self._get(file, first, size)
                return self._get(file, first, size)
        except MillwrightError as err:
            self.failure = err
            raise

    def _get(self, file: Object, first: int, size: int) -> bytes:
        answer = self.client.get_object(
            Bucket=file.bucket,
            Key=file.key,
            Range=f"bytes={first}-{first + size - 1}",
            IfMatch=file.version,
        )
        found: bytes = answer["Body"].read()
        if len(found) != size:
            raise MillwrightError(
                f"{self.place}: asked for {size:,} bytes of a file, the storage gave {len(found):,}"
                "; it must answer requests for a range"
            )
        return found


class Reader(io.RawIOBase):
    """A file at which each read is a request."""

    def __init__(self, storage: Storage, file: Object) -> None:
        self._storage = storage
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; costs nothing."""
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}
        self._position = max(begin[whence] + offset, 0)
        return self._position

    def tell(self) -> int:
        """The place of the next byte."""
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as asked for, or all that are left."""
        left = max(self._file.size - self._position, 0)
        size = left if size is None or size < 0 else min(size, left)
        if not size:
            return b""
        found = self._storage.fetch(self._file, self._position, size)
        self._position += size
        return found

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as there are bytes."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def _at(client: Any, place: S3Place) -> Iterator[Object]:
    """The file of exactly that name, if there is one: it is listed first."""
    if place.key:
        listed = client.list_objects_v2(Bucket=place.bucket, Prefix=place.key, MaxKeys=1)
        for entry in listed.get("Contents", ()):
            if entry["Key"] == place.key:
                yield _object(place, entry)


def _below(client: Any, place: S3Place) -> list[Object]:
    """The parquet files of a folder, as `parquet_files.find` lists those of this machine."""
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=place.bucket, Prefix=place.folder
    )
    found = [
        _object(place, entry)
        for page in pages
        for entry in page.get("Contents", ())
        if entry["Key"].endswith(".parquet")
        and not hidden(entry["Key"].removeprefix(place.folder).split("/"))
    ]
    return sorted(found, key=lambda file: file.key.split("/"))


def _object(place: S3Place, entry: dict[str, Any]) -> Object:
    return Object(place.bucket, entry["Key"], entry["Size"], entry["ETag"], entry["LastModified"])
