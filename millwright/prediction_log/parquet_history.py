"""Reading the prediction log of an environment without servers."""

from collections.abc import Sequence
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from millwright.prediction_log import parquet_sink
from millwright.prediction_log.content import PREDICTIONS
from millwright.prediction_log.history import COUNTS, Selection
from millwright.prediction_log.parquet_files import File, ParquetFiles, readable
from millwright.prediction_log.records import Layout

_NEWEST_FIRST: list[tuple[str, Literal["ascending", "descending"]]] = [
    ("asked_at", "descending"),
    ("prediction_id", "descending"),
]


class ParquetHistory:
    """The prediction log that `ParquetSink` writes to `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._answers, self._outcomes, self._losses = parquet_sink.kinds(folder)

    def predictions(self, selection: Selection, columns: Sequence[str]) -> pa.Table:
        """Some columns of predictions, in no order."""
        return _read(self._answers, selection, columns)

    def newest(self, machine: str, limit: int) -> pa.Table:
        """The last predictions of a machine: files are read from the newest on, until they do."""
        found = PREDICTIONS.empty_table()
        with self._answers.reading() as files:
            for file in reversed(files):
                if (
                    len(found) == limit
                    and file.last < found["asked_at"].cast(pa.int64())[-1].as_py()
                ):
                    break
                rows = _rows(
                    [file], PREDICTIONS, PREDICTIONS.names, pc.field("machine_id") == machine
                )
                found = pa.concat_tables([found, rows]).sort_by(_NEWEST_FIRST).slice(0, limit)
        return found

    def counts(self, selection: Selection) -> pa.Table:
        """Predictions and alarms by release, role and status."""
        by = ["release", "role", "status"]
        rows = self.predictions(selection, [*by, "alarm"])
        alarms: Any = pc.if_else(pc.is_null(rows["alarm"]), 0, rows["alarm"].cast(pa.int64()))
        grouped = rows.append_column("alarms", alarms).group_by(by)
        found = grouped.aggregate([([], "count_all"), ("alarms", "sum")])
        columns = [*(found[name] for name in by), found["count_all"], found["alarms_sum"]]
        return pa.table(columns, COUNTS.names).cast(COUNTS).sort_by([(n, "ascending") for n in by])

    def outcomes(self) -> pa.Table:
        """What was said of machines, the last of each machine and time."""
        rows = _read(self._outcomes, Selection(), self._outcomes.schema.names)
        rows = rows.sort_by([("reported_at", "ascending")])
        places = pa.array(range(len(rows)))
        last = rows.append_column("place", places).group_by(["machine_id", "observed_at"])
        kept = last.aggregate([("place", "max")])["place_max"]
        return rows.take(kept).sort_by([("machine_id", "ascending"), ("observed_at", "ascending")])

    def losses(self, selection: Selection) -> pa.Table:
        """What is missing."""
        return _read(
            self._losses, Selection(selection.since, selection.until), ["at", "records", "reason"]
        )

    def layouts(self) -> dict[int, Layout]:
        """The names of columns and views, by number."""
        return parquet_sink.layouts(self.folder)


def _read(files: ParquetFiles, selection: Selection, columns: Sequence[str]) -> pa.Table:
    since = _microseconds(selection.since)
    until = _microseconds(selection.until)
    with files.reading() as found:
        some = [
            file for file in found
            if (since is None or file.last >= since) and (until is None or file.first < until)
        ]  # fmt: skip
        return _rows(some, files.schema, columns, _condition(files.time, selection))


def _rows(
    files: Sequence[File], schema: pa.Schema, columns: Sequence[str], condition: Any
) -> pa.Table:
    if not files:
        return schema.empty_table().select(list(columns))
    try:
        return _of([file.path for file in files], schema, columns, condition)
    except (OSError, pa.ArrowException):
        for file in files:  # which of them it is shows when each is read alone
            with readable(file.path):
                _of([file.path], schema, columns, condition)
        raise


def _of(paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str], where: Any) -> pa.Table:
    found = ds.dataset([str(path) for path in paths], schema=schema, format="parquet")
    return found.to_table(columns=list(columns), filter=where)


def _condition(time: str, selection: Selection) -> Any:
    conditions = []
    if selection.since is not None:
        conditions.append(pc.field(time) >= selection.since)
    if selection.until is not None:
        conditions.append(pc.field(time) < selection.until)
    if selection.release is not None:
        conditions.append(pc.field("release") == selection.release)
    if selection.machine is not None:
        conditions.append(pc.field("machine_id") == selection.machine)
    return reduce(and_, conditions) if conditions else None


def _microseconds(moment: Any) -> int | None:
    found: int | None = None
    if moment is not None:
        found = pa.scalar(moment, pa.timestamp("us", tz="UTC")).value
    return found
