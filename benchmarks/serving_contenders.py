"""Who is asked over HTTP which machines will fail: our service, and Feast's and MLflow's servers.

What gives only features is held to the same probabilities: a client, outside of the clock, has the
model score them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json

from benchmarks.benchmark import Case
from benchmarks.connection import Connection, post
from benchmarks.load import Ask
from benchmarks.serving_plant import (
    MACHINE,
    RELEASE,
    STOCK,
    feast_store,
    grouped,
    load_plant,
    machines,
)
from benchmarks.serving_processes import (
    SHARED,
    end_servers,
    start_constant,
    start_feast,
    start_millwright,
    start_mlflow,
)
from millwright import release
from millwright.encoder import Encoder, Matrix
from millwright.errors import MillwrightError
from millwright.views import service_name


@dataclass(frozen=True)
class Asked:
    """How many questions there are, what opens a connection for them, and what reads an answer.

    `probabilities` are of the machines of a question, in their order; without it there are none.
    `client` is the processor of whoever asks.
    """

    questions: int
    connect: Callable[[], Awaitable[Ask]]
    probabilities: Callable[[Any], Sequence[float]] | None = None
    client: int = SHARED


def millwright(case: Case, size: int = 1) -> Asked:
    """Our service, asked about `size` machines in a request."""
    port, names = start_millwright(case), machines(case, case.options["asked"])
    requests = [post("/v1/predict", to_json({"machines": some})) for some in grouped(names, size)]

    async def connect() -> Ask:
        connection = await Connection.open(port)
        return lambda number: connection.ask(requests[number])

    return Asked(len(requests), connect, _told)


def constant(case: Case) -> Asked:
    """The floor: what gives every time the answer that our service has given once."""
    ours = millwright(case)

    async def once() -> Any:
        return await (await ours.connect())(0)

    body = asyncio.run(once())
    end_servers()
    port = start_constant(case, body)
    request = post("/", to_json({"machines": machines(case, 1)}))

    async def connect() -> Ask:
        connection = await Connection.open(port)
        return lambda _: connection.ask(request)

    return Asked(ours.questions, connect)


def feast(case: Case) -> Asked:
    """`feast serve`, asked for the features of a machine."""
    port, requests, encoding = _feast(case)
    booster = release.load(case.data / RELEASE)

    async def connect() -> Ask:
        connection = await Connection.open(port)
        return lambda number: connection.ask(requests[number])

    return Asked(
        len(requests), connect, lambda answer: booster.score(encoding.matrix(answer)).tolist()
    )


def feast_and_mlflow(case: Case) -> Asked:
    """`feast serve`, and what it gives to `mlflow models serve`."""
    port, requests, encoding = _feast(case)
    scoring = start_mlflow(case)

    async def connect() -> Ask:
        reader, scorer = await Connection.open(port), await Connection.open(scoring)

        async def ask(number: int) -> bytes:
            matrix = encoding.matrix(await reader.ask(requests[number]))
            inputs = to_json({"inputs": matrix.tolist()}, inf_nan_mode="constants")
            return await scorer.ask(post("/invocations", inputs))

        return ask

    return Asked(len(requests), connect, lambda answer: from_json(answer)["predictions"])


class Encoding:
    """From features as Feast's server writes them to the columns of the model."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._places: dict[str, int] = {}

    def matrix(self, answer: bytes) -> Matrix:
        """The rows of the model, shape (machines, columns)."""
        said = from_json(answer)
        if not self._places:
            names = said["metadata"]["feature_names"]
            self._places = {name: place for place, name in enumerate(names)}
        results = said["results"]

        def column(feature: str) -> "np.ndarray[Any, Any]":
            kind = object if feature in self._encoder.categories else np.float32
            return np.array(results[self._places[feature]]["values"], dtype=kind)

        return self._encoder.encode_columns(column, len(results[0]["values"]))


def _feast(case: Case) -> tuple[int, list[bytes], Encoding]:
    """The port of `feast serve`, a request for each machine, and what reads its answers."""
    repository = case.scratch / "feast"
    feast_store(case, repository, STOCK)
    fleet = load_plant(case)
    asked = {"feature_service": service_name(fleet, "failure")}
    requests = [
        post("/get-online-features", to_json({**asked, "entities": {MACHINE: [machine]}}))
        for machine in machines(case, case.options["asked"])
    ]
    return start_feast(case, repository), requests, Encoding(Encoder.of(fleet))


def _told(answer: bytes) -> list[float]:
    """The probabilities in an answer of our service."""
    predictions = from_json(answer)["predictions"]
    whole = [each["probability"] for each in predictions if each["status"] == "ok"]
    if len(whole) < len(predictions):
        raise MillwrightError(f"{len(predictions) - len(whole)} machines are not ok, and all are")
    return whole
