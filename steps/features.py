"""From the raw store to the offline store, and its definitions to Feast."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from zenml import step

from millwright import stack, terminal
from steps.opening import opened


@step(enable_cache=False)
def build_features(fleet: str) -> Annotated[list[dict[str, Any]], "feature_tables"]:
    """Bring the feature tables up to date with the raw store."""
    project = opened(fleet)
    with terminal.progress() as show:
        built = project.offline.update(show)
    for sensor in project.raw.silent_sensors():
        terminal.warn(
            f"sensor '{sensor}' has no reading yet; if the fleet file has just gained it, ingest "
            "its history (docs/adapt.md, 'A sensor more')"
        )
    return [asdict(each) for each in built]


@step(enable_cache=False)
def publish_definitions(
    tables: list[dict[str, Any]],  # noqa: ARG001 - the tables must be there to be published
) -> Annotated[str, "feast_apply"]:
    """Publish the definitions of `feature_repo/` to the stack's feature store."""
    said: str = stack.feature_store().apply()
    return said


@step(enable_cache=False)
def materialize_features(
    fleet: str,
    published: str,  # noqa: ARG001 - the definitions must be there
) -> Annotated[list[dict[str, Any]], "materialized"]:
    """Bring the newest known features of every machine to the online store."""
    views = opened(fleet).published_views
    with terminal.progress() as show:
        done = stack.feature_store().materialize(views, datetime.now(UTC), show)
    return [asdict(each) for each in done]
