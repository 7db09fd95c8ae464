"""The predictions of whole fleets as a table: what stands in it, and where it is kept.

A fleet in an environment has one prediction of a machine as of a time: its key is `as_of` and
`machine_id`. The release is no part of the key. A planner works from one list, in which a machine
has one rank; a run with another release answers the same question again, and replaces. All rows of
a time are replaced at once, so that those of a machine which is gone go too.

Without servers each time is a parquet file under the state's folder, else all are in PostgreSQL.
"""

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from millwright.endpoints import endpoint
from millwright.settings import State, load_settings

if TYPE_CHECKING:
    import pandas as pd

TIME = pa.timestamp("us", tz="UTC")
# `expected_saving` is what the fleet is expected to spend less if somebody acts on a machine now
# than if nobody does, and `rank` its place by that. `feature_age` is of the oldest features that
# time can make stale, in seconds, and `readings_at` when the newest of them were true. `reasons` is
# JSON, as the service gives contributions; machines that are on no work list have none.
_FIELDS: list[Any] = [
    pa.field("as_of", TIME, nullable=False),
    pa.field("machine_id", pa.string(), nullable=False),
    pa.field("rank", pa.int32()),
    pa.field("status", pa.string(), nullable=False),
    pa.field("probability", pa.float64()),
    pa.field("alarm", pa.bool_()),
    pa.field("expected_cost", pa.float64()),
    pa.field("expected_saving", pa.float64()),
    pa.field("reasons", pa.string()),
    pa.field("readings_at", TIME),
    pa.field("feature_age", pa.float64()),
    pa.field("release", pa.int32(), nullable=False),
    pa.field("feature_service", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("computed_at", TIME, nullable=False),
    pa.field("run", pa.string(), nullable=False),
]
PREDICTIONS = pa.schema(_FIELDS)


class Table(Protocol):
    """Where the predictions of a fleet are kept."""

    def replace(self, as_of: datetime, rows: pa.Table) -> str:
        """Have `rows`, and no others, be the predictions as of a time, and say where they are.

        Raises:
            MillwrightError: they cannot be written.
        """
        ...

    def read(self, as_of: datetime | None) -> pa.Table:
        """The predictions as of a time or as of the latest, by rank; none where there are none.

        Raises:
            MillwrightError: they cannot be read.
        """
        ...


def open_table(state: State, fleet: str) -> Table:
    """The predictions of a fleet in an environment. Nothing is connected to yet."""
    if load_settings(state.environment).servers == "none":
        from millwright.inference.parquet_table import ParquetTable

        return ParquetTable(state.batch_predictions(fleet))
    from millwright.inference.postgres_table import PostgresTable

    return PostgresTable(partial(endpoint, "postgres", state), fleet)


def of_frame(frame: "pd.DataFrame") -> pa.Table:
    """A table of predictions that was a frame meanwhile, as ZenML keeps it."""
    return pa.Table.from_pandas(frame, schema=PREDICTIONS, preserve_index=False)


def keep(state: State, fleet: str, rows: pa.Table) -> str:
    """Keep predictions of one time in place of those of before, and say where they are.

    Raises:
        MillwrightError: they cannot be written.
    """
    return open_table(state, fleet).replace(rows["as_of"][0].as_py(), rows)


def read(state: State, fleet: str, as_of: datetime | None = None) -> pa.Table:
    """The predictions of a fleet as of a time, or of the latest that there are, by rank.

    Raises:
        MillwrightError: they cannot be read.
    """
    return open_table(state, fleet).read(as_of)


def stamp(as_of: datetime) -> str:
    """A time as it stands in names of files: `20251231T000000Z`."""
    part = f".{as_of:%f}" if as_of.microsecond else ""
    return f"{as_of:%Y%m%dT%H%M%S}{part}Z"
