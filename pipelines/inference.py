"""A whole fleet predicted at once, kept as a table, and ranked for the planner."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.inference import choose_release, keep_predictions, predict_machines, rank_machines


@pipeline(name="inference", execution_mode=ExecutionMode.FAIL_FAST)
def inference(fleet: str, version: int | None, as_of: str | None) -> None:
    """Predict by the champion or by the release of a version, as of a time or as of now."""
    release = choose_release(fleet, version)
    predictions, left_out = predict_machines(fleet, release, as_of)
    kept = keep_predictions(fleet, predictions)
    rank_machines(fleet, release, predictions, left_out, kept)
