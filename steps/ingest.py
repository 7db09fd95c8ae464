"""From a source to the raw store."""

import os
from datetime import UTC, datetime
from typing import Annotated, Any

from zenml import step
from zenml.types import HTMLString

from millwright import data_report, terminal
from millwright.files import file_written_whole
from millwright.ingest import ingest
from millwright.sources import SOURCE_VARIABLE, open_source
from steps.opening import opened


@step(enable_cache=False)
def ingest_tables(
    fleet: str, source: str, received: str | None = None
) -> Annotated[dict[str, Any], "ingest_counts"]:
    """Append the good rows of `source` to the raw store and set the others aside."""
    project = opened(fleet)
    with terminal.progress():  # of the rows that are read and written
        result = ingest(
            project.fleet,
            open_source(os.environ.get(SOURCE_VARIABLE, source), project.fleet),
            project.raw,
            project.state.quarantine(fleet),
            project.settings.engine,
            now=datetime.now(UTC),
            received=datetime.fromisoformat(received) if received else None,
            progress=lambda doing: terminal.say(f"  {doing}"),
        )
    return result.summary()


@step(enable_cache=False)
def describe_batch(fleet: str, counts: dict[str, Any]) -> Annotated[HTMLString, "data_report"]:
    """Report on the telemetry that the batch brought."""
    project = opened(fleet)
    path = project.state.batch_report(fleet, counts["batch"])
    page = data_report.report_on(project.raw, counts["batch"], project.settings)
    if page is None:
        return HTMLString("No telemetry came in.")
    with file_written_whole(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return HTMLString(page)
