"""What the content of a table is called: a hash of its values, whoever wrote the file and how."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


class Content:
    """The content of a table that comes in batches, of whatever size."""

    def __init__(self) -> None:
        self._streams: dict[str, Any] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the next rows."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            _feed(self._streams, name, column)

    @property
    def hash(self) -> str:
        """A hash of all that was added."""
        digests = {name: stream.hexdigest() for name, stream in self._streams.items()}
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def content_hash(path: Path) -> str:
    """A hash of the columns of a parquet file, whoever wrote it and however it is laid out."""
    content = Content()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1 << 16):
            content.add(batch)
    return content.hash


def _feed(streams: dict[str, Any], name: str, column: Any) -> None:
    """Add `column` to the hashes of its values, so that chunks of any size give the same."""

    def add(part: str, values: Any) -> None:
        stream = streams.setdefault(f"{name}/{part}", hashlib.sha256())
        stream.update(np.ascontiguousarray(values).data)

    if pa.types.is_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), -1)
        add("lengths", lengths.to_numpy(zero_copy_only=False))
        _feed(streams, f"{name}/items", column.flatten())
    elif pa.types.is_string(column.type):
        lengths = pc.fill_null(pc.binary_length(column), -1)
        add("lengths", lengths.to_numpy(zero_copy_only=False))
        filled = pc.fill_null(column, "")
        _, offsets, text = filled.buffers()
        ends = np.frombuffer(offsets, np.int32)[filled.offset : filled.offset + len(filled) + 1]
        add("text", np.frombuffer(text or b"", np.uint8)[ends[0] : ends[-1]])
    elif pa.types.is_floating(column.type):  # no stored number is NaN, so NaN can stand for null
        add("values", pc.fill_null(column, float("nan")).to_numpy(zero_copy_only=False))
    else:
        whole = pc.fill_null(column.cast(pa.int64()), np.iinfo(np.int64).min)
        add("values", whole.to_numpy(zero_copy_only=False))
