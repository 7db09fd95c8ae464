"""Ctrl-C and SIGTERM end a run at once, as SIGKILL would.

A run that is killed does no harm. One that is interrupted would unwind through libraries that
swallow the exception, wait for a lock of their own, or note a step as done and then remove what it
made. So nothing unwinds: a thread of its own waits for the signal and ends the process.
"""

import os
import signal
import threading
from collections.abc import Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_at_once(last_words: Callable[[], None]) -> None:
    """End this process with 128 + the signal's number when one comes, after `last_words`.

    Threads that were started before go on to be interrupted, so call it first of all.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_wait, args=(last_words,), name="interruption", daemon=True).start()


def heed() -> None:
    """Take both signals again in a process that one has started which waits for them itself.

    It has inherited that they are blocked, and would never hear of them.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _wait(last_words: Callable[[], None]) -> None:
    number = signal.sigwait(SIGNALS)
    try:
        last_words()
    finally:
        os._exit(128 + number)
