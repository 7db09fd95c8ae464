"""The search for hyperparameters, and the models."""

from typing import Annotated

import pandas as pd
import xgboost
from zenml import step

from millwright import terminal, training
from millwright.search import Found
from steps.opening import opened


@step
def search_hyperparameters(
    fleet: str, training_set: pd.DataFrame
) -> Annotated[Found, "hyperparameters"]:
    """Search within the budget, on validation folds."""
    project = opened(fleet)
    folds, asked = training.split(training_set, project).folds, project.training.folds.count
    if len(folds) < asked:
        terminal.say(f"  {len(folds)} of {asked} validation folds: the others have no failures")
    with terminal.progress() as show:
        return training.search_hyperparameters(
            training_set,
            project,
            lambda done, total, best: show(f"search (best {best:.3f})", done, total),
        )


@step
def train_models(
    fleet: str, training_set: pd.DataFrame, hyperparameters: Found
) -> tuple[Annotated[xgboost.Booster, "classifier"], Annotated[pd.DataFrame, "scores"]]:
    """Fit the classifier and the baselines, and score what judges them."""
    with terminal.progress() as show:
        classifier, scores = training.train_models(
            training_set,
            hyperparameters,
            opened(fleet),
            lambda done, total: show("models", done, total),
        )
    return classifier, scores  # ZenML counts the outputs by reading this line
