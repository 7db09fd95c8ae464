"""Where feature tables are computed and kept, and what the offline store asks of such a place.

`millwright.parquet_warehouse` keeps them in files and computes with DuckDB;
`millwright.postgres.warehouse` keeps them in PostgreSQL and computes there. The expressions are the
same, and so are their results.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from types import ModuleType
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa

from millwright.views import View

KEYS = ("machine_id", "event_timestamp", "created_timestamp")
# The period of rows that carry no time of their own.
ALWAYS = "always"


@dataclass(frozen=True)
class Rows:
    """Rows that a query selects, and what runs it: an engine's connection."""

    sql: str
    execute: Callable[[str], Any]


class Tables(Protocol):
    """The rows of one view by period, as far as its manifest vouches for them.

    `batches` of the raw store are taken in; `detector` made the rows, if they are scores.
    """

    batches: tuple[str, ...]
    detector: str | None

    @property
    def periods(self) -> Mapping[str, object]:
        """The periods that have rows."""

    @property
    def rows(self) -> int:
        """How many rows there are in all periods."""

    def damaged(self) -> set[str]:
        """The periods whose rows are not as they were left."""

    def read(self, period: str) -> pa.Table:
        """The rows of one period."""

    def frame(self, periods: Iterable[str], columns: Sequence[str]) -> pd.DataFrame:
        """Some columns of some periods, in order of time."""

    def observed(self) -> pd.DataFrame:
        """One row per machine: `machine_id`, and the times of its `first` and `last` row (UTC)."""

    def known_until(self) -> datetime | None:
        """When the newest of its rows became known (UTC); None where there are none."""

    def fill(self, period: str, rows: Rows) -> None:
        """Have `period` hold what a query selects, and nothing else."""

    def put(self, period: str, rows: pa.Table) -> None:
        """Have `period` hold these rows and no others."""

    def begin(self) -> None:
        """Have the manifest vouch for no more than this object does, before rows are replaced."""

    def begin_anew(self) -> None:
        """Hold nothing any more, before the first rows of another make are written."""

    def finish(self, batches: Iterable[str]) -> None:
        """Remove what is not held, and commit the manifest: `batches` are taken in."""


class FeatureEngine(Protocol):
    """Computes the rows of feature views for one period at a time."""

    def compute(self, period: str, views: Sequence[View]) -> Iterator[tuple[View, Rows]]:
        """The rows of each view whose `event_timestamp` lies in `period`.

        They can be had until the next view is asked for.
        """

    def attributes(self, view: View) -> Rows:
        """The rows of the view of machine attributes, whole."""


class Warehouse(Protocol):
    """Where the feature tables of one fleet are computed and kept."""

    @property
    def modules(self) -> Sequence[ModuleType]:
        """Our source that the rows follow from, besides the expressions themselves."""

    def updating(self) -> AbstractContextManager[None]:
        """Tables may be changed in the block.

        Raises:
            MillwrightError: one of them cannot be written, or what they are made of read.
        """

    def tables(self, view: View, definition: str, known: Collection[str]) -> Tables:
        """The rows of `view`: none where another definition made them, or unknown batches did."""

    def engines(self, count: int) -> AbstractContextManager[Sequence[FeatureEngine]]:
        """So many engines for the block, which share the memory that is theirs."""


def part_of(memory: str, count: int) -> str:
    """What each of `count` gets of an amount such as `2GB`."""
    return f"{float(memory[:-2]) / count:g}{memory[-2:]}"
