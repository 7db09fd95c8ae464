"""Reading the prediction log: what a place that keeps it can be asked, and tables made of that."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from millwright.errors import MillwrightError
from millwright.prediction_log.content import PREDICTIONS, form
from millwright.prediction_log.records import Layout

# What a prediction is without what it was made from.
ANSWER = [name for name in PREDICTIONS.names if name not in ("layout", "event_times", "features")]
ORDER: list[tuple[str, Literal["ascending", "descending"]]] = [
    ("asked_at", "ascending"),
    ("prediction_id", "ascending"),
    ("role", "ascending"),
]
COUNTS = form(
    release=pa.int32(),
    role=pa.string(),
    status=pa.string(),
    predictions=pa.int64(),
    alarms=pa.int64(),
)


@dataclass(frozen=True)
class Selection:
    """Predictions asked from `since` until before `until` (UTC), of a release or a machine."""

    since: datetime | None = None
    until: datetime | None = None
    release: int | None = None
    machine: str | None = None


class History(Protocol):
    """A fleet's prediction log. Where nothing was logged yet, every table is empty.

    Every method raises MillwrightError where the place cannot be read.
    """

    def predictions(self, selection: Selection, columns: Sequence[str]) -> pa.Table:
        """Some columns of predictions, in no order."""

    def newest(self, machine: str, limit: int) -> pa.Table:
        """The last predictions of a machine, the newest first."""

    def counts(self, selection: Selection) -> pa.Table:
        """Predictions and alarms by release, role and status, as `COUNTS`."""

    def outcomes(self) -> pa.Table:
        """What was said of machines, the last of each machine and time."""

    def losses(self, selection: Selection) -> pa.Table:
        """What is missing."""

    def layouts(self) -> dict[int, Layout]:
        """The names of columns and views, by number."""


def with_features(rows: pa.Table, layouts: dict[int, Layout]) -> pa.Table:
    """Predictions with one column for each feature, and `event_time:<view>` for each view.

    Rows of another layout than others have null in the columns that it lacks. A column of the
    answer that has the name of a feature is called `prediction_<name>`.

    Raises:
        MillwrightError: the log lacks a layout of theirs.
    """
    found = [_spread(part, layouts) for part in rows.to_batches(max_chunksize=1 << 16)]
    parts = [table for some in found for table in some]
    if not parts:
        return rows.select(ANSWER)
    return pa.concat_tables(parts, promote_options="default")


def as_dicts(rows: pa.Table, layouts: dict[int, Layout]) -> list[dict[str, Any]]:
    """Predictions with their `features` and `event_times` as dictionaries by name.

    Raises:
        MillwrightError: the log lacks a layout of theirs.
    """
    found = []
    for row in rows.to_pylist():
        layout = _layout(layouts, row.pop("layout"))
        row["event_times"] = dict(zip(layout.views, row["event_times"], strict=True))
        row["features"] = dict(zip(layout.columns, row["features"], strict=True))
        found.append(row)
    return found


def _spread(rows: pa.RecordBatch, layouts: dict[int, Layout]) -> list[pa.Table]:
    """The rows of each layout, with its columns. Their order stays where there is one layout."""
    numbers = rows.column("layout").to_numpy()
    tables = []
    for number in dict.fromkeys(numbers.tolist()):
        same = rows.filter(pa.array(numbers == number))
        layout = _layout(layouts, number)
        names = [f"prediction_{name}" if name in layout.columns else name for name in ANSWER]
        columns = [same.column(name) for name in ANSWER]
        names += layout.columns
        columns += _columns(same.column("features"), len(layout.columns), np.float32)
        names += [f"event_time:{view}" for view in layout.views]
        columns += _columns(same.column("event_times"), len(layout.views), "datetime64[us]")
        tables.append(pa.table(columns, names))
    return tables


def _layout(layouts: dict[int, Layout], number: int) -> Layout:
    try:
        return layouts[number]
    except KeyError:
        raise MillwrightError(
            f"the prediction log has lost layout {number}, the names of what some predictions were "
            f"made from; put {number} back from a copy of 'layouts'"
        ) from None


def _columns(lists: Any, width: int, kind: Any) -> "list[pa.Array[Any]]":
    """A matrix, given as one list per row, by column."""
    flat = lists.flatten()
    values = flat.to_numpy(zero_copy_only=False).astype(kind, copy=False)
    matrix = np.ascontiguousarray(values.reshape(len(lists), width).T)
    return [pa.array(column, from_pandas=True).cast(flat.type) for column in matrix]
