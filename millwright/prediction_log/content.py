"""The records of a segment as rows, the same for every sink.

A prediction has its features as a list in the order of its layout's columns, its event times in
that of the layout's views. What was missing is null, never zero and never NaN.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from millwright.errors import first_line
from millwright.prediction_log.packing import Batch, Reported, Unreadable, unpack
from millwright.prediction_log.records import Layout, Loss, ScoredBatch
from millwright.prediction_log.sink import RefusedError
from millwright.serving.rows import NEVER

TIME = pa.timestamp("us", tz="UTC")


def form(**columns: Any) -> pa.Schema:
    """A schema of columns and their types."""
    return pa.schema(list(columns.items()))


PREDICTIONS = form(
    prediction_id=pa.string(),
    machine_id=pa.string(),
    asked_at=TIME,
    as_of=TIME,
    status=pa.string(),
    probability=pa.float64(),
    alarm=pa.bool_(),
    threshold=pa.float64(),
    release=pa.int32(),
    role=pa.string(),
    feature_service=pa.string(),
    source=pa.string(),
    latency=pa.float64(),
    layout=pa.int64(),
    event_times=pa.list_(TIME),
    features=pa.list_(pa.float32()),
)
OUTCOMES = form(
    machine_id=pa.string(),
    observed_at=TIME,
    failed=pa.bool_(),
    component=pa.string(),
    prediction_id=pa.string(),
    note=pa.string(),
    reported_at=TIME,
)
LOSSES = form(
    at=TIME,
    records=pa.int64(),
    reason=pa.string(),
)


@dataclass(frozen=True)
class Content:
    """What a segment holds. `damage` says what of it could not be read, empty if nothing."""

    predictions: pa.Table
    outcomes: pa.Table
    losses: pa.Table
    layouts: dict[int, Layout] = field(default_factory=dict)
    damage: str = ""

    @property
    def any(self) -> bool:
        """Whether there is a row."""
        return bool(len(self.predictions) + len(self.outcomes) + len(self.losses))


def content_of(data: bytes) -> Content:
    """The rows in the bytes of a segment.

    Raises:
        RefusedError: this version cannot read them.
    """
    batches: dict[int, list[ScoredBatch]] = {}
    reported: list[Reported] = []
    losses: list[Loss] = []
    damage = ""
    try:
        for record in unpack(data):
            if isinstance(record, Batch):
                batches.setdefault(record.layout, []).append(record.scored)
            elif isinstance(record, Reported):
                reported.append(record)
            elif isinstance(record, Loss):
                losses.append(record)
            elif isinstance(record, Unreadable):
                damage = f"{record.size} bytes from byte {record.position} on cannot be read"
    except (ValueError, LookupError, TypeError) as err:
        raise RefusedError(f"a record cannot be read: {first_line(err)}") from err
    tables = [_predictions(number, same) for number, same in batches.items()]
    return Content(
        predictions=pa.concat_tables([PREDICTIONS.empty_table(), *tables]),
        outcomes=_outcomes(reported),
        losses=pa.Table.from_pylist(
            [{"at": each.at, "records": each.records, "reason": _text(each.reason)}
             for each in losses], LOSSES,
        ),
        layouts={n: Layout(same[0].columns, same[0].views) for n, same in batches.items()},
        damage=damage,
    )  # fmt: skip


def _predictions(number: int, batches: Sequence[ScoredBatch]) -> pa.Table:
    sizes = [len(batch.ids) for batch in batches]
    places = np.repeat(np.arange(len(sizes)), sizes)

    def each(values: Iterable[Any], kind: pa.DataType) -> "pa.Array[Any]":
        """A column of what is one value per batch."""
        return pa.array([_text(value) for value in values], kind).take(places)

    def texts(values: Iterable[Sequence[str]]) -> "pa.Array[Any]":
        return pa.array([_text(text) for some in values for text in some], pa.string())

    probabilities = np.concatenate([batch.probabilities for batch in batches])
    thresholds = np.repeat([batch.threshold for batch in batches], sizes)
    unknown = np.isnan(probabilities)
    columns: list[Any] = [
        texts(batch.ids for batch in batches),
        texts(batch.machines for batch in batches),
        pa.array(np.concatenate([batch.asked_at for batch in batches])).cast(TIME),
        pa.array(np.concatenate([batch.as_of for batch in batches])).cast(TIME),
        texts(batch.statuses for batch in batches),
        pa.array(probabilities, mask=unknown),
        pa.array(probabilities >= thresholds, mask=unknown),
        pa.array(thresholds),
        each((batch.release for batch in batches), pa.int32()),
        each((batch.role for batch in batches), pa.string()),
        each((batch.feature_service for batch in batches), pa.string()),
        each((batch.source for batch in batches), pa.string()),
        pa.array(np.concatenate([batch.latency for batch in batches])),
        pa.array(np.full(sum(sizes), number)),
        _lists(np.concatenate([batch.events for batch in batches]), TIME),
        _lists(np.concatenate([batch.matrix for batch in batches]), pa.float32()),
    ]
    return pa.Table.from_arrays(columns, schema=PREDICTIONS)


def _outcomes(reported: Sequence[Reported]) -> pa.Table:
    """The last that was said of each machine and time."""
    said = {}
    for report in reported:
        for each in report.outcomes:
            said[each.machine, each.observed_at] = {
                "machine_id": _text(each.machine),
                "observed_at": each.observed_at,
                "failed": each.failed,
                "component": _text(each.component),
                "prediction_id": _text(each.prediction),
                "note": _text(each.note),
                "reported_at": report.at,
            }
    return pa.Table.from_pylist(list(said.values()), OUTCOMES)


def _lists(values: Any, kind: pa.DataType) -> "pa.Array[Any]":
    """A matrix as one list per row, its missing values as null."""
    rows, width = values.shape
    flat = np.ascontiguousarray(values).reshape(-1)
    missing = np.isnan(flat) if flat.dtype.kind == "f" else flat == NEVER
    offsets: Any = pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(width))
    items: Any = pa.array(flat, mask=missing).cast(kind)
    return pa.ListArray.from_arrays(offsets, items)


def _text(value: Any) -> Any:
    """`value` as every sink can keep it: PostgreSQL has no NUL, and UTF-8 no half characters."""
    if isinstance(value, str) and not (value.isascii() and "\0" not in value):
        return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    return value
