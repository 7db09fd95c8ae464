"""MLflow: the record of a training run, and the register of models with their aliases.

The tracking URI is whatever the active stack's experiment tracker has set.
"""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import xgboost
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature

from millwright.encoder import Encoder, Matrix
from millwright.files import database_written_whole
from millwright.release import Manifest
from millwright.trees import predict

CHAMPION, CHALLENGER = "champion", "challenger"
MODEL_VERSION = "model_version"
# What a loaded model needs, and what a release names as the libraries that it was made with.
REQUIREMENTS = ("xgboost", "numpy", "pandas", "scikit-learn")
# What MLflow answers where it knows no such model, and where the model has no such alias.
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class Version:
    """A registered version of a model, the MLflow run that registered it, and its tags."""

    name: str
    version: int
    run: str
    tags: Mapping[str, str]


def open_experiment(uri: str, name: str, artifacts: Path) -> None:
    """Have the experiment `name`; its files go to `artifacts`, or to the server if `uri` is one.

    ZenML would leave open where they go.
    """
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    _create_database(uri)
    mlflow.set_tracking_uri(uri)
    if mlflow.get_experiment_by_name(name) is None:
        local = uri.startswith("sqlite:")
        mlflow.create_experiment(name, artifact_location=artifacts.as_uri() if local else None)


def _create_database(uri: str) -> None:
    """Let a SQLite database of MLflow appear whole: it cannot go on with one that is half made."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        with database_written_whole(path) as draft:
            MlflowClient(f"sqlite:///{draft}").search_experiments()


def libraries() -> dict[str, str]:
    """The versions of the libraries that a model depends on."""
    return {name: version(name) for name in REQUIREMENTS}


def find_alias(name: str, alias: str) -> Version | None:
    """The version of model `name` that carries `alias`, pinned; None if there is none."""
    try:
        found = MlflowClient().get_model_version_by_alias(name, alias)
    except MlflowException as err:
        if err.error_code in _ABSENT:
            return None
        raise
    return Version(name, int(found.version), found.run_id, dict(found.tags))


def find_fingerprint(name: str, fingerprint: str) -> Version | None:
    """The version of model `name` that was made from just this data, code and configuration."""
    found = MlflowClient().search_model_versions(
        f"name='{name}' and tags.fingerprint='{fingerprint}'"
    )
    if not found:
        return None
    first = min(found, key=lambda each: int(each.version))
    return Version(name, int(first.version), first.run_id, dict(first.tags))


def log_run(
    registered: Version,
    parameters: Mapping[str, object],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    files: Mapping[str, bytes],
) -> str:
    """Record what a training run did in the active MLflow run, and give the run's id.

    The run that registered the version is completed with the same, if it was killed before it had
    recorded it: the version leads there. `files` maps paths within a run's artifacts to content.
    """
    active = mlflow.active_run()
    if active is None:
        raise RuntimeError(
            "MLflow has no active run; call this in a step with the experiment tracker"
        )
    client, current = MlflowClient(), str(active.info.run_id)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for run in dict.fromkeys((registered.run, current)):
            if MODEL_VERSION in client.get_run(run).data.tags:
                continue
            mlflow.log_params(dict(parameters), run_id=run)
            mlflow.log_metrics(dict(metrics), run_id=run)
            mlflow.log_artifacts(folder, run_id=run)
            # The last of all, so that it says that the record is whole.
            for key, text in {**tags, MODEL_VERSION: str(registered.version)}.items():
                client.set_tag(run, key, text)
            if run != current:
                client.set_terminated(run)
    return current


def register(
    name: str,
    booster: xgboost.Booster,
    encoder: Encoder,
    examples: Matrix,
    fingerprint: str,
    tags: Mapping[str, str],
) -> Version:
    """Register `booster` under `name`, unless the version of this fingerprint is there already.

    The model is stored in XGBoost's own format with a signature from `examples`, shape
    (n, columns).
    """
    known = find_fingerprint(name, fingerprint)
    if known:
        return known
    rows = pd.DataFrame(examples, columns=encoder.columns)
    logged = mlflow.xgboost.log_model(
        booster,
        name="model",
        signature=infer_signature(rows, np.asarray(predict(booster, examples), dtype=np.float32)),
        pip_requirements=[f"{library}=={found}" for library, found in libraries().items()],
        model_format="ubj",
    )
    client = MlflowClient()
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)
    made = client.create_model_version(
        name,
        source=logged.model_uri,
        run_id=logged.run_id,
        model_id=logged.model_id,
        tags={**tags, "fingerprint": fingerprint},
    )
    return Version(name, int(made.version), made.run_id, dict(made.tags))


def set_alias(
    found: Version, alias: str, tags: Mapping[str, str], instead_of: str | None = None
) -> None:
    """Let `alias` mean this version, not `instead_of` if that did, and add `tags` to it."""
    client = MlflowClient()
    for key, value in tags.items():
        client.set_model_version_tag(found.name, str(found.version), key, value)
    client.set_registered_model_alias(found.name, alias, str(found.version))
    other = find_alias(found.name, instead_of) if instead_of else None
    if instead_of and other and other.version == found.version:
        client.delete_registered_model_alias(found.name, instead_of)


def crown(manifest: Manifest) -> None:
    """Have the version of a release that is in service be the champion."""
    version = Version(manifest.name, manifest.version, manifest.mlflow_run, {})
    tags = {"gate": "passed", "gate_reasons": "", "release": f"v{manifest.version}"}
    set_alias(version, CHAMPION, tags, instead_of=CHALLENGER)
