"""The raw store into feature tables that Feast knows."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.features import build_features, materialize_features, publish_definitions


@pipeline(name="features", execution_mode=ExecutionMode.FAIL_FAST)
def features(fleet: str) -> None:
    """Compute what is new or corrected, publish the definitions, and fill the online store."""
    tables = build_features(fleet)
    published = publish_definitions(tables)
    materialize_features(fleet, published)
