"""The cut-offs of an ASOF join as numbers: their times, and a number for the keys of each."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millwright.errors import InputError
from millwright.stores.asof_search import Numbers

# With those that end in INT, the types of DuckDB's whose values are numbers.
NUMBERS = ("INTEGER", "UINTEGER", "FLOAT", "DOUBLE", "DECIMAL")


@dataclass(frozen=True)
class Sorted:
    """The cut-offs that can find something, in the order of their keys, then of their times.

    `rows` are their places among all cut-offs, `keys` the numbers of their keys from 0 on, and
    `times` are in microseconds.
    """

    rows: Numbers
    keys: Numbers
    times: Numbers


class Cutoffs:
    """The cut-offs of a join, and the same as numbers for each set of keys asked for."""

    def __init__(self, table: pa.Table, instants: Any) -> None:
        times = instants.cast(pa.int64())
        self.table = table
        self.known = times.is_valid().to_numpy()
        self.times: Numbers = times.fill_null(0).to_numpy()
        self._numbered: dict[tuple[str, ...], tuple[Numbers, pa.Table]] = {}
        self._sorted: dict[tuple[str, ...], Sorted] = {}

    def numbered(self, names: tuple[str, ...]) -> tuple[Numbers, pa.Table]:
        """A number for the keys of each cut-off, -1 if it finds nothing, and a table of the keys.

        Its columns are `k0`, `k1` and so on, and `key`, their number.
        """
        if names not in self._numbered:
            self._numbered[names] = self._number(names)
        return self._numbered[names]

    def sorted(self, names: tuple[str, ...]) -> Sorted:
        """The cut-offs that have a time and all keys of these `names`."""
        if names not in self._sorted:
            numbers, _ = self.numbered(names)
            rows = np.flatnonzero(numbers >= 0)
            rows = rows[_order(numbers[rows], self.times[rows])]
            self._sorted[names] = Sorted(rows, numbers[rows], self.times[rows])
        return self._sorted[names]

    def _number(self, names: tuple[str, ...]) -> tuple[Numbers, pa.Table]:
        known, codes = self.known.copy(), np.zeros(len(self.times), np.int64)
        for name in names:
            column = _encoded(self.table[name], name)
            known &= column.indices.is_valid().to_numpy(zero_copy_only=False)
            codes = codes * max(len(column.dictionary), 1) + column.indices.fill_null(0).to_numpy()
            if len(names) > 1:
                # What there is of them together stays a small number, however many keys there are.
                codes = np.unique(codes, return_inverse=True)[1]
        firsts = np.full(int(codes.max(initial=-1)) + 1, -1)
        rows = np.flatnonzero(known)
        firsts[codes[rows]] = rows
        used = firsts >= 0
        first: Any = pa.array(firsts[used])
        keys = {f"k{i}": _plain(self.table[name]).take(first) for i, name in enumerate(names)}
        keys["key"] = pa.array(np.arange(int(used.sum())), pa.int32())
        return np.where(known, (np.cumsum(used) - 1)[codes], -1), pa.table(keys)


def comparable(kind: str, other: str) -> bool:
    """Whether values of two of DuckDB's types can be equal.

    DuckDB itself would read numbers out of text, and fail at the first that is none.
    """
    return _family(kind) == _family(other)


def _family(kind: str) -> str:
    if kind.startswith(("DATE", "TIMESTAMP")):
        return "time"
    return "number" if kind.endswith("INT") or kind.startswith(NUMBERS) else kind


def _order(keys: Numbers, times: Numbers) -> Numbers:
    """The order by key, then by time: by both as one number where that is large enough."""
    if not len(keys):
        return keys
    first, size = int(times.min()), int(times.max()) - int(times.min()) + 1
    if size * (int(keys.max()) + 1) < 2**62:
        return np.argsort(keys * size + (times - first))
    return np.lexsort((times, keys))


def _encoded(column: "pa.ChunkedArray[Any]", name: str) -> "pa.DictionaryArray[Any, Any]":
    """A number for each value; what is not a number is null, as pandas has it."""
    plain = _plain(column)
    try:
        if pa.types.is_floating(plain.type):
            plain = pc.if_else(pc.is_nan(plain), None, plain)
        return plain.dictionary_encode()
    except pa.ArrowNotImplementedError as err:
        raise InputError(
            f"key '{name}' is {column.type} in the cut-offs; make it text, a whole number or a time"
        ) from err


def _plain(column: "pa.ChunkedArray[Any]") -> "pa.Array[Any]":
    """A column of categories as what they stand for, and a view of text as text."""
    kind = column.type
    plain: Any = column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column
    if pa.types.is_string_view(plain.type):
        plain = plain.cast(pa.large_string())
    elif pa.types.is_binary_view(plain.type):
        plain = plain.cast(pa.large_binary())
    found = plain.combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)
