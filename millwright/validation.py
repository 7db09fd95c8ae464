"""The schema at the border: what a raw table must hold, and the reasons that refuse a row of it.

Both follow from the fleet file. A raw table is brought to one canonical form, whatever its source
writes: machine 1, "1" and 1.0 are all "1"; every time is UTC in microseconds; a reading is a
double, and an empty cell is a gap. Each check is a reason and the SQL predicate that it stands for.

A time without a zone is read in the fleet's `timezone`. Of an hour that a zone repeats in autumn
the second (standard time) is meant; an hour that it leaves out in spring is read as the one after.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from millwright.durations import CYCLE_ORIGIN
from millwright.fleet import Errors, Fleet, Parts, Timed
from millwright.sql import literal, moment, quoted

Kind = Literal["name", "time", "number"]
SQL_TYPES: Mapping[Kind, str] = {
    "name": "VARCHAR",
    "time": "TIMESTAMP WITH TIME ZONE",
    "number": "DOUBLE",
}

# In the order in which a row's first reason is chosen.
REASONS = (
    "malformed_row",  # a line of a CSV file with too few or too many cells, or broken quotes
    "missing_machine",
    "unknown_machine",
    "missing_timestamp",
    "bad_timestamp",
    "naive_timestamp",
    "ancient_timestamp",
    "future_timestamp",
    "missing_received",
    "bad_received",
    "received_before_event",
    "not_a_number",
    "not_finite",
    "out_of_range",
    "no_reading",
    "unknown_code",
    "unknown_component",
    "unknown_category",
    "duplicate_row",
    "conflicting_duplicate",
)

_INTEGERS = re.compile(r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER")
_NUMBERS = re.compile(rf"{_INTEGERS.pattern}|FLOAT|DOUBLE|BOOLEAN|DECIMAL\(.*\)")
_NAIVE_TIMES = frozenset(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE"))
_CLOCK = r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?"
_NAIVE = rf"\s*\d{{4}}-\d{{1,2}}-\d{{1,2}}([ T]{_CLOCK})?\s*"
_ZONED = rf"\s*\d{{4}}-\d{{1,2}}-\d{{1,2}}[ T]{_CLOCK} ?(Z|UTC|[+-]\d{{2}}(:?\d{{2}})?)\s*"
# An older time is a clock that was never set, and would make a history of decades. A machine's
# first record counts from here, as a fleet's history may begin before it.
BEGINNING = datetime(1980, 1, 1, tzinfo=UTC)
# A row's place in its part, from 0 on. No sensor can be called so.
NUMBER = "rowid"
LAST_CYCLE = 10_000_000
LONGEST_PAST = 100_000  # cycles before the records begin, in which parts were replaced


@dataclass(frozen=True)
class Column:
    """A column that a raw table must have in the data.

    `name` is ours, `source` is the data's, and `key` is where the fleet file says so.
    """

    name: str
    source: str
    key: str
    kind: Kind

    @property
    def raw(self) -> str:
        """The cell as the source gave it, quoted for SQL."""
        return quoted(f"raw:{self.name}")

    @property
    def value(self) -> str:
        """The cell in canonical form, quoted for SQL; null where it has none."""
        return quoted(self.name)


@dataclass(frozen=True)
class Survey:
    """What a look at all rows of a part at once says about each: see `survey`.

    The numbers in the columns `sound` are finite and in range, and `blanks` says whether a row may
    be without any reading.
    """

    sound: frozenset[str] = frozenset()
    blanks: bool = True


UNSEEN = Survey()


@dataclass(frozen=True)
class Check:
    """Rows for which `predicate` is true are refused for `reason`."""

    reason: str
    predicate: str


def columns(fleet: Fleet, table: str) -> list[Column]:
    """The columns that the raw table called `table` must have."""
    source, place = getattr(fleet.tables, table), f"tables.{table}"
    found = [Column("machine_id", source.machine, f"{place}.machine", "name")]
    if isinstance(source, Timed):
        found.append(Column("timestamp", source.timestamp, f"{place}.timestamp", "time"))
    if source.received:
        found.append(Column("received", source.received, f"{place}.received", "time"))
    if isinstance(source, Errors):
        found.append(Column("code", source.code, f"{place}.code", "name"))
    if isinstance(source, Parts) and source.component:
        found.append(Column("component", source.component, f"{place}.component", "name"))
    if table == "telemetry":
        for name, sensor in fleet.sensors.items():
            key = f"sensors.{name}.column" if sensor.column else f"sensors.{name}"
            found.append(Column(name, sensor.column or name, key, "number"))
    if table == "machines":
        for name, attribute in fleet.attributes.items():
            key = f"attributes.{name}.column" if attribute.column else f"attributes.{name}"
            kind: Kind = "number" if attribute.type == "number" else "name"
            found.append(Column(name, attribute.column or name, key, kind))
    return found


def schema(fleet: Fleet, table: str) -> dict[str, str]:
    """The canonical columns of a raw table and their SQL types. Every table has `received`."""
    types = {column.name: SQL_TYPES[column.kind] for column in columns(fleet, table)}
    head = {name: types.pop(name) for name in key(fleet, table)}
    return {**head, "received": SQL_TYPES["time"], **types}


def key(fleet: Fleet, table: str) -> list[str]:
    """The canonical columns that tell what a row is about; the rest is what it says."""
    names = {column.name for column in columns(fleet, table)}
    parts = ("code",) if table == "errors" else ("component",)
    wanted = ("machine_id",) if table == "machines" else ("machine_id", "timestamp", *parts)
    return [name for name in wanted if name in names]


def fingerprint(fleet: Fleet, table: str) -> str:
    """SQL for a 64-bit hash of what a row says, its key and `received` left out."""
    about = {*key(fleet, table), "received"}
    values = [quoted(name) for name in schema(fleet, table) if name not in about]
    return f"hash({', '.join(values)})" if values else "0::UBIGINT"


def bit(reason: str) -> int:
    """The bit that stands for `reason` in the column of a row's refusals."""
    return 1 << REASONS.index(reason)


