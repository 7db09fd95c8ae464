"""The exact point-in-time join of `asof_join`, done by PostgreSQL.

Of the rows visible at a cut-off T (event <= T, and with `as_known` also created <= T) the newest by
event time counts, then the last created one, then the last in the table, unless it is older than
its time to live. There are two ways to it, and the number of cut-offs chooses:

- few: each looks into an index on key, event and created time, newest first, and takes the first
  row that is visible;
- many: rows are numbered from the oldest to the newest of their key, which is the order in which
  they count, and merged with the cut-offs in the order in which they become visible. The highest
  number so far is the answer: two sorts, however many cut-offs there are, and no index.

Both yield places of rows, and the wide columns are fetched once, at the end, for the rows found.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from millwright.errors import DataError
from millwright.stores.asof_join import History, check_cutoffs, to_microseconds
from millwright.stores.parquet_files import Files
from millwright.stores.postgres_search import Key, Search
from millwright.stores.postgres_server import Session, connect, translated
from millwright.stores.postgres_tables import Source, Table, check

NOWHERE = Files(Path(), ())
# Cut-offs that are worth another session, which has to be given all of them.
MANY = 50_000
Columns: TypeAlias = "list[tuple[str, pa.Array[Any]]]"
TEXTS = ("text", "character varying", "character", "name")


@dataclass(frozen=True, kw_only=True)
class TableHistory(History):
    """The rows of one feature view over time, in PostgreSQL and in no files."""

    source: Source
    files: Files = NOWHERE


@dataclass(frozen=True)
class _Cutoffs:
    """What the search needs of the cut-offs: each row's number, its time and its keys.

    `kinds` gives PostgreSQL's types of the keys.
    """

    table: pa.Table
    keys: tuple[str, ...]
    kinds: dict[str, str]

    def key(self, name: str) -> str:
        """What the column `name` is called in SQL."""
        return f"k{self.keys.index(name)}"


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
    check_cutoffs(cutoffs, timestamp, histories)
    sessions = min(threads, len(histories)) if cutoffs.num_rows >= MANY else 1
    parts = [histories[number::sessions] for number in range(sessions)]

    def found(session: Session, part: int) -> list[Columns]:
        return _found(session, cutoffs, timestamp, parts[part], as_known=as_known)

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


def _found(
    session: Session,
    cutoffs: pa.Table,
    timestamp: str,
    histories: Sequence[TableHistory],
    *,
    as_known: bool,
) -> list[Columns]:
    """The columns of each history."""
    # All at first: later, temporary tables could be taken for tables of the same name.
    tables = [history.source.find(session, n) for n, history in enumerate(histories)]
    given = _load(session, cutoffs, timestamp, histories)
    found, numbered = [], None
    for number, (history, table) in enumerate(zip(histories, tables, strict=True)):
        if numbered != set(history.keys):
            _number(session, given, history)
            numbered = set(history.keys)
        with translated(session.server, table.name):
            search = _search(session, history, table, given, as_known=as_known)
            found.append(_features(search, history, given, number))
    return found


def _load(
    session: Session, cutoffs: pa.Table, timestamp: str, histories: Sequence[History]
) -> _Cutoffs:
    """Copy to the server what the search needs of the cut-offs."""
    keys = tuple(sorted({key for history in histories for key in history.keys}))
    given = _Cutoffs(cutoffs, keys, {})
    narrow = cutoffs.select(list(keys)).rename_columns(list(map(given.key, keys)))
    narrow = narrow.append_column("row", pa.array(np.arange(cutoffs.num_rows)))
    narrow = narrow.append_column("cutoff", to_microseconds(cutoffs[timestamp]))
    with translated(session.server, "the cut-offs"):
        session.run("DROP TABLE IF EXISTS asof_given")
        session.load("asof_given", narrow)
        session.run("ANALYZE asof_given")
        kinds = session.fetch(
            "SELECT attname::text AS name, format_type(atttypid, NULL) AS kind FROM pg_attribute "
            "WHERE attrelid = 'pg_temp.asof_given'::regclass AND attnum > 0"
        ).to_pylist()
    found = {row["name"]: row["kind"] for row in kinds}
    return _Cutoffs(narrow, keys, {name: found[given.key(name)] for name in keys})


def _number(session: Session, given: _Cutoffs, history: History) -> None:
    """Give each key a number, so that all that follows compares one integer."""
    parts = [given.key(name) for name in history.keys]
    known = ["cutoff IS NOT NULL", *(f"{part} IS NOT NULL" for part in parts)]
    columns = ", ".join(["true AS known", *parts])
    equal = ["true", *(f"given.{part} = keys.{part}" for part in parts)]
    for statement in (
        "DROP TABLE IF EXISTS asof_cutoffs, asof_keys",
        f"""
        CREATE TEMP TABLE asof_keys AS
        SELECT *, (row_number() OVER ())::integer AS key
        FROM (SELECT DISTINCT {columns} FROM asof_given WHERE {" AND ".join(known)}) AS given
        """,
        f"""
        CREATE TEMP TABLE asof_cutoffs AS
        SELECT given.row, given.cutoff, keys.*
        FROM asof_given AS given JOIN asof_keys AS keys ON {" AND ".join(equal)}
        WHERE given.cutoff IS NOT NULL
        """,
        "ANALYZE asof_keys",
        "ANALYZE asof_cutoffs",
    ):
        session.run(statement)


def _search(
    session: Session, history: History, table: Table, given: _Cutoffs, *, as_known: bool
) -> Search | None:
    """What has to be searched; nothing, where nothing can be found."""
    if not table.exists:
        return None
    times = [history.event, history.created] if history.created else [history.event]
    check(table, [*history.keys.values(), *history.features.values()], times)
    if any(
        given.table[name].null_count == given.table.num_rows
        for name in ["cutoff", *map(given.key, history.keys)]
    ):
        return None
    for name, column in history.keys.items():
        asked, there = given.kinds[name], table.columns[column]
        if (asked in TEXTS) != (there in TEXTS):
            raise DataError(
                f"key '{name}' is {asked} in the cut-offs, but '{column}' is {there} in "
                f"{table.name}; give them one type"
            )
    return Search(
        session,
        table,
        tuple(Key(given.key(k), given.kinds[k], column) for k, column in history.keys.items()),
        history.event,
        history.created,
        history.life,
        as_known,
    )


def _features(search: Search | None, history: History, given: _Cutoffs, number: int) -> Columns:
    """The columns of `history`, each as long as the cut-offs."""
    size = given.table.num_rows
    if search is None:
        return [(name, pa.nulls(size).cast(kind)) for name, kind in history.types.items()]
    times = [history.event, *filter(None, [history.created])]
    names = [*history.keys.values(), *times, *history.features.values()]
    table = search.run(names, number, size)
    features = "".join(f", {table.value(column)}" for column in history.features.values())
    rows = search.session.fetch(
        f"SELECT matches.row{features} FROM {table.sql} AS s "
        "JOIN asof_matches AS matches ON s.ctid = matches.place"
    )
    return _in_order(history, rows, size)


def _in_order(history: History, found: pa.Table, size: int) -> Columns:
    """Put the rows found into the order of the cut-offs, with null where there is none."""
    places = np.full(size, -1)
    places[found.column(0).to_numpy()] = np.arange(found.num_rows)
    order = pa.array(places, mask=places < 0)
    return [
        (feature, found.column(index).combine_chunks().take(order))
        for index, feature in enumerate(history.features, start=1)
    ]
