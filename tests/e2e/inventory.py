"""Prints as JSON what MLflow and ZenML hold in the home that `MILLWRIGHT_HOME` names.

A script for a process of its own: both libraries keep what they have opened for good.
"""

import json
import os
import sys
from typing import Any

from millwright.settings import process_environment, state


def of_mlflow() -> dict[str, Any]:
    import mlflow

    client = mlflow.MlflowClient()
    models = client.search_registered_models()
    return {
        "runs": {
            run.info.run_id: {
                "experiment": experiment.name,
                "status": run.info.status,
                "parameters": run.data.params,
                "metrics": run.data.metrics,
                "tags": run.data.tags,
                "artifacts": sorted(_artifacts(client, run.info.run_id, "")),
            }
            for experiment in client.search_experiments()
            for run in client.search_runs([experiment.experiment_id])
        },
        "models": {
            model.name: {
                "aliases": {alias: int(version) for alias, version in model.aliases.items()},
                "versions": [
                    {"version": int(each.version), "run": each.run_id, "tags": each.tags}
                    for each in client.search_model_versions(f"name='{model.name}'")
                ],
            }
            for model in models
        },
        "columns": {
            f"{model.name}@{alias}": mlflow.xgboost.load_model(
                f"models:/{model.name}@{alias}"
            ).num_features()
            for model in models
            for alias in model.aliases
        },
    }


def of_zenml() -> dict[str, Any]:
    from zenml.client import Client

    client = Client()
    return {
        "stack": client.active_stack_model.name,
        "runs": [
            {
                "pipeline": run.pipeline.name,
                "status": run.status.value,
                "steps": {name: step.status.value for name, step in run.steps.items()},
                "artifacts": sorted(name for step in run.steps.values() for name in step.outputs),
            }
            for run in client.list_pipeline_runs(sort_by="asc:created", size=1000, hydrate=True)
        ],
    }


def _artifacts(client: Any, run: str, folder: str) -> list[str]:
    found = []
    for entry in client.list_artifacts(run, folder):
        found += _artifacts(client, run, entry.path) if entry.is_dir else [entry.path]
    return found


if __name__ == "__main__":
    os.environ.update(process_environment(state()))
    os.environ["ZENML_LOGGING_VERBOSITY"] = "CRITICAL"
    json.dump({"mlflow": of_mlflow(), "zenml": of_zenml()}, sys.stdout)
