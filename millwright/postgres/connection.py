"""Connections to PostgreSQL: one kind for statements, one that moves tables by COPY as Arrow."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import adbc_driver_manager
import psycopg2
from adbc_driver_postgresql import dbapi

from millwright.endpoints import with_parameters, without_password, without_secrets
from millwright.errors import MillwrightError, first_line

ERRORS = (psycopg2.Error, adbc_driver_manager.Error)
# A server that is gone or frozen is noticed within seconds, not by the hour as TCP would.
_PARAMETERS = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
    "tcp_user_timeout": "9000",
    "application_name": "millwright",
}
_OPTIONS = "-c timezone=UTC -c jit=off"


def connect(url: str) -> Any:
    """A connection for statements, each of which commits by itself (psycopg2)."""
    connection = psycopg2.connect(_complete(url))
    connection.autocommit = True
    return connection


def connect_arrow(url: str) -> Any:
    """A connection that reads and writes whole tables as Arrow, in transactions (ADBC)."""
    return dbapi.connect(_complete(url))


@contextmanager
def errors_named(url: str, doing: str) -> Iterator[None]:
    """Say of which server it was that an error came, and what to do.

    Raises:
        MillwrightError: PostgreSQL refused something in the block, or does not answer.
    """
    try:
        yield
    except ERRORS as err:
        said = without_secrets(first_line(err), url, _complete(url))
        raise MillwrightError(
            f"cannot {doing} in {without_password(url)}: {said}; see that the server "
            "runs (python -m millwright services status), and run again to go on from here"
        ) from err


def _complete(url: str) -> str:
    return with_parameters(url, _OPTIONS, _PARAMETERS)
