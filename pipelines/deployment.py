"""A released model into service, and back unless it answers as it should."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.deploy import deploy_release, find_release


@pipeline(name="deployment", execution_mode=ExecutionMode.FAIL_FAST)
def deployment(fleet: str, version: int | None) -> None:
    """Deploy one release."""
    deploy_release(fleet, find_release(fleet, version))
