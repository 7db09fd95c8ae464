"""The features of the rows that a search found, put beside the cut-offs.

A view's files are read once, in their order, and only rows that were found are kept: in memory, or
where they would take too much of it, in files on disk, one for each stretch of the cut-offs. So
a result of any length and width is made a stretch at a time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from millwright.errors import BusyError
from millwright.stores.asof_search import Numbers

Columns: TypeAlias = "list[pa.ChunkedArray[Any]]"


@dataclass(frozen=True)
class Matches:
    """Which rows were found: their numbers `ids`, rising, and for each cut-off a place in `ids`.

    The place is -1 where nothing was found.
    """

    ids: Numbers
    places: Numbers


@dataclass(frozen=True)
class Stretch:
    """Some of the cut-offs: those from `first` up to `last`, which is not among them."""

    first: int
    last: int


class Features(Protocol):
    """The features of one view for all cut-offs."""

    def of(self, stretch: Stretch) -> Columns:
        """The columns for some of the cut-offs, null where nothing was found."""


def fetch(
    reader: pa.RecordBatchReader,
    matches: Matches,
    stretches: list[Stretch],
    memory: int | None,
    folder: Path,
) -> Features:
    """Read the rows found; more than `memory` bytes of them go to files in `folder`.

    `reader` gives the features, and as last column the numbers of the rows, which rise.

    Raises:
        BusyError: a row that was found is not there any more.
    """
    schema = pa.schema(list(reader.schema)[:-1])
    kept: list[pa.RecordBatch] = []
    spilled: _Spilled | None = None
    first = taken = 0
    for rows in _found(reader, matches.ids):
        if spilled is None:
            kept.append(rows)
            taken += rows.nbytes
            if memory is None or taken <= memory:
                continue
            spilled = _Spilled(folder, schema, matches, stretches)
        for part in kept or [rows]:
            spilled.add(first, part)
            first += part.num_rows
        kept.clear()
    total = first + sum(part.num_rows for part in kept)
    if total != len(matches.ids):
        raise BusyError("rows vanished while they were being read; run this again")
    if spilled is not None:
        spilled.close()
        return spilled
    return _Kept(pa.Table.from_batches(kept, schema).combine_chunks(), matches.places)


def _found(reader: pa.RecordBatchReader, ids: Numbers) -> Iterator[pa.RecordBatch]:
    """The rows whose numbers are `ids`, in their order."""
    if not len(ids):
        return
    features = list(range(len(reader.schema) - 1))
    for batch in reader:
        numbers = batch.column(len(features)).to_numpy()
        first, last = np.searchsorted(ids, [numbers[0], numbers[-1] + 1])
        if first == last:
            continue
        rows = batch.select(features)
        if last - first < batch.num_rows:
            rows = rows.take(np.searchsorted(numbers, ids[first:last]))
        yield rows


@dataclass(frozen=True)
class _Kept:
    """The rows found, in memory."""

    rows: pa.Table
    places: Numbers

    def of(self, stretch: Stretch) -> Columns:
        return _gathered(self.rows, self.places[stretch.first : stretch.last])


@dataclass
class _Spilled:
    """The features on disk, a file for each stretch, already repeated for every cut-off."""

    folder: Path
    schema: pa.Schema
    matches: Matches
    stretches: list[Stretch]
    order: Numbers = field(init=False)
    starts: Numbers = field(init=False)
    files: dict[Stretch, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Sort the cut-offs by the place of what they found, and open the files."""
        places = self.matches.places
        self.order = np.argsort(places, kind="stable")
        self.starts = np.searchsorted(places[self.order], np.arange(len(self.matches.ids) + 1))
        self.folder.mkdir(parents=True)
        numbered = self.schema.append(pa.field("cutoff", pa.int64()))
        self.files = {
            stretch: pa.ipc.new_stream(self._path(stretch), numbered) for stretch in self.stretches
        }

    def add(self, first: int, rows: pa.RecordBatch) -> None:
        """Take the rows found whose places begin at `first`."""
        start, end = self.starts[[first, first + rows.num_rows]]
        most = self.stretches[0].last - self.stretches[0].first
        for begin in range(start, end, most):  # many cut-offs may have found one row
            cutoffs = np.sort(self.order[begin : min(begin + most, end)])
            taken = rows.take(self.matches.places[cutoffs] - first)
            taken = taken.append_column("cutoff", pa.array(cutoffs))
            ends = np.searchsorted(cutoffs, [stretch.last for stretch in self.stretches])
            for stretch, low, high in zip(self.stretches, [0, *ends], ends, strict=False):
                if low < high:
                    self.files[stretch].write_batch(taken.slice(low, high - low))

    def close(self) -> None:
        """End the files."""
        for file in self.files.values():
            file.close()

    def of(self, stretch: Stretch) -> Columns:
        with pa.OSFile(self._path(stretch), "rb") as source, pa.ipc.open_stream(source) as file:
            rows = file.read_all().combine_chunks()
        places = np.full(stretch.last - stretch.first, -1)
        places[rows.column("cutoff").to_numpy() - stretch.first] = np.arange(rows.num_rows)
        return _gathered(rows.drop_columns("cutoff"), places)

    def _path(self, stretch: Stretch) -> str:
        return str(self.folder / f"{stretch.first}.arrow")


def _gathered(rows: pa.Table, places: Numbers) -> Columns:
    """Arrow gathers a column at a time, where a database would sort whole rows."""
    order: Any = pa.array(places, mask=places < 0)
    return [column.take(order) for column in rows.columns]


def batches(rows: pa.Table, most: int) -> Iterator[pa.RecordBatch]:
    """Cut a table into batches of at most `most` rows; one at least, which may be empty."""
    yield from rows.combine_chunks().to_batches(max_chunksize=most) or [
        pa.RecordBatch.from_arrays(
            [pa.array([], kind) for kind in rows.schema.types], schema=rows.schema
        )
    ]


def stretches(total: int, most: int) -> Iterable[Stretch]:
    """Cut `total` cut-offs into stretches of at most `most`; one at least, which may be empty."""
    for first in range(0, max(total, 1), most):
        yield Stretch(first, min(first + most, total))
