"""Which row of a history was the newest one known at a point in time: an exact ASOF join.

A row of a history has the time when it was true (its event time) and the time when it became known
(its created time). For a cut-off T, of the rows that are visible the newest by event time counts,
then the last created one, then the last in the files; and it counts only if it is not older than
its time to live. A row is visible if event <= T, and with `as_known` also created <= T.

Both conditions are one, `max(event, created) <= T`, but the row that became visible last need not
be the newest one: a correction of an old row comes after newer rows. So the rows of a key are put
into the order in which they become visible, a running maximum says which one was the newest at each
of these moments, and the last moment before a cut-off has its answer. All of that happens on the
keys and the times alone (`asof_search`). The wide columns are fetched at the end, for the rows
found (`asof_features`).

Other ways pair every cut-off with all earlier rows of its key and drop all but one of the pairs.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millwright.errors import DataError, InputError
from millwright.sql import quoted
from millwright.stores.asof_features import (
    Features,
    Matches,
    Stretch,
    batches,
    fetch,
    stretches,
)
from millwright.stores.asof_keys import Cutoffs, Sorted, comparable
from millwright.stores.asof_search import (
    BYTES_A_ROW,
    NEVER,
    Numbers,
    Rows,
    merged,
    ranked,
    search,
)
from millwright.stores.duckdb_reader import reader, share, spill_folder
from millwright.stores.parquet_files import (
    ROW_NUMBER,
    Table,
    check,
    columns,
    reading,
    within,
)
from millwright.stores.progress import counting

FOREVER = 2**61  # microseconds: longer than any two timestamps are apart
STRETCHES = 256  # of a streamed result, each with a file for each view


@dataclass(frozen=True)
class History:
    """The rows of one feature view over time.

    `keys` maps columns of the cut-offs to columns of the files; empty, a row concerns everybody.
    `event` and `created` are the columns of the two times. `features` maps columns of the result
    to columns of the files, and `types` gives their types for when there are no files yet.
    """

    name: str
    files: Table
    keys: Mapping[str, str]
    event: str
    created: str | None
    features: Mapping[str, str]
    types: Mapping[str, pa.DataType]
    time_to_live: timedelta | None = None

    @property
    def life(self) -> int:
        """The time to live in microseconds; none, and one of nothing, mean no limit."""
        if not self.time_to_live:
            return FOREVER
        return min(self.time_to_live // timedelta(microseconds=1), FOREVER)


def join(
    connection: duckdb.DuckDBPyConnection,
    cutoffs: pa.Table,
    timestamp: str,
    histories: Sequence[History],
    *,
    as_known: bool,
) -> pa.Table:
    """Add to `cutoffs` the features of each history as of the time in column `timestamp`.

    The result has the rows of `cutoffs` in their order, its columns as they were, and null where
    nothing was found. A null key or time finds nothing; a time without a zone is in UTC.

    Raises:
        InputError: the cut-offs lack a column, or have one of the name of a feature.
        DataError: the files of a history lack a column, or it has the wrong type.
        BusyError: the files of a history were changed at the same time.
    """
    check_cutoffs(cutoffs, timestamp, histories)
    everything = Stretch(0, cutoffs.num_rows)
    given, result = Cutoffs(cutoffs, to_microseconds(cutoffs[timestamp])), cutoffs
    for history in histories:
        features = _features(connection, history, given, [everything], as_known=as_known)
        for name, column in zip(history.features, features.of(everything), strict=True):
            result = result.append_column(name, column)
    return result


def stream(
    connection: duckdb.DuckDBPyConnection,
    cutoffs: pa.Table,
    timestamp: str,
    histories: Sequence[History],
    rows_at_once: int,
    *,
    as_known: bool,
) -> Iterator[pa.RecordBatch]:
    """The result of `join` in batches of at most `rows_at_once` rows, and at least one batch.

    What does not fit a part of the memory limit waits in the spill folder of `connection`.
    """
    check_cutoffs(cutoffs, timestamp, histories)
    size = max(rows_at_once, -(-cutoffs.num_rows // STRETCHES))
    parts = list(stretches(cutoffs.num_rows, size))
    given = Cutoffs(cutoffs, to_microseconds(cutoffs[timestamp]))
    memory = share(connection) // max(len(histories), 1)
    found = [
        _features(connection, history, given, parts, as_known=as_known, memory=memory)
        for history in histories
    ]
    with counting("rows joined", cutoffs.num_rows) as advance:
        for part in parts:
            rows = cutoffs.slice(part.first, part.last - part.first)
            for history, features in zip(histories, found, strict=True):
                for name, column in zip(history.features, features.of(part), strict=True):
                    rows = rows.append_column(name, column)
            yield from batches(rows, rows_at_once)
            advance(rows.num_rows)


def to_microseconds(times: "pa.ChunkedArray[Any]") -> "pa.ChunkedArray[Any]":
    """`times` as whole microseconds in UTC, rounded down."""
    kind = times.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        times = pc.floor_temporal(times.cast(pa.timestamp("ns", tz="UTC")), unit="microsecond")
    return times.cast(pa.timestamp("us", tz="UTC"))


def check_cutoffs(cutoffs: pa.Table, timestamp: str, histories: Sequence[History]) -> None:
    """Refuse cut-offs that cannot be joined, as `join` would."""
    taken = set(cutoffs.column_names)
    if timestamp not in taken:
        raise InputError(f"the cut-offs have no column '{timestamp}'; add it")
    kind = cutoffs.schema.field(timestamp).type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise InputError(f"the cut-offs' column '{timestamp}' is {kind}; make it a timestamp")
    for history in histories:
        for key in history.keys:
            if key not in cutoffs.column_names:
                raise InputError(
                    f"the cut-offs have no column '{key}', by which '{history.name}' is joined; "
                    "add it"
                )
        for feature in history.features:
            if feature in taken:
                raise InputError(
                    f"there are two columns '{feature}', one of them a feature of "
                    f"'{history.name}'; use full feature names, or drop the other"
                )
            taken.add(feature)


@dataclass(frozen=True)
class _Nothing:
    """The features of a view in which nothing can be found."""

    types: Sequence[pa.DataType]

    def of(self, stretch: Stretch) -> "list[pa.ChunkedArray[Any]]":
        size = stretch.last - stretch.first
        return [pa.chunked_array([pa.nulls(size).cast(kind)]) for kind in self.types]


def _features(
    connection: duckdb.DuckDBPyConnection,
    history: History,
    given: Cutoffs,
    parts: list[Stretch],
    *,
    as_known: bool,
    memory: int | None = None,
) -> Features:
    """The features of `history` for all cut-offs; what takes more than `memory` bytes spills."""
    names = tuple(history.keys)
    asked, (_, keys) = given.sorted(names), given.numbered(names)
    if not history.files.paths or not len(asked.rows):
        return _Nothing([history.types[name] for name in history.features])
    with reading(history.files):
        kinds = columns(connection, history.files)
        connection.register("keys", keys)
        _check_history(connection, history, kinds)
        oldest = int(asked.times.min()) - history.life if history.time_to_live else None
        span = within(history.event, kinds[history.event], oldest, int(asked.times.max()))
        query = f"SELECT count(*) FROM {history.files.sql}"
        total: int = connection.execute(query).fetchall()[0][0]
        with counting(f"rows of {history.name} searched", total) as advance:
            ids, ranks, events = _search(
                connection, history, asked, len(keys), span, total, advance, as_known=as_known
            )
        places = np.full(len(given.times), -1)
        places[asked.rows] = ranks
        span = within(history.event, kinds[history.event], *events)
        folder = spill_folder(connection) / uuid.uuid4().hex
        with counting(f"rows of {history.name} read", total) as advance:
            rows = reader(connection, _wide(history, span), advance)
            return fetch(rows, Matches(ids, places), parts, memory, folder)


def _check_history(
    connection: duckdb.DuckDBPyConnection,
    history: History,
    kinds: Mapping[str, str],
) -> None:
    times = [history.event, history.created] if history.created else [history.event]
    check(history.files, kinds, [*history.keys.values(), *history.features.values()], times)
    asked = {row[0]: row[1] for row in connection.execute("DESCRIBE keys").fetchall()}
    for index, (name, column) in enumerate(history.keys.items()):
        kind = asked[f"k{index}"]
        if not comparable(kind, kinds[column]):
            raise DataError(
                f"key '{name}' is {kind} in the cut-offs, but '{column}' is {kinds[column]} in "
                f"{history.files.place}; give them one type"
            )


def _search(
    connection: duckdb.DuckDBPyConnection,
    history: History,
    asked: Sorted,
    keys: int,
    span: str,
    total: int,
    advance: Callable[[int], None],
    *,
    as_known: bool,
) -> tuple[Numbers, Numbers, tuple[int, int]]:
    """The numbers of the rows found, rising; which of them each cut-off found; their event times.

    As many of the `keys` are searched at once as there is memory for, with `total` rows in all.
    """
    both = as_known and history.created is not None
    blocks = max(total * BYTES_A_ROW // max(share(connection), 1), 1)
    size = -(-keys // blocks)
    found, first, last = [], FOREVER, -FOREVER
    for low in range(0, keys, size):
        query = _narrow(history, span, (low, low + size), both=both)
        table = reader(connection, query, advance).read_all()
        rows = Rows(*(each.to_numpy() for each in table.columns))
        part = slice(*np.searchsorted(asked.keys, [low, low + size]))
        places = search(rows, asked.keys[part], asked.times[part], as_known=both, life=history.life)
        found.append(ranked(rows.id, places))
        events = rows.event[places[places >= 0]]
        first = min(first, int(events.min(initial=FOREVER)))
        last = max(last, int(events.max(initial=-FOREVER)))
    return *merged(found), (first, last)


def _narrow(history: History, span: str, keys: tuple[int, int], *, both: bool) -> str:
    """SQL for the keys and times of the rows that may be found."""
    equal = [
        f"s.{quoted(column)} = keys.k{index}" for index, column in enumerate(history.keys.values())
    ]
    event = f"epoch_us(s.{quoted(history.event)})"
    created = f"epoch_us(s.{quoted(history.created)})" if history.created else "NULL"
    known = [span, f"{event} IS NOT NULL", *([f"{created} IS NOT NULL"] if both else [])]
    return f"""
        SELECT keys.key::BIGINT AS key, {event} AS event,
            coalesce({created}, {NEVER}) AS created, {ROW_NUMBER} AS id
        FROM {history.files.sql}
        JOIN (SELECT * FROM keys WHERE key >= {keys[0]} AND key < {keys[1]}) AS keys
            ON {" AND ".join(["true", *equal])}
        WHERE {" AND ".join(known)}
    """


def _wide(history: History, span: str) -> str:
    """SQL for the features of all rows of a span, and last the numbers of the rows."""
    features = [
        f"s.{quoted(column)} AS f{index}" for index, column in enumerate(history.features.values())
    ]
    selected = ", ".join([*features, f"{ROW_NUMBER} AS id"])
    return f"SELECT {selected} FROM {history.files.sql} WHERE {span}"
