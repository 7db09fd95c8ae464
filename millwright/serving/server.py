"""The service as a process: its address, its start and its end."""

import signal
import socket
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from millwright.errors import ConfigurationError
from millwright.serving.connection import Connection

BACKLOG = 1024  # connections that wait for their turn
GRACE = 10  # seconds that requests in work have when the service is asked to end


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any free one.

    Raises:
        ConfigurationError: that cannot be had.
    """
    if not 0 <= port < 65536:  # the system would take what is left of it
        raise ConfigurationError(f"--port is {port}, and a port is a number from 0 to 65535")
    listening = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        # What is left of closed connections is in nobody's way.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as err:
        if listening:
            listening.close()
        reason = getattr(err, "strerror", None) or str(err)
        raise ConfigurationError(
            f"cannot listen on {host}, port {port}: {reason}; name another with --host and --port"
        ) from err
    return listening


def address(listening: socket.socket) -> str:
    """The URL of a socket that listens."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def inherited(handles: str) -> tuple[socket.socket, socket.socket]:
    """The socket that a supervisor listens on, and the line to it."""
    listening, line = (socket.socket(fileno=int(handle)) for handle in handles.split(","))
    return listening, line


def prepared(app: Starlette) -> uvicorn.Server:
    """What will serve, with all that it needs imported: who stands by has no time for that."""
    config = uvicorn.Config(
        app,
        backlog=BACKLOG,
        loop="uvloop",
        http=Connection,
        ws="none",
        log_config=None,
        log_level="error",  # whatever strangers send is no reason for a line
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE,
    )
    config.load()
    config.get_loop_factory()
    return uvicorn.Server(config)


def run(server: uvicorn.Server, listening: socket.socket) -> None:
    """Answer until SIGTERM or Ctrl-C, and then finish what is in work."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        server.should_exit = True

    # uvicorn raises the signal again when it has ended; that is no reason to die of it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    server.run(sockets=[listening])
