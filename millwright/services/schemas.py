"""The schemas in PostgreSQL that must be there before libraries make tables in them."""

from collections.abc import Sequence
from typing import Any

import psycopg2
from psycopg2 import sql

from millwright.endpoints import without_password
from millwright.errors import MillwrightError
from millwright.services.answers import clean


def create(url: str, names: Sequence[str]) -> None:
    """Create the schemas `names` in the database at `url` where they are absent.

    Raises:
        MillwrightError: the user may not do that, or the database does not answer.
    """
    shown = without_password(url)
    try:
        connection = psycopg2.connect(url, connect_timeout=5)
        try:
            with connection, connection.cursor() as cursor:
                _create(cursor, names)
        finally:
            connection.close()
    except psycopg2.errors.InsufficientPrivilege as err:
        raise MillwrightError(
            f"the user of {shown} may not create schemas; have these created for him: "
            f"{', '.join(names)} (CREATE SCHEMA ... AUTHORIZATION ...)"
        ) from err
    except psycopg2.Error as err:
        raise MillwrightError(f"postgres at {shown}: {clean(str(err).strip(), url)}") from err


def _create(cursor: Any, names: Sequence[str]) -> None:
    # Looked for first: a user who may not create any can still use those that there are.
    cursor.execute("SELECT nspname FROM pg_namespace")
    there = {row[0] for row in cursor.fetchall()}
    for name in names:
        if name not in there:
            statement = sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name))
            cursor.execute(statement)
