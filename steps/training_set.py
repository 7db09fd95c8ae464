"""Which questions are asked, and the features as they were known when each was asked."""

from typing import Annotated

import pandas as pd
from zenml import step

from millwright import stack, training
from steps.opening import opened


@step
def select_cutoffs(
    fleet: str,
    fingerprint: str,  # noqa: ARG001 - a part of the cache key
) -> Annotated[pd.DataFrame, "cutoffs"]:
    """Every step of every machine, with its label."""
    return training.select_cutoffs(opened(fleet))


@step
def fetch_features(fleet: str, cutoffs: pd.DataFrame) -> Annotated[pd.DataFrame, "training_set"]:
    """Point-in-time features of the cut-offs, through the stack's feature store."""
    project = opened(fleet)
    found = stack.feature_store().get_features_as_known(cutoffs, project.service)
    return training.check_training_set(found, cutoffs, project)
