"""Raw tables into the raw store."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.ingest import describe_batch, ingest_tables


@pipeline(name="ingest", execution_mode=ExecutionMode.FAIL_FAST)
def ingest(fleet: str, source: str, received: str | None = None) -> None:
    """Validate a source, append what is good, and report on it."""
    counts = ingest_tables(fleet, source, received)
    describe_batch(fleet, counts)
