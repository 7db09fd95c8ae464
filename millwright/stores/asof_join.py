"""Which row of a history was the newest one known at a point in time: an exact ASOF join.

A row of a history has the time when it was true (its event time) and the time when it became known
(its created time). For a cut-off T, of the rows that are visible the newest by event time counts,
then the last created one, then the last in the files; and it counts only if it is not older than
its time to live. A row is visible if event <= T, and with `as_known` also created <= T.

Both conditions are one, `max(event, created) <= T`, but the row that became visible last need not
be the newest one: a correction of an old row comes after newer rows. Per key, therefore, only those
rows stay that are newest by event time when they become visible, a running maximum; then the
last of them before T is the answer, and one ASOF join finds it. All of that happens on the keys and
the times alone. The wide columns are fetched at the end, by row number, for the rows found.

Other ways pair every cut-off with all earlier rows of its key and drop all but one of the pairs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millwright.errors import DataError, InputError
from millwright.sql import quoted
from millwright.stores.parquet_files import (
    ROW_NUMBER,
    Table,
    check,
    columns,
    reading,
    within,
)

FOREVER = 2**61  # microseconds: longer than any two timestamps are apart


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
    keys = tuple(sorted({key for history in histories for key in history.keys}))
    given = _Cutoffs(cutoffs, to_microseconds(cutoffs[timestamp]).cast(pa.int64()), keys)
    connection.register("given", given.narrow())
    result, numbered = cutoffs, None
    for history in histories:
        if numbered != set(history.keys):
            connection.execute(_numbering(given, history))
            numbered = set(history.keys)
        for name, column in _features(connection, history, given, as_known=as_known):
            result = result.append_column(name, column)
    return result


def to_microseconds(times: "pa.ChunkedArray[Any]") -> "pa.ChunkedArray[Any]":
    """`times` as whole microseconds in UTC, rounded down."""
    kind = times.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        times = pc.floor_temporal(times.cast(pa.timestamp("ns", tz="UTC")), unit="microsecond")
    return times.cast(pa.timestamp("us", tz="UTC"))


@dataclass(frozen=True)
class _Cutoffs:
    """The cut-offs, their times in microseconds, and the columns that some history is joined by."""

    table: pa.Table
    times: "pa.ChunkedArray[Any]"
    keys: tuple[str, ...]

    def key(self, name: str) -> str:
        """What the column `name` is called in SQL."""
        return f"k{self.keys.index(name)}"

    def narrow(self) -> pa.Table:
        """All that the search needs: the number of each row, its time and its keys."""
        named = self.table.select(list(self.keys)).rename_columns(list(map(self.key, self.keys)))
        numbers = pa.array(np.arange(self.table.num_rows))
        return named.append_column("row", numbers).append_column("cutoff", self.times)


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


def _numbering(given: _Cutoffs, history: History) -> str:
    """SQL that gives each key a number, so that all that follows compares one integer."""
    parts = [given.key(name) for name in history.keys]
    equal = ["given.cutoff IS NOT NULL", *(f"given.{part} = keys.{part}" for part in parts)]
    return f"""
        CREATE OR REPLACE TEMP TABLE keys AS
        SELECT *, (row_number() OVER ())::INTEGER AS key
        FROM (SELECT DISTINCT {", ".join(["true AS known", *parts])} FROM given);

        CREATE OR REPLACE TEMP TABLE cutoffs AS
        SELECT given.row, keys.key, given.cutoff
        FROM given JOIN keys ON {" AND ".join(equal)};
    """


def _features(
    connection: duckdb.DuckDBPyConnection, history: History, given: _Cutoffs, *, as_known: bool
) -> "Iterable[tuple[str, pa.Array[Any]]]":
    """The columns of `history`, each as long as the cut-offs."""
    size = given.table.num_rows
    first, last = connection.execute("SELECT min(cutoff), max(cutoff) FROM cutoffs").fetchall()[0]
    if not history.files.paths or last is None:
        return [(name, pa.nulls(size).cast(history.types[name])) for name in history.features]
    with reading(history.files):
        kinds = columns(connection, history.files)
        _check_history(connection, history, given, kinds)
        oldest = first - history.life if history.time_to_live else None
        searched = within(history.event, kinds[history.event], oldest, last)
        connection.execute(_visible(history, given, searched, as_known=as_known))
        connection.execute(_matches(history))
        found = connection.execute("SELECT min(event), max(event) FROM matches").fetchall()[0]
        fetched = within(history.event, kinds[history.event], *found)
        rows = connection.execute(_wide(history, fetched)).to_arrow_table()
    return _in_order(history, rows, size)


def _check_history(
    connection: duckdb.DuckDBPyConnection,
    history: History,
    given: _Cutoffs,
    kinds: Mapping[str, str],
) -> None:
    times = [history.event, history.created] if history.created else [history.event]
    check(history.files, kinds, [*history.keys.values(), *history.features.values()], times)
    asked = {row[0]: row[1] for row in connection.execute("DESCRIBE given").fetchall()}
    for name, column in history.keys.items():
        kind = asked[given.key(name)]
        # DuckDB would read numbers out of the text, and fail at the first that is none.
        if (kind == "VARCHAR") != (kinds[column] == "VARCHAR"):
            raise DataError(
                f"key '{name}' is {kind} in the cut-offs, but '{column}' is {kinds[column]} in "
                f"{history.files.place}; give them one type"
            )


def _visible(history: History, given: _Cutoffs, span: str, *, as_known: bool) -> str:
    """SQL for the rows that are newest when they become visible, one per key and moment."""
    equal = [f"s.{quoted(column)} = keys.{given.key(key)}" for key, column in history.keys.items()]
    event = f"epoch_us(s.{quoted(history.event)})"
    created = f"epoch_us(s.{quoted(history.created)})" if history.created else "NULL::BIGINT"
    both = as_known and history.created is not None
    known = [span, f"{event} IS NOT NULL", *([f"{created} IS NOT NULL"] if both else [])]
    return f"""
        CREATE OR REPLACE TEMP TABLE visible AS
        WITH versions AS (
            SELECT keys.key, {event} AS event, {created} AS created,
                {f"greatest({event}, {created})" if both else event} AS effective,
                {ROW_NUMBER} AS id
            FROM {history.files.sql} JOIN keys ON {" AND ".join(["true", *equal])}
            WHERE {" AND ".join(known)}
        )
        SELECT key, effective, event, id FROM versions
        -- The best of those that become visible together comes last. A running maximum of whole
        -- rows, instead of one number, would take time by the square of their count.
        WINDOW earlier AS (
            PARTITION BY key ORDER BY effective, event, created NULLS FIRST, id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        )
        QUALIFY event = max(event) OVER earlier
            AND effective IS DISTINCT FROM lead(effective) OVER earlier
    """


def _matches(history: History) -> str:
    """SQL for the number of the row found for each cut-off that finds one."""
    return f"""
        CREATE OR REPLACE TEMP TABLE matches AS
        SELECT cutoffs.row, visible.id, visible.event
        FROM cutoffs ASOF JOIN visible
            ON cutoffs.key = visible.key AND cutoffs.cutoff >= visible.effective
        WHERE visible.event >= cutoffs.cutoff - {history.life}
    """


def _wide(history: History, span: str) -> str:
    """SQL for the features of the rows found, in any order."""
    features = "".join(f", s.{quoted(column)}" for column in history.features.values())
    return f"""
        SELECT matches.row{features}
        FROM {history.files.sql} JOIN matches ON {ROW_NUMBER} = matches.id
        WHERE {span}
    """


def _in_order(
    history: History, found: pa.Table, size: int
) -> "Iterable[tuple[str, pa.Array[Any]]]":
    """Put the rows found into the order of the cut-offs, with null where there is none.

    Arrow gathers a column at a time, where DuckDB would sort whole rows.
    """
    places = np.full(size, -1)
    places[found.column(0).to_numpy()] = np.arange(found.num_rows)
    order = pa.array(places, mask=places < 0)
    for index, feature in enumerate(history.features, start=1):
        yield feature, found.column(index).combine_chunks().take(order)
