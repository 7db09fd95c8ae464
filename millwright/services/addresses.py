"""Ports and passwords of the servers that run here: chosen once, kept, and so the same next time.

Everything listens on 127.0.0.1. The ports are chosen at random, so that checkouts side by side do
not meet, and below those that the system gives to outgoing connections, so that they stay free.
"""

import contextlib
import json
import os
import random
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import psutil

from millwright.errors import ConfigurationError
from millwright.files import write_private

HOST = "127.0.0.1"
USER = "millwright"
DATABASE = "millwright"
FILE = "addresses.json"
RANGE = range(20_000, 30_000)
VARIABLES = {
    "postgres": "MILLWRIGHT_POSTGRES_PORT",
    "redis": "MILLWRIGHT_REDIS_PORT",
    "mlflow": "MILLWRIGHT_MLFLOW_PORT",
}


class Addresses:
    """The ports and passwords in `folder`, made and written down where they are asked for."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.path = folder / FILE
        self.say = say
        self.ports, self.passwords = _read(self.path)

    def password(self, server: str) -> str:
        """The password of `server`."""
        if server not in self.passwords:
            self.passwords[server] = secrets.token_urlsafe(24)
            self._write()
        return self.passwords[server]

    def wanted(self, server: str) -> int | None:
        """The port that a variable or an earlier start gives `server`."""
        return configured_port(server) or self.ports.get(server)

    def port(self, server: str) -> int:
        """A port on which `server`, which does not run, can listen.

        Raises:
            ConfigurationError: the port that a variable names is taken.
        """
        wanted = self.wanted(server)
        if wanted and not is_free(wanted):
            if configured_port(server):
                raise ConfigurationError(
                    f"{server} cannot listen on port {wanted}, which {VARIABLES[server]} names: "
                    f"{_who_listens(wanted)} has it; end that, name another port, or unset "
                    f"{VARIABLES[server]} to have a free one chosen"
                )
            self.say(f"{server}: port {wanted} is taken now by {_who_listens(wanted)}")
            wanted = None
        if wanted is None:
            wanted = self._choose()
            self.say(f"{server}: port {wanted} from now on")
        if self.ports.get(server) != wanted:
            self.ports[server] = wanted
            self._write()
        return wanted

    def url(self, server: str) -> str:
        """The URL of `server`, password included."""
        place = f"{HOST}:{self.ports[server]}"
        if server == "postgres":
            return f"postgresql://{USER}:{self.password(server)}@{place}/{DATABASE}"
        return (
            f"redis://:{self.password(server)}@{place}/0"
            if server == "redis"
            else f"http://{place}"
        )

    def _choose(self) -> int:
        others = {self.wanted(server) for server in VARIABLES}
        # Not for secrecy: any port will do that nobody else is likely to choose as well.
        for port in random.sample(RANGE, len(RANGE)):
            if port not in others and is_free(port):
                return port
        raise ConfigurationError(
            f"no port from {RANGE.start} to {RANGE.stop - 1} is free; name others with "
            f"{', '.join(VARIABLES.values())}"
        )

    def _write(self) -> None:
        kept = {"ports": self.ports, "passwords": self.passwords}
        write_private(self.path, json.dumps(kept, indent=1) + "\n")


def configured_port(server: str) -> int | None:
    """The port that a variable gives `server`.

    Raises:
        ConfigurationError: it is no port, or another server's as well.
    """
    name = VARIABLES[server]
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigurationError(f"{name} is '{text}', and a port is a number from 1 to 65535")
    for other in VARIABLES.values():
        if other != name and os.environ.get(other) == text:
            raise ConfigurationError(f"{name} and {other} are both {text}; each needs its own")
    return int(text)


def is_free(port: int) -> bool:
    """Whether a server could listen on `port`."""
    with socket.socket() as probe:
        # As servers do: what is left of closed connections is in nobody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _who_listens(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                if connection.pid:
                    return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
                break
    return "another program"


def _read(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """What was kept; a file that cannot be understood counts as none, and is made anew."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        ports = {str(name): int(port) for name, port in kept["ports"].items()}
        return ports, {str(name): str(word) for name, word in kept["passwords"].items()}
    return {}, {}
