"""The ingest: from a source to the raw store, each bad row to quarantine with its reasons.

    row of the source
      ├─ refused ───────────▶ quarantine/<table>-<hash>.parquet
      ├─ new, correction ───▶ the batch
      └─ unchanged

The quarantine is written first, the manifest of the batch last. A run that is killed in between has
changed nothing that anybody reads, and the next one does the same again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from millwright.fleet import Fleet
from millwright.quarantine import set_aside
from millwright.raw_store import RawStore
from millwright.settings import Engine
from millwright.sources import Source
from millwright.staging import Staging, TableCounts, workspace
from millwright.validation import REASONS


@dataclass(frozen=True)
class IngestResult:
    """What an ingest did. `batch` is None if it brought nothing new."""

    batch: str | None
    dataset_version: str
    tables: Mapping[str, TableCounts]
    quarantine: tuple[Path, ...]
    seconds: float

    @property
    def refused(self) -> int:
        """How many rows went to quarantine."""
        return sum(counts.refused for counts in self.tables.values())

    def summary(self) -> dict[str, Any]:
        """The result as plain values, for a file or an artifact."""
        return {
            "batch": self.batch,
            "dataset_version": self.dataset_version,
            "tables": {table: asdict(counts) for table, counts in self.tables.items()},
            "refused": self.refused,
            "reasons": self.reasons,
            "quarantine": [str(path) for path in self.quarantine],
            "seconds": self.seconds,
        }

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows each reason refused, over all tables."""
        total = dict.fromkeys(REASONS, 0)
        for counts in self.tables.values():
            for reason, rows in counts.reasons.items():
                total[reason] += rows
        return {reason: rows for reason, rows in total.items() if rows}


def ingest(
    fleet: Fleet,
    source: Source,
    store: RawStore,
    quarantine: Path,
    engine: Engine,
    now: datetime,
    received: datetime | None = None,
    progress: Callable[[str], None] | None = None,
) -> IngestResult:
    """Append the good rows of `source` to `store` and put the others into `quarantine`.

    A row that the store has already is left out; one with the same key that says something else is
    a correction. In a table without a `received` column a correction became known at `received`,
    which is `now` unless it is given; in a fleet that counts cycles it is the last cycle on record.

    Raises:
        DataError: the source cannot be read. The store is as it was.
        MillwrightError: the store or the quarantine cannot be written. The store is as it was.
    """
    begin = time.monotonic()
    say = progress or (lambda _: None)
    with store.scratch() as scratch, workspace(scratch, engine) as connection:
        staging = Staging(fleet, store, connection, now, received or now)
        for table in fleet.table_names:
            say(f"reading {table}")
            staging.read(source, table)
        for table in fleet.table_names:
            say(f"checking {table}")
            staging.judge(table)
        counts = {table: staging.count(table) for table in fleet.table_names}
        files = tuple(
            set_aside(staging, table, quarantine, scratch)
            for table in fleet.table_names
            if counts[table].refused
        )
        rows = {
            table: staging.landing(table)
            for table in fleet.table_names
            if counts[table].new + counts[table].corrections
        }
        batch = None
        if rows:
            say("writing the batch")
            refused = sum(entry.refused for entry in counts.values())
            drafts = store.draft(connection, rows, scratch)
            staging.verify()
            batch = store.commit(drafts, scratch, source.name, refused).batch
    return IngestResult(batch, store.dataset_version, counts, files, time.monotonic() - begin)
