"""The file of an environment's keys: where it is, what it says, and changing it one at a time.

It is `keys.json` among the environment's state, or the file that `MILLWRIGHT_KEYS` names, such as a
mounted Secret. It holds no key, only hashes; still nobody but its owner may read it.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from millwright.errors import ConfigurationError
from millwright.files import write_private
from millwright.keys.book import Book
from millwright.lock import held
from millwright.settings import State

VARIABLE = "MILLWRIGHT_KEYS"
PATIENCE = 60.0  # seconds that a change waits for another
MOST_BYTES = 1_000_000  # some three thousand keys

Signature = tuple[int, int, int, int]


def place(state: State) -> Path:
    """Where the keys of an environment are.

    A link stays one: in a mounted Secret it leads to another file whenever the Secret changes.
    """
    named = os.environ.get(VARIABLE)
    return Path(named).absolute() if named else state.keys


def lock(path: Path) -> Path:
    """What is held by who changes the keys; it stays, and so tells that there were some."""
    return path.with_suffix(".lock")


def signature(path: Path) -> Signature:
    """What differs as soon as the file at `path` was written, replaced or given other rights.

    Raises:
        ConfigurationError: it is not a file, or too long, or others may write to it.
        OSError: there is none, or it cannot be looked at.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would keep its reader waiting
        raise ConfigurationError(f"{path} is no file; name the file of the keys in {VARIABLE}")
    if found.st_size > MOST_BYTES:
        raise ConfigurationError(f"{path} is longer than {MOST_BYTES:,} bytes, so no file of keys")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"{path} may be written by others than its owner, who could let themselves in; "
            f"chmod go-w {path}"
        )
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def read(path: Path) -> Book:
    """What the file at `path` says.

    Raises:
        ConfigurationError: it cannot be understood.
        OSError: it cannot be read.
    """
    try:
        return Book.model_validate_json(path.read_bytes())
    except ValidationError as err:
        faults = err.errors(include_url=False, include_input=False, include_context=False)
        where = ".".join(map(str, faults[0]["loc"])) or "the whole"
        raise ConfigurationError(
            f"{path} is no file of keys: {where}: {faults[0]['msg']}; put back what was there, or "
            "remove it and add keys anew: python -m millwright keys add"
        ) from None


def there(path: Path) -> Book:
    """What the file at `path` says; an empty book if there is none.

    Raises:
        ConfigurationError: it cannot be read or understood.
    """
    try:
        signature(path)
        return read(path)
    except FileNotFoundError:
        return Book()
    except OSError as err:
        raise ConfigurationError(
            f"cannot read {path}: {err.strerror}; let its owner do this, or name another file in "
            f"{VARIABLE}"
        ) from err


@contextmanager
def changing(path: Path, say: Callable[[str], None]) -> Iterator[Callable[[Book], None]]:
    """Hold the keys alone, and yield what writes a book in their place, whole or not at all.

    Raises:
        BusyError: another change does not end.
        ConfigurationError: nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise ConfigurationError(
                f"cannot write to {path.parent}; keys of a mounted Secret are changed where the "
                f"Secret is made, with {VARIABLE} naming the file there"
            )
        with held(lock(path), say, PATIENCE):
            yield lambda book: write_private(path, book.model_dump_json(indent=1) + "\n")
    except OSError as err:
        raise ConfigurationError(
            f"cannot write {path}: {err.strerror}; name another file in {VARIABLE}"
        ) from err
