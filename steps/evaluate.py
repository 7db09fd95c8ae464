"""What the test window says, and whether that is enough."""

from typing import Annotated

import pandas as pd
import xgboost
from zenml import step

from millwright import gate, stack, terminal, training
from millwright.gate import Decision
from millwright.training import Judgement
from steps.opening import opened


@step
def evaluate_models(
    fleet: str,
    training_set: pd.DataFrame,
    scores: pd.DataFrame,
    classifier: xgboost.Booster,
    champion: str,  # noqa: ARG001 - a part of the cache key
) -> Annotated[Judgement, "judgement"]:
    """Judge the model, the baselines and the champion on the same rows."""
    return training.judge(training_set, scores, classifier, opened(fleet))


@step(enable_cache=False)
def compare_stores(fleet: str) -> Annotated[list[str], "online_differences"]:
    """Hold every feature of every machine in the online store against the offline store."""
    project = opened(fleet)
    machines = project.offline.observed()["machine_id"].tolist()
    differences = stack.feature_store().compare(
        project.service, machines, project.offline.known_until()
    )
    for difference in differences[:3]:
        terminal.warn(str(difference))
    return [str(difference) for difference in differences]


@step(enable_cache=False)
def apply_gate(
    judgement: Judgement, online_differences: list[str]
) -> Annotated[Decision, "decision"]:
    """Hold the figures against every limit."""
    return gate.decide(
        gate.load_limits(),
        judgement.candidate,
        judgement.baselines,
        judgement.champion,
        len(online_differences),
    )
