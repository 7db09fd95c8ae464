"""What the service says of itself in OpenAPI, held against what it answers.

Requests are made from its own document, such as it describes and such as it does not, always the
same ones: the borders of every value, and some more that Hypothesis thinks of.
"""

import re
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from service_plant import Plant, Server, app_of, filled_plant, serving
from starlette.routing import Route

from millwright.serving import openapi
from millwright.settings import REPOSITORY

EXAMPLES = 10  # of each endpoint, besides the borders
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]
document = schemathesis.openapi.from_dict(openapi.description(), config=schemathesis.Config())


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with filled_plant(tmp_path_factory, 1, 2) as plant:
        yield plant


@pytest.fixture(scope="module")
def server(plant: Plant) -> Iterator[Server]:
    with serving(plant) as server:
        server.in_use(1)
        yield server


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@document.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_each_answer_is_one_that_the_document_describes(
    case: schemathesis.Case, server: Server, session: requests.Session
) -> None:
    said = case.call_and_validate(base_url=server.url, session=session, checks=CHECKS, timeout=60)
    if said.status_code >= 400 and said.status_code != 503:
        assert list(said.json()) == ["error"]
        assert said.json()["error"]


def test_the_document_that_is_checked_is_the_one_that_is_served(server: Server) -> None:
    assert server.get("/openapi.json").json() == openapi.description()


def test_the_guide_names_each_endpoint_as_the_metrics_do(plant: Plant) -> None:
    guide = (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
    table = guide.partition("| `endpoint` |")[2].partition("\n\n")[0]
    told = {}
    for line in table.splitlines()[2:]:
        paths, _, labels, _ = line.strip("|").split(" | ", 3)
        told |= dict(zip(re.findall(r"/[^`]*", paths), re.findall(r"\w+", labels), strict=True))
    routes = [route for route in app_of(plant).routes if isinstance(route, Route)]
    assert told == {re.sub(r"{.*}", "ID", route.path): route.endpoint.__name__ for route in routes}
