"""All rows that cut-offs may find, read by one COPY and searched on this side of it.

Where there are about as many cut-offs as rows, as in training, nearly every row is an answer and
has to come anyway. Sorting numbers here is several times faster than sorting rows there.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millwright.sql import quoted
from millwright.stores.asof_search import NEVER, Numbers, Rows, search
from millwright.stores.postgres_cutoffs import Given, taken
from millwright.stores.postgres_search import Search

# Rows come in the order of the table if nothing but one scan from its beginning can be planned.
IN_ORDER = (
    "synchronize_seqscans", "enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan",
)  # fmt: skip
CODES = 2**62
FIRST, LAST = "timestamptz '4713-01-02 00:00 BC'", "timestamptz '290000-01-01 00:00'"


def is_comparable(search: Search, given: Given) -> bool:
    """Whether keys are equal here just when they are equal there."""
    if any(key.column in search.table.loose for key in search.keys):
        return False
    _, keys = given.numbers.numbered(tuple(key.name for key in search.keys))
    several = math.prod(len(column) for column in keys.columns[:-1])
    return search.has_common_types() and (len(search.keys) < 2 or several < CODES)


def scanned(asked: Search, given: Given, features: Sequence[str]) -> "list[pa.Array[Any]]":
    """The `features` of the row that counts at each cut-off, null where there is none."""
    session, table = asked.session, asked.table
    both = asked.as_known and asked.created is not None
    created = table.time(asked.created) if asked.created else "NULL::timestamptz"
    times = [f"{_finite(table.time(asked.event))} AS event", f"{_finite(created)} AS created"]
    keys = [f"s.{quoted(key.column)} AS k{n}" for n, key in enumerate(asked.keys)]
    values = [f"{table.value(column)} AS f{n}" for n, column in enumerate(features)]
    known = [asked.in_reach(), *([f"{created} IS NOT NULL"] if both else [])]
    selected = ", ".join([*keys, *times, *values])
    for setting in IN_ORDER:
        session.run(f"SET LOCAL {setting} = off")
    session.run("SET LOCAL max_parallel_workers_per_gather = 0")
    rows = session.fetch(f"SELECT {selected} FROM {table.sql} AS s WHERE {' AND '.join(known)}")
    for setting in [*IN_ORDER, "max_parallel_workers_per_gather"]:
        session.run(f"SET LOCAL {setting} TO DEFAULT")
    numbers, wanted = given.numbers.numbered(tuple(key.name for key in asked.keys))
    keys_of = _numbers(rows, wanted)
    ours = np.flatnonzero(keys_of >= 0)
    found = search(
        Rows(
            keys_of[ours],
            _microseconds(rows["event"])[ours],
            _microseconds(rows["created"])[ours],
            ours,
        ),
        numbers,
        given.numbers.times,
        as_known=both,
        life=asked.life,
    )
    places = np.where(found >= 0, ours[found], -1) if len(ours) else found
    return taken(rows.columns[len(keys) + 2 :], places)


def _finite(time: str) -> str:
    """SQL for `time`, or for one before or after all others that Arrow has too."""
    return f"CASE {time} WHEN 'infinity' THEN {LAST} WHEN '-infinity' THEN {FIRST} ELSE {time} END"


def _numbers(rows: pa.Table, wanted: pa.Table) -> Numbers:
    """The numbers of the rows' keys among those `wanted`, -1 if a key is not."""
    known = np.ones(rows.num_rows, bool)
    codes, ours = np.zeros(rows.num_rows, np.int64), np.zeros(wanted.num_rows, np.int64)
    for name in wanted.column_names[:-1]:
        kind = pa.int64() if pa.types.is_integer(wanted[name].type) else pa.string()
        values = wanted[name].cast(kind).unique()
        places, mine = (_places(column.cast(kind), values) for column in (rows[name], wanted[name]))
        known &= places >= 0
        codes = codes * len(values) + places
        ours = ours * len(values) + mine
    order = np.argsort(ours)
    at = np.clip(np.searchsorted(ours[order], codes), 0, len(order) - 1)
    numbers: Numbers = np.where(known & (ours[order][at] == codes), order[at], -1)
    return numbers


def _places(column: Any, values: Any) -> Numbers:
    """Where in `values` each value is, -1 if it is not there."""
    found: Numbers = pc.index_in(column, value_set=values).fill_null(-1).to_numpy()
    return found.astype(np.int64)


def _microseconds(times: Any) -> Numbers:
    found: Numbers = times.cast(pa.int64()).fill_null(NEVER).to_numpy()
    return found
