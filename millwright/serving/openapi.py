"""The description of the service in OpenAPI 3.1, made from the models that it validates with."""

from typing import Any

from pydantic.json_schema import models_json_schema

from millwright.serving.predictions import PredictionAnswer, PredictionRequest

FAULT = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
FAULTS = {
    "400": "the body is no JSON",
    "408": "the body does not arrive in time",
    "413": "the body is too long",
    "415": "the body is not sent as JSON",
    "422": "the body does not ask for what can be answered",
    "500": "an error that nobody has foreseen; the log has its place",
    "503": "no release is loaded, or the feature store does not answer",
}


def description() -> dict[str, Any]:
    """The document."""
    _, schemas = models_json_schema(
        [(PredictionRequest, "validation"), (PredictionAnswer, "serialization")],
        ref_template="#/components/schemas/{model}",
    )
    reference = "#/components/schemas/"
    faults = {
        status: {"description": text, "content": _json({"$ref": f"{reference}Fault"})}
        for status, text in FAULTS.items()
    }
    answer = _json({"$ref": f"{reference}PredictionAnswer"})
    asked = _json({"$ref": f"{reference}PredictionRequest"})
    return {
        "openapi": "3.1.0",
        "info": {"title": "Millwright", "version": "1"},
        "paths": {
            "/v1/predict": {
                "post": {
                    "summary": "How likely each machine is to fail within the horizon",
                    "requestBody": {"required": True, "content": asked},
                    "responses": {
                        "200": {"description": "a prediction a machine", "content": answer},
                        **faults,
                    },
                }
            },
            "/health": {"get": _plain("whether the process lives", ("200",))},
            "/ready": {"get": _plain("whether predictions can be had", ("200", "503"))},
            "/metrics": {"get": _plain("figures for Prometheus", ("200",))},
        },
        "components": {"schemas": {**schemas["$defs"], "Fault": FAULT}},
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _plain(summary: str, statuses: tuple[str, ...]) -> dict[str, Any]:
    meanings = {"200": "yes", "503": "no, and why"}
    return {
        "summary": summary,
        "responses": {status: {"description": meanings[status]} for status in statuses},
    }
