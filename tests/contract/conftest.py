"""What the contract tests share: one real server of each kind, started where one is needed."""

from collections.abc import Iterator

import pytest
from servers import database, postgres_server, redis_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server."""
    with postgres_server() as url:
        yield url


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """The URL of an empty database."""
    with database(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis server with a password."""
    with redis_server() as url:
        yield url
