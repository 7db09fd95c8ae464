"""The description of the service in OpenAPI 3.1, made from the models that it validates with."""

from functools import cache
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from millwright.serving.access import needed
from millwright.serving.described import (
    ChampionRequest,
    DescriptionAnswer,
    FleetAnswer,
    HealthAnswer,
    ReadyAnswer,
    ReleasesAnswer,
    RollbackRequest,
)
from millwright.serving.logged import FeedbackAnswer, FeedbackRequest, HistoryAnswer
from millwright.serving.predictions import STORABLE, PredictionAnswer, PredictionRequest
from millwright.serving.queries import MOST_SHOWN, SHOWN
from millwright.serving.readings_request import ReadingsRequest
from millwright.traffic import Traffic

FAULT = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
FAULTS = {
    400: "the body is no JSON",
    401: "a key is needed, or it is none of this service, or has ended",
    403: "the key's role does not allow it; or without keys, somebody elsewhere asks",
    408: "the body does not arrive in time",
    409: "the release is broken or refused; what was in use stays",
    413: "the body is too long",
    415: "the body is not sent as JSON",
    422: "it does not ask for what can be answered",
    429: "more requests than this client may make; Retry-After says when to come again",
    500: "an error that nobody has foreseen; the log has its place",
    503: "it cannot be answered now: no release, a store that does not answer, too much to do",
}
LIMIT = {
    "name": "limit", "in": "query", "description": "how many at most",
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST_SHOWN, "default": SHOWN},
}  # fmt: skip
AS_OF = {
    "name": "as_of", "in": "query", "description": "an ISO time with its zone; now, if not given",
    "schema": {"type": "string", "format": "date-time"},
}  # fmt: skip
MACHINE = {
    "name": "machine", "in": "path", "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": STORABLE},
}  # fmt: skip


class Endpoint(NamedTuple):
    """What the document says of one endpoint."""

    method: Literal["get", "post", "put"]
    path: str
    summary: str
    answer: type[BaseModel] | type[dict[str, Any]] | type[str]
    body: type[BaseModel] | None = None
    parameters: tuple[dict[str, Any], ...] = ()
    status: int = 200
    faults: tuple[int, ...] = ()


READS = (422, 503)
CHANGES = (409, 422, 503)
ENDPOINTS = (
    Endpoint("post", "/v1/predict", "How likely each machine is to fail within the horizon",
             PredictionAnswer, PredictionRequest, faults=READS),
    Endpoint("post", "/v1/predict/readings",
             "The same from readings that are sent, for machines that are not in the store yet",
             PredictionAnswer, ReadingsRequest, faults=READS),
    Endpoint("get", "/v1/fleet", "The whole fleet, the most urgent machines first", FleetAnswer,
             parameters=(LIMIT, AS_OF), faults=READS),
    Endpoint("get", "/v1/machines/{machine}/predictions",
             "The last predictions of a machine, as they were logged", HistoryAnswer,
             parameters=(MACHINE, LIMIT), faults=READS),
    Endpoint("post", "/v1/feedback", "What became of machines", FeedbackAnswer, FeedbackRequest,
             status=202, faults=READS),
    Endpoint("get", "/v1/releases", "Every release, and what each one answers", ReleasesAnswer,
             faults=READS),
    Endpoint("put", "/v1/releases/champion", "Make a release the champion", ReleasesAnswer,
             ChampionRequest, faults=CHANGES),
    Endpoint("post", "/v1/releases/rollback",
             "Make the champion of before the champion again", ReleasesAnswer, RollbackRequest,
             faults=CHANGES),
    Endpoint("put", "/v1/releases/traffic", "Divide traffic among releases", ReleasesAnswer,
             Traffic, faults=CHANGES),
    Endpoint("get", "/", "What this is", DescriptionAnswer),
    Endpoint("get", "/openapi.json", "This description", dict),
    Endpoint("get", "/health", "Whether the process lives", HealthAnswer),
    Endpoint("get", "/ready", "Whether predictions can be had", ReadyAnswer),
    Endpoint("get", "/metrics", "Figures for Prometheus", str),
)  # fmt: skip


@cache
def description() -> dict[str, Any]:
    """The document."""
    asked = {each.body for each in ENDPOINTS if each.body}
    answered = {each.answer for each in ENDPOINTS if issubclass(each.answer, BaseModel)}
    _, schemas = models_json_schema(
        [
            *((model, "validation") for model in sorted(asked, key=lambda each: each.__name__)),
            *((model, "serialization") for model in sorted(answered, key=lambda e: e.__name__)),
        ],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Millwright", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {**schemas["$defs"], "Fault": FAULT},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    role = needed(endpoint.method.upper(), endpoint.path)
    statuses: set[int] = {500, *endpoint.faults}
    if role:
        statuses |= {401, 403, 429, 503}
    if endpoint.body:
        statuses |= {400, 408, 413, 415, 422}
    responses = {
        str(endpoint.status): {"description": endpoint.summary, "content": _content(endpoint)}
    }
    for status in sorted(statuses):
        responses[str(status)] = {"description": FAULTS[status], "content": _json("Fault")}
    if endpoint.path == "/ready":
        responses["503"] = {"description": "no, and why", "content": _json("ReadyAnswer")}
    operation: dict[str, Any] = {"summary": endpoint.summary, "responses": responses}
    if endpoint.parameters:
        operation["parameters"] = list(endpoint.parameters)
    if endpoint.body:
        content = _json(endpoint.body.__name__)
        operation["requestBody"] = {"required": True, "content": content}
    if role:
        operation["description"] = f"Needs a key with the role {role}, where there are keys."
        operation["security"] = [{"bearer": []}, {"key": []}, {}]
    return operation


def _content(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.answer is str:
        return {"text/plain": {"schema": {"type": "string"}}}
    if endpoint.answer is dict:
        return {"application/json": {"schema": {"type": "object"}}}
    return _json(endpoint.answer.__name__)


def _json(model: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}}}
