"""The predictions of a whole fleet, and the list that a planner works from."""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pyarrow as pa
from zenml import get_step_context, step
from zenml.types import HTMLString

from millwright import stack, terminal
from millwright.inference import batch, outcome, table, work_list
from millwright.inference.settings import load_inference
from millwright.release import read_manifest
from steps.opening import opened


@step(enable_cache=False)
def choose_release(fleet: str, version: int | None) -> Annotated[str, "release"]:
    """The folder of the champion, or of the release that was named; it has proved itself."""
    return str(batch.choose_release(opened(fleet), version))


@step(enable_cache=False)
def predict_machines(
    fleet: str, release: str, as_of: str | None
) -> tuple[Annotated[pd.DataFrame, "predictions"], Annotated[int, "left_out"]]:
    """Predict every machine, by the online store as of now and by the offline store of the past."""

    def features(cutoffs: pd.DataFrame, service: str) -> pa.Table:
        found: pa.Table = stack.feature_store().get_features_as_known(cutoffs, service)
        return found

    run = str(get_step_context().pipeline_run.id)
    with terminal.progress() as show:
        project = opened(fleet)
        found, left_out = batch.predict_fleet(project, Path(release), as_of, run, features, show)
    return found.to_pandas(), left_out


@step(enable_cache=False)
def keep_predictions(fleet: str, predictions: pd.DataFrame) -> Annotated[str, "kept"]:
    """Keep the predictions in place of those of the same time."""
    return table.keep(opened(fleet).state, fleet, table.of_frame(predictions))


@step(enable_cache=False)
def rank_machines(
    fleet: str, release: str, predictions: pd.DataFrame, left_out: int, kept: str
) -> tuple[Annotated[dict[str, Any], "inference"], Annotated[HTMLString, "work_list"]]:
    """Write the work list, the machines first that promise to save most."""
    project, rows = opened(fleet), table.of_frame(predictions)
    manifest, decided = read_manifest(Path(release)), load_inference()
    work = work_list.WorkList(project.fleet, manifest, rows, decided, left_out)
    summary = outcome.summarise(work, project, kept, work_list.write(work, project.state))
    return summary, HTMLString(work_list.page(work))
