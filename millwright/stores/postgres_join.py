"""The exact point-in-time join of `asof_join`, done by PostgreSQL.

Of the rows visible at a cut-off T (event <= T, and with `as_known` also created <= T) the newest by
event time counts, then the last created one, then the last in the table, unless it is older than
its time to live. There are three ways to it, and the number of cut-offs chooses:

- few: each looks into an index on key, event and created time, newest first, and takes the first
  row that is visible;
- about as many as rows: all rows in reach come here and are searched as those of files are;
- any other number, or where keys compare otherwise here than there: rows are numbered from the
  oldest to the newest of their key, which is the order in which they count, and merged with the
  cut-offs in the order in which they become visible. The highest number so far is the answer: two
  sorts, however many cut-offs there are, and no index. The wide columns are fetched at the end.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from millwright.errors import DataError
from millwright.stores.asof_features import batches
from millwright.stores.asof_join import History, check_cutoffs
from millwright.stores.parquet_files import Files
from millwright.stores.postgres_cutoffs import Given, in_order
from millwright.stores.postgres_scan import is_comparable, scanned
from millwright.stores.postgres_search import Key, Search
from millwright.stores.postgres_server import Session, connect, translated
from millwright.stores.postgres_tables import (
    TEXTS,
    Source,
    Table,
    check,
    count,
    index,
    placed,
)
from millwright.stores.progress import counting

NOWHERE = Files(Path(), ())
# A look into the index takes as long as merging so many rows, and much longer from a cold disk.
ROWS_PER_LOOK = 8
# So many rows to a cut-off may be read to be searched on this side, where memory holds them.
ROWS_PER_CUTOFF = 4
# Cut-offs that are worth another session, which has to be given all of them.
MANY = 50_000
# Cut-offs that are joined together where the result is not to be whole in memory.
ROWS_STREAMED = 2**18
Columns: TypeAlias = "list[tuple[str, pa.Array[Any]]]"


@dataclass(frozen=True, kw_only=True)
class TableHistory(History):
    """The rows of one feature view over time, in PostgreSQL and in no files."""

    source: Source
    files: Files = NOWHERE


def join(
    session: Session,
    cutoffs: pa.Table,
    timestamp: str,
    histories: Sequence[TableHistory],
    *,
    as_known: bool,
    threads: int = 1,
) -> pa.Table:
    """Add to `cutoffs` the features of each history as of the time in column `timestamp`.

    The result has the rows of `cutoffs` in their order, its columns as they were, and null where
    nothing was found. A null key or time finds nothing; a time without a zone is in UTC. Of many
    cut-offs up to `threads` sessions search side by side, all in what `session` sees.

    Raises:
        InputError: the cut-offs lack a column, or have one of the name of a feature.
        DataError: the table of a history lacks a column, or it has the wrong type.
        MillwrightError: the server was lost on the way.
    """
    with counting("features joined", cutoffs.num_rows * len(histories)) as advance:
        return _join(
            session, cutoffs, timestamp, histories, advance, as_known=as_known, threads=threads
        )


def _join(
    session: Session,
    cutoffs: pa.Table,
    timestamp: str,
    histories: Sequence[TableHistory],
    advance: Callable[[int], None],
    *,
    as_known: bool,
    threads: int = 1,
) -> pa.Table:
    check_cutoffs(cutoffs, timestamp, histories)
    sessions = min(threads, len(histories)) if cutoffs.num_rows >= MANY else 1
    parts = [histories[number::sessions] for number in range(sessions)]

    def found(session: Session, part: int) -> list[Columns]:
        return _found(session, cutoffs, timestamp, parts[part], advance, as_known=as_known)

    snapshot = session.snapshot() if sessions > 1 else None

    def beside(part: int) -> list[Columns]:
        with connect(session.server, snapshot=snapshot) as another:
            return found(another, part)

    with ThreadPoolExecutor(sessions) as workers:
        begun = [workers.submit(beside, part) for part in range(1, sessions)]
        done = [found(session, 0), *(each.result() for each in begun)]
    result = cutoffs
    for number in range(len(histories)):
        for name, column in done[number % sessions][number // sessions]:
            result = result.append_column(name, column)
    return result


def stream(
    session: Session,
    cutoffs: pa.Table,
    timestamp: str,
    histories: Sequence[TableHistory],
    rows_at_once: int,
    *,
    as_known: bool,
) -> Iterator[pa.RecordBatch]:
    """The result of `join` in batches of at most `rows_at_once` rows, and at least one batch.

    As many cut-offs as memory surely holds are joined at a time, all in what `session` sees.
    """
    total = cutoffs.num_rows
    with counting("rows joined", total) as advance:
        for first in range(0, max(total, 1), ROWS_STREAMED):
            part = cutoffs.slice(first, ROWS_STREAMED)
            rows = _join(session, part, timestamp, histories, lambda _rows: None, as_known=as_known)
            yield from batches(rows, rows_at_once)
            advance(part.num_rows)


def _found(
    session: Session,
    cutoffs: pa.Table,
    timestamp: str,
    histories: Sequence[TableHistory],
    advance: Callable[[int], None],
    *,
    as_known: bool,
) -> list[Columns]:
    """The columns of each history."""
    # All at first: later, temporary tables could be taken for tables of the same name.
    tables = [history.source.find(session, n) for n, history in enumerate(histories)]
    given = Given(session, cutoffs, timestamp, histories)
    found = []
    for number, (history, table) in enumerate(zip(histories, tables, strict=True)):
        with translated(session.server, table.name):
            search = _search(session, history, table, given, number, as_known=as_known)
            if search is not None and search.table is table:
                _advise(search, given)
            found.append(
                _features(search, history, given)
                if search
                else _nothing(session, table, history, cutoffs.num_rows)
            )
        advance(cutoffs.num_rows)
    return found


def _search(
    session: Session,
    history: History,
    table: Table,
    given: Given,
    number: int,
    *,
    as_known: bool,
) -> Search | None:
    """What has to be searched; nothing, where nothing can be found."""
    if not table.exists:
        return None
    times = time_columns(history)
    names = [*history.keys.values(), *history.features.values()]
    check(table, names, times)
    if not given.finds(history):
        return None
    for name, column in history.keys.items():
        asked = given.kind(name)
        if (asked in TEXTS) != table.is_text(column):
            raise DataError(
                f"key '{name}' is {asked} in the cut-offs, but '{column}' is "
                f"{table.columns[column]} in "
                f"{table.name}; give them one type"
            )
    keys = [Key(k, given.key(k), given.kind(k), column) for k, column in history.keys.items()]
    search = Search(
        session, table, tuple(keys), history.event, history.created, history.life, as_known,
        given.span,
    )  # fmt: skip
    return replace(
        search, table=placed(session, table, [*names, *times], search.in_reach(), number)
    )


def time_columns(history: History) -> list[str]:
    """The columns that hold the times of `history`."""
    return [history.event, *filter(None, [history.created])]


def _nothing(session: Session, table: Table, history: History, size: int) -> Columns:
    """The columns of `history` as null, of the types that they would have."""
    if not table.exists:
        return [(name, pa.nulls(size).cast(kind)) for name, kind in history.types.items()]
    values = [
        f"{table.value(column)} AS f{n}" for n, column in enumerate(history.features.values())
    ]
    empty = session.fetch(f"SELECT {', '.join(values)} FROM {table.sql} AS s LIMIT 0")
    columns = [pa.nulls(size, field.type) for field in empty.schema]
    return list(zip(history.features, columns, strict=True))


def _features(search: Search, history: History, given: Given) -> Columns:
    """The columns of `history`, each as long as the cut-offs."""
    size = given.table.num_rows
    rows = search.table.rows or count(search.session, search.table)
    features = list(history.features.values())
    if size * ROWS_PER_LOOK < rows and search.is_indexed():
        given.copy()
        columns = in_order(search.look(features), size)
    elif size * ROWS_PER_CUTOFF >= rows and is_comparable(search, given):
        columns = scanned(search, given, features)
    else:
        given.number(history)
        columns = in_order(search.merge(features), size)
    return list(zip(history.features, columns, strict=True))


def _advise(search: Search, given: Given) -> None:
    """Say that a table has no index, where one would be looked into."""
    table, keys = search.table, [key.column for key in search.keys]
    few = given.table.num_rows * ROWS_PER_LOOK < table.rows
    if few and search.has_common_types() and not search.is_indexed():
        statement = index(table.sql, keys, search.event, search.created)
        _warn(f"{table.name} has no index for point-in-time joins, which read it all: {statement};")


@cache
def _warn(text: str) -> None:
    """Say `text` once."""
    logging.getLogger(__name__).warning(text)
