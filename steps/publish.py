"""The record in MLflow, the register, and the release."""

from typing import Annotated

import pandas as pd
import xgboost
from zenml import log_metadata, step
from zenml.types import HTMLString, MarkdownString

from millwright import publication
from millwright.gate import Decision
from millwright.publication import Registration, Released
from millwright.search import Found
from millwright.training import Judgement
from steps.opening import opened


@step(enable_cache=False, experiment_tracker=True)
def register_model(
    fleet: str,
    fingerprint: str,
    training_set: pd.DataFrame,
    scores: pd.DataFrame,
    classifier: xgboost.Booster,
    hyperparameters: Found,
    judgement: Judgement,
    decision: Decision,
) -> tuple[
    Annotated[Registration, "registration"],
    Annotated[HTMLString, "report"],
    Annotated[MarkdownString, "model_card"],
]:
    """Record the run in MLflow, register the model, and write the report."""
    candidate = publication.Candidate(
        opened(fleet), fingerprint, training_set, scores, classifier, hyperparameters, judgement,
        decision,
    )  # fmt: skip
    registration, report, card = publication.register(candidate)
    return registration, HTMLString(report), MarkdownString(card)


@step(enable_cache=False, experiment_tracker=True)
def release_model(
    fleet: str,
    training_set: pd.DataFrame,
    classifier: xgboost.Booster,
    judgement: Judgement,
    registration: Registration,
) -> Annotated[Released, "release"]:
    """Release the model if the gate let it pass; it is not in service yet."""
    released = publication.release(
        opened(fleet), registration, training_set, classifier, judgement.threshold.value
    )
    log_metadata(publication.links(opened(fleet), registration, released), infer_model=True)
    return released
