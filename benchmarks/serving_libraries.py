"""The same work without a server: Feast's SDK and MLflow's pyfunc, and our reader and release."""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import numpy as np

from benchmarks.benchmark import Case
from benchmarks.load import Ask
from benchmarks.serving_contenders import Asked
from benchmarks.serving_plant import (
    MACHINE,
    RELEASE,
    STOCK,
    feast_store,
    grouped,
    load_plant,
    machines,
)
from benchmarks.serving_processes import MEASURED, settle, staging, variables
from millwright import release
from millwright.encoder import Encoder, Scores
from millwright.serving.features import open_reader, read
from millwright.serving.plan import Plan
from millwright.serving.predictions import micros
from millwright.views import service_name

STORE_SECONDS = 5.0  # for an answer of Redis

Predict = Callable[[Sequence[str]], Scores]  # the probabilities of machines


def millwright(case: Case) -> Predict:
    """What a batch of our own reads and scores."""
    _settle(case)
    reader = open_reader(staging(case), STORE_SECONDS)
    used = release.load(case.data / RELEASE)
    plan, encoder = Plan(used.manifest.views), used.manifest.encoder

    def predict(names: Sequence[str]) -> Scores:
        as_of = np.full(len(names), micros(datetime.now(UTC)), np.int64)
        rows = read(reader, plan, names, as_of)
        return used.score(encoder.encode_columns(rows.columns.__getitem__, len(rows)))

    return predict


def feast_and_mlflow(case: Case) -> Predict:
    """One FeatureStore and one model of MLflow's, as their documentation has them."""
    _settle(case)
    import mlflow.pyfunc

    fleet = load_plant(case)
    encoder, name = Encoder.of(fleet), service_name(fleet, "failure")
    store = feast_store(case, case.scratch / "feast", STOCK)
    service = store.get_feature_service(name)
    model = mlflow.pyfunc.load_model(str(case.data / "mlflow"))

    def predict(names: Sequence[str]) -> Scores:
        found = store.get_online_features(service, [{MACHINE: name} for name in names])
        scores: Scores = model.predict(encoder.encode(found.to_df()))
        return scores

    return predict


def asked(library: Callable[[Case], Predict], size: int, case: Case) -> Asked:
    """A library to ask about `size` machines at once, as if it were a server."""
    predict, groups = library(case), grouped(machines(case, case.options["asked"]), size)

    async def ask(number: int) -> Scores:
        return predict(groups[number])

    async def connect() -> Ask:
        return ask

    return Asked(len(groups), connect, lambda answer: answer, MEASURED)


def _settle(case: Case) -> None:
    settle(case, MEASURED)
    os.environ.update(variables(case))
