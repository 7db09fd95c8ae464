"""Where Redis is, how long its answer may take, and what is said when it gives none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import exceptions
from redis.connection import parse_url

from millwright.errors import ConfigurationError, MillwrightError

SOCKET_SECONDS = 2
# Unless the connection string says otherwise: answer or fail at once, for somebody is waiting.
PATIENCE = {
    "socket_timeout": SOCKET_SECONDS,
    "socket_connect_timeout": SOCKET_SECONDS,
    "retry": None,
}


def nodes_and_options(connection: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Hosts, and what is said about all of them, of a URL or of Feast's `host:port,name=value`.

    Raises:
        ConfigurationError: it begins like a URL and is none.
    """
    if not connection.startswith(("redis://", "rediss://")):
        from feast.infra.online_stores.redis import RedisOnlineStore

        nodes, options = RedisOnlineStore._parse_connection_string(connection)
        return nodes, options
    try:
        options = dict(parse_url(connection))  # type: ignore[no-untyped-call]
    except ValueError:  # its text would tell the password
        raise ConfigurationError(
            "'online_store.connection_string' is no URL of Redis; write it like "
            "redis://:PASSWORD@HOST:6379/0, with %XX for signs in the password"
        ) from None
    if options.pop("connection_class", None):
        options["ssl"] = True
    node = {"host": options.pop("host", "localhost"), "port": options.pop("port", 6379)}
    return [node], options


@contextmanager
def answering(connection: str) -> Iterator[None]:
    """Name the server in whatever goes wrong with it, and no password."""
    try:
        yield
    except exceptions.RedisError as err:
        nodes, options = nodes_and_options(connection)
        server = ", ".join(f"{node['host']}:{node['port']}" for node in nodes)
        secret = str(options.get("password") or "")
        raise MillwrightError(f"Redis at {server} {_reason(err, secret)}") from err


def _reason(err: exceptions.RedisError, secret: str) -> str:
    if isinstance(err, exceptions.AuthenticationError):
        return "refuses the user or the password; check MILLWRIGHT_REDIS_URL"
    if isinstance(err, exceptions.TimeoutError):
        return "does not answer in time; see whether it is overloaded or frozen"
    if isinstance(err, exceptions.ConnectionError):
        return (
            "cannot be reached; start what runs here with python -m millwright services up, or "
            "correct MILLWRIGHT_REDIS_URL"
        )
    text = str(err).replace(secret, "***") if secret else str(err)
    return f"refuses: {text}"