def is_number(sql_type: str) -> bool:
    """Whether a column of this type holds numbers, and not text that may or may not be some."""
    return bool(_NUMBERS.fullmatch(sql_type))


def canonical(
    fleet: Fleet,
    table: str,
    rows: str,
    types: Mapping[str, str],
    now: datetime,
    survey: Survey = UNSEEN,
) -> str:
    """SQL that brings `rows` to canonical form and marks those that a check refuses.

    `rows` is a SELECT of the data's own columns in the order of `columns`, and `NUMBER` behind
    them; `types` are their SQL types by name. Besides the canonical columns that the data has it
    yields `refusals` (bits, 0 for a good row) and `NUMBER`.
    """
    found = columns(fleet, table)
    # By their places: to DuckDB columns that differ in their case alone are one.
    places = {f"c{place}": column for place, column in enumerate(found)}
    cells = ", ".join(
        f"{cell} AS {column.raw}, "
        f"{_canonical_cell(cell, column, types[column.source], fleet, table)} AS {column.value}"
        for cell, column in places.items()
    )
    refusals = " + ".join(
        f"CASE WHEN {check.predicate} THEN {bit(check.reason)} ELSE 0 END"
        for check in checks(fleet, table, types, now, survey)
    )
    values = ", ".join(column.value for column in found)
    names = ", ".join([*places, NUMBER])
    return (
        f"SELECT ({refusals})::BIGINT AS refusals, {NUMBER}, {values} "
        f"FROM (SELECT {cells}, {NUMBER} FROM ({rows}) AS data({names}))"
    )


