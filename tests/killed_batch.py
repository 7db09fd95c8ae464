"""A process that is killed while it keeps predictions: `killed_batch.py HOME ENVIRONMENT`.

It dies when all rows are written and before they count.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from inferred import row
from inferred import table as of_rows

from millwright import files
from millwright.inference import postgres_table, table
from millwright.postgres.connection import connect_arrow
from millwright.settings import State


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def connect_and_die_at_the_commit(url: str) -> Any:
    connection = connect_arrow(url)
    connection.commit = die
    return connection


if __name__ == "__main__":
    files.synchronise = die
    postgres_table.connect_arrow = connect_and_die_at_the_commit
    table.keep(State(Path(sys.argv[1]), sys.argv[2]), "plant", of_rows(row("killed", 1)))
