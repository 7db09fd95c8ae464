"""The raw store into feature tables that Feast knows."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.features import build_features, publish_definitions


@pipeline(name="features", execution_mode=ExecutionMode.FAIL_FAST)
def features(fleet: str) -> None:
    """Compute what is new or corrected, and publish the definitions."""
    tables = build_features(fleet)
    publish_definitions(tables)