def checks(
    fleet: Fleet,
    table: str,
    types: Mapping[str, str],
    now: datetime,
    survey: Survey = UNSEEN,
) -> list[Check]:
    """What a single row can be refused for, in terms of its raw and canonical cells.

    A check that no row can fail, by the types of the data or by the `survey`, is left out.
    """
    found = {column.name: column for column in columns(fleet, table)}
    times = [found[name] for name in ("timestamp", "received") if name in found]
    own = [found[name] for name in found if name not in (*key(fleet, table), "received")]
    numbers = [column for column in own if column.kind == "number"]
    texts = [column for column in numbers if not is_number(types[column.source])]
    suspects = [column for column in numbers if column.name not in survey.sound]
    naive = _any(_is_naive(column, types[column.source], fleet) for column in times)
    table_of_checks = [Check("missing_machine", "machine_id IS NULL")]
    if "timestamp" in found:
        event = found["timestamp"]
        table_of_checks += [
            Check("missing_timestamp", _is_empty(event)),
            Check("bad_timestamp", _is_unreadable(event, types, fleet)),
        ]
    if "received" in found:
        received = found["received"]
        table_of_checks += [
            Check("missing_received", _is_empty(received)),
            Check("bad_received", _is_unreadable(received, types, fleet)),
        ]
    if "received" in found and "timestamp" in found:
        table_of_checks.append(Check("received_before_event", "received < timestamp"))
    table_of_checks += [
        Check("naive_timestamp", naive),
        Check("not_a_number", _any(_is_not_understood(column) for column in texts)),
        Check("not_finite", _any(f"NOT isfinite({column.value})" for column in suspects)),
        Check("out_of_range", _any(_out_of_range(fleet, table, suspects))),
        Check("unknown_category", _any(_unknown_categories(fleet, table))),
    ]
    if not fleet.counts_cycles:  # a cycle is no time of day: none is ancient or in the future
        ancient = _any(f"{column.value} < {moment(BEGINNING)}" for column in times)
        future = _any(f"{column.value} > {moment(now)}" for column in times)
        table_of_checks.append(Check("ancient_timestamp", ancient))
        table_of_checks.append(Check("future_timestamp", future))
    if table == "telemetry" and survey.blanks:
        empty = " AND ".join(_is_empty(column) for column in numbers)
        table_of_checks.append(Check("no_reading", empty))
    if "code" in found:
        table_of_checks.append(Check("unknown_code", _not_among("code", fleet.error_codes)))
    if "component" in found:
        unknown = _not_among("component", fleet.components)
        table_of_checks.append(Check("unknown_component", unknown))
    return [check for check in table_of_checks if check.predicate]


def _canonical_cell(cell: str, column: Column, sql_type: str, fleet: Fleet, table: str) -> str:
    if column.kind == "number":
        return _number(cell, sql_type)
    if column.kind == "name":
        return _name(cell, sql_type)
    if fleet.counts_cycles:
        return _cycle(cell, sql_type, -LONGEST_PAST if table == "maintenance" else 0)
    return _time(cell, sql_type, fleet.timezone)


def _number(cell: str, sql_type: str) -> str:
    """Adding zero turns -0.0 into 0.0, so that equal readings are equal to the last bit."""
    if is_number(sql_type):
        return f"CAST({cell} AS DOUBLE) + 0.0"
    return f"TRY_CAST({_text(cell, sql_type)} AS DOUBLE) + 0.0"


def _name(cell: str, sql_type: str) -> str:
    """Names and whole numbers as text: a column of integers with a gap is written as 1.0."""
    if _INTEGERS.fullmatch(sql_type):
        return f"CAST({cell} AS VARCHAR)"
    text = f"trim({_text(cell, sql_type)})"
    if sql_type in ("FLOAT", "DOUBLE"):
        text = f"CASE WHEN isfinite({cell}) THEN {text} END"
    return rf"nullif(regexp_replace({text}, '^(-?\d+)\.0+$', '\1'), '')"


def _cycle(cell: str, sql_type: str, first: int) -> str:
    number = _number(cell, sql_type)
    return (
        f"CASE WHEN {number} BETWEEN {first} AND {LAST_CYCLE} AND {number} = floor({number}) "
        f"THEN {moment(CYCLE_ORIGIN)} + to_hours(CAST({number} AS BIGINT)) END"
    )


