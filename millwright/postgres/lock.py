"""One process at a time changes a fleet's tables, from whichever machine it does."""

import time
from collections.abc import Callable
from typing import Any

from millwright.errors import BusyError
from millwright.sql import literal

PAUSE = 0.5  # seconds between two questions


def take(connection: Any, name: str, say: Callable[[str], None], patience: float) -> None:
    """Take the lock called `name`, waiting up to `patience` seconds for whoever has it.

    The connection that asks has it until it is closed, or lost.

    Raises:
        BusyError: the other one did not end in time.
    """
    key = f"hashtext({literal(name)})::bigint"
    end = time.monotonic() + patience
    told = False
    with connection.cursor() as cursor:
        while True:
            cursor.execute(f"SELECT pg_try_advisory_lock({key})")
            if cursor.fetchone()[0]:
                return
            if time.monotonic() >= end:
                raise BusyError(
                    f"{_holder(cursor, key)} still holds the tables of {name} after "
                    f"{patience:.0f} s; let it end, or end it"
                )
            if not told:
                say(f"{_holder(cursor, key)} is at work on the tables of {name}; waiting for it")
                told = True
            time.sleep(PAUSE)


def _holder(cursor: Any, key: str) -> str:
    """Whose connection has the lock, as far as PostgreSQL tells this user."""
    cursor.execute(
        "SELECT s.usename, coalesce(host(s.client_addr), 'the server''s machine'), s.pid, "
        "to_char(s.backend_start, 'YYYY-MM-DD HH24:MI') "
        "FROM pg_locks AS l JOIN pg_stat_activity AS s USING (pid) JOIN pg_database AS d "
        "ON d.oid = l.database WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
        "AND d.datname = current_database() "
        f"AND (l.classid::bigint << 32 | l.objid::bigint) = {key}"
    )
    found = cursor.fetchone()
    if found is None:
        return "another process"
    user, machine, number, since = found
    return f"'{user}' from {machine} (connection {number}, since {since} UTC)"
