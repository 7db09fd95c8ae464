"""Features into a gated, registered and released model that is in service."""

from zenml import pipeline
from zenml.enums import ExecutionMode

from steps.deploy import deploy_release
from steps.evaluate import apply_gate, compare_stores, evaluate_models
from steps.publish import register_model, release_model
from steps.train import search_hyperparameters, train_models
from steps.training_set import fetch_features, select_cutoffs


@pipeline(name="training", execution_mode=ExecutionMode.FAIL_FAST)
def training(fleet: str, fingerprint: str, champion: str) -> None:
    """Train on the development window, judge on the test window, release and deploy what passes."""
    cutoffs = select_cutoffs(fleet, fingerprint)
    training_set = fetch_features(fleet, cutoffs)
    found = search_hyperparameters(fleet, training_set)
    classifier, scores = train_models(fleet, training_set, found)
    judgement = evaluate_models(fleet, training_set, scores, classifier, champion)
    decision = apply_gate(judgement, compare_stores(fleet))
    registration, _, _ = register_model(
        fleet, fingerprint, training_set, scores, classifier, found, judgement, decision
    )
    released = release_model(fleet, training_set, classifier, judgement, registration)
    deploy_release(fleet, released)