def _time(cell: str, sql_type: str, zone: str | None) -> str:
    """A time in the canonical form; null if it cannot be read, or has no zone and needs one."""
    in_bounds = "BETWEEN '0001-01-01' AND '9999-12-31'"
    if sql_type == SQL_TYPES["time"]:
        return f"CASE WHEN {cell} {in_bounds} THEN {cell} END"
    if sql_type in _NAIVE_TIMES:
        time = f"CAST({cell} AS TIMESTAMP)"  # nanoseconds do not reach as far as the bounds
        return f"CASE WHEN {time} {in_bounds} THEN {_local(time, zone)} END"
    text = _text(cell, sql_type)
    return (
        f"CASE WHEN regexp_full_match({text}, '{_ZONED}') "
        f"THEN coalesce(TRY_CAST({text} AS TIMESTAMPTZ), "
        # Java leaves out seconds that are nought, and DuckDB reads no zone without seconds.
        rf"TRY_CAST(regexp_replace({text}, '([ T]\d+:\d+) ?([ZU+-])', '\1:00\2') AS TIMESTAMPTZ)) "
        f"WHEN regexp_full_match({text}, '{_NAIVE}') "
        f"THEN {_local(f'TRY_CAST({text} AS TIMESTAMP)', zone)} END"
    )


def _local(time: str, zone: str | None) -> str:
    return f"timezone({literal(zone)}, {time})" if zone else "NULL::TIMESTAMPTZ"


def _text(cell: str, sql_type: str) -> str:
    return cell if sql_type == "VARCHAR" else f"CAST({cell} AS VARCHAR)"


def _is_empty(column: Column) -> str:
    return (
        f"({column.value} IS NULL AND ({column.raw} IS NULL OR trim({column.raw}::VARCHAR) = ''))"
    )


def _is_not_understood(column: Column) -> str:
    """A cell that says something, but nothing in canonical form.

    DuckDB looks at the text of those cells alone for which the first two conditions hold; without
    the second it trims every cell of the table.
    """
    return (
        f"({column.value} IS NULL AND {column.raw} IS NOT NULL "
        f"AND trim({column.raw}::VARCHAR) <> '')"
    )


def _is_naive(column: Column, sql_type: str, fleet: Fleet) -> str:
    if fleet.timezone or fleet.counts_cycles:
        return "false"
    if sql_type in _NAIVE_TIMES:
        return f"({column.value} IS NULL AND isfinite({column.raw}))"
    text = f"{column.raw}::VARCHAR"
    return (
        f"({column.value} IS NULL AND regexp_full_match({text}, '{_NAIVE}') "
        f"AND TRY_CAST({text} AS TIMESTAMP) IS NOT NULL)"
    )


def _is_unreadable(column: Column, types: Mapping[str, str], fleet: Fleet) -> str:
    naive = _is_naive(column, types[column.source], fleet)
    return f"({_is_not_understood(column)} AND NOT {naive})"


def _out_of_range(fleet: Fleet, table: str, numbers: Sequence[Column]) -> list[str]:
    entries: Mapping[str, Any] = fleet.sensors if table == "telemetry" else fleet.attributes
    ranges = [(column.value, entries[column.name].range) for column in numbers]
    return [
        f"(isfinite({value}) AND {value} NOT BETWEEN {limits[0]!r} AND {limits[1]!r})"
        for value, limits in ranges
        if limits
    ]


def _unknown_categories(fleet: Fleet, table: str) -> list[str]:
    """A category that is not given is a gap, as an empty cell is everywhere."""
    if table != "machines":
        return []
    return [
        f"{quoted(name)} NOT IN ({', '.join(map(literal, attribute.values))})"
        for name, attribute in fleet.attributes.items()
        if attribute.type == "category"
    ]


def _not_among(name: str, values: Sequence[str]) -> str:
    """The predicate of a name that is missing, or, where `values` lists all, not one of them."""
    if not values:
        return f"{name} IS NULL"
    return f"coalesce({name} NOT IN ({', '.join(map(literal, values))}), true)"


def _any(predicates: Iterable[str]) -> str:
    return " OR ".join(predicates)
