"""The servers of an environment, watched while a run is at work.

Libraries wait for a server that has gone in their own ways: some for minutes, some for ever. So the
servers are asked before a run and, by a thread, all through it; when one is away the run ends and
says which. It is ended as if it were killed, which does no harm: run again, it goes on.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from millwright.endpoints import Endpoints, endpoints
from millwright.errors import MillwrightError
from millwright.services import answers
from millwright.settings import Settings, State

INTERVAL = 2.0  # seconds between two rounds of questions
PATIENCE = 3  # rounds without an answer: a busy server may miss one


@contextmanager
def watched(state: State, settings: Settings, last_words: Callable[[str], None]) -> Iterator[None]:
    """Work in the block with the servers of an environment, if it has any.

    A server that goes away ends the process with exit code 1, after `last_words`.

    Raises:
        MillwrightError: a server does not answer; it names each.
    """
    if settings.servers == "none":
        yield
        return
    servers = endpoints(state)
    answers.check(servers, state)
    done = threading.Event()
    words = (servers, state.environment, done, last_words)
    threading.Thread(target=_ask, args=words, name="watch", daemon=True).start()
    try:
        yield
    except MillwrightError:
        raise
    except Exception:
        answers.check(servers, state)  # was it that, whatever the library says of it?
        raise
    finally:
        done.set()


def _ask(
    servers: Endpoints, environment: str, done: threading.Event, last_words: Callable[[str], None]
) -> None:
    missed = 0
    while not done.wait(INTERVAL):
        problems = answers.unreachable(servers)
        missed = missed + 1 if problems else 0
        if missed == PATIENCE and not done.is_set():
            said = answers.describe(vars(servers), problems)
            try:
                last_words(
                    f"environment '{environment}' has lost a server: {said}; see python -m "
                    f"millwright services status --stack {environment}, and run the same command "
                    "again to go on from here"
                )
            finally:
                os._exit(1)
