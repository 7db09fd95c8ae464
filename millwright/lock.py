"""One run at a time may change an environment's state; another waits for it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from millwright.errors import BusyError, InputError

PATIENCE = 3600.0


@contextmanager
def held(path: Path, say: Callable[[str], None], patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock at `path`, waiting up to `patience` seconds for whoever has it.

    The operating system lets go of the lock when its holder ends, however it ends.

    Raises:
        BusyError: the other process did not end in time.
        InputError: the lock cannot be written.
    """
    lock = FileLock(path)
    holder = path.with_suffix(".pid")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{_holder(holder)} is at work here; waiting for it")
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            raise BusyError(
                f"{_holder(holder)} still holds {path} after {patience:.0f} s; "
                "let it end, or end it"
            ) from None
    except OSError as err:
        raise InputError(
            f"cannot write {path}: {err.strerror}; give a folder that may be written, with "
            "MILLWRIGHT_HOME"
        ) from err
    try:
        with suppress(OSError):  # who waits would like to know; a full disk may keep it
            holder.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        return f"process {path.read_text(encoding='utf-8').strip()}"
    except OSError:
        return "another process"
