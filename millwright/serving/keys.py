"""The keys that the service asks for, followed while it runs.

A door is `open` where there never was a file of keys: whoever is on this machine may do everything.
From the first file on it is `guarded`, and nothing opens it again: a file that cannot be understood
leaves the keys that were good before it, and one that is gone leaves the door `closed` to all until
it is back. A process that begins then knows of it by the lock beside the file, which stays.
"""

import hmac
import ipaddress
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from millwright.errors import ConfigurationError
from millwright.keys import file
from millwright.keys.book import Book
from millwright.keys.key import ID, LENGTH, Key, digest
from millwright.settings import State

LOG = logging.getLogger(__name__)
WAY_OUT = "python -m millwright keys add NAME --role predict"

Door = Literal["open", "guarded", "closed"]


class Entry(NamedTuple):
    """A key and the hash of what its client shows."""

    digest: bytes
    key: Key | None


# An id that is not known is compared too, with what nothing hashes to: it takes as long.
NOBODY = Entry(secrets.token_bytes(32), None)


@dataclass(frozen=True)
class Keys:
    """The keys of one moment, by id, and whether they are asked for."""

    door: Door
    entries: Mapping[bytes, Entry] = field(default_factory=dict)

    def find(self, shown: bytes) -> Key | None:
        """The key that a client shows, if it is one of ours; it may have expired."""
        entry = self.entries.get(shown[ID], NOBODY)
        # One byte more than a key has: something longer is none, however it begins.
        same = hmac.compare_digest(digest(shown[: LENGTH + 1]), entry.digest)
        return entry.key if same else None


class KeyRing:
    """The file at `path`, and what it said when it could last be understood.

    One that was `named` must be there from the start. `now` is replaced as a whole, so that a
    request which takes it once is judged by one state of the file.
    """

    def __init__(self, path: Path, *, named: bool = False) -> None:
        self.path = path
        self.now = Keys("closed" if os.access(file.lock(path), os.F_OK) else "open")
        self.fault: str | None = None
        self._named = named
        self._signature: file.Signature | None = None
        self._read()

    def look(self) -> None:
        """Read the file again if it is another than before, and log what that changed.

        It never raises, and takes some microseconds where nothing changed.
        """
        before, fault = self.now, self.fault
        self._read()
        if self.fault is None and self.now is not before:
            LOG.info("keys that may be used: %d, by %s", self.usable(), self.path)
        elif self.fault is not None and self.fault != fault:
            LOG.error("%s", self.fault)

    def usable(self) -> int:
        """How many keys may be used at this moment."""
        entries, now = self.now.entries.values(), datetime.now(UTC)
        return sum(key is not None and key.condition(now) == "valid" for _, key in entries)

    def _read(self) -> None:
        try:
            signature = file.signature(self.path)
            if signature == self._signature:
                return
            self._take(file.read(self.path))
        except (FileNotFoundError, NotADirectoryError):
            self._miss()
        except ConfigurationError as err:
            self._keep(str(err))
        except OSError as err:
            self._keep(f"cannot read {self.path}: {err.strerror}; let the service read it")
        except Exception as err:  # whoever follows the file has to go on following it
            self._keep(f"cannot read {self.path}: {type(err).__name__}; put back what was there")
        else:
            self._signature = signature

    def _take(self, book: Book) -> None:
        entries = {key.id.encode(): Entry(bytes.fromhex(key.hash), key) for key in book.keys}
        self.now, self.fault = Keys("guarded", entries), None

    def _miss(self) -> None:
        if self._named or self.now.door != "open":
            self.now = Keys("closed")
            lock = file.lock(self.path)
            self._report(
                f"{self.path} is not there, and nobody is answered until it is; put it back, or "
                f"make a key: {WAY_OUT}"
                + ("" if self._named else f"; to do without keys, remove {lock} and start again")
            )

    def _keep(self, fault: str) -> None:
        if self.now.door == "open":  # somebody wants keys, and it cannot be said which
            self.now = Keys("closed")
        self._report(fault)

    def _report(self, fault: str) -> None:
        self._signature = None  # so that the file is read as soon as it is mended
        self.fault = fault


def key_ring(state: State) -> KeyRing:
    """The keys of an environment, as `python -m millwright keys` keeps them."""
    return KeyRing(file.place(state), named=bool(os.environ.get(file.VARIABLE)))


def check_exposure(address: str, ring: KeyRing, *, again: bool = False) -> None:
    """See to it that a service which others can reach asks for keys.

    `address` is what the socket listens on, such as 127.0.0.1 or `::`. A process that begins
    `again`, in place of one that answered, does so whatever became of the keys: until there are
    some it refuses everybody, where clients would wait for nothing otherwise.

    Raises:
        ConfigurationError: it would answer everybody, or nobody.
    """
    if again and ring.now.door != "open":
        if ring.fault:
            LOG.error("%s", ring.fault)
        return
    if ring.fault:
        raise ConfigurationError(f"the service cannot tell who may ask it: {ring.fault}")
    if not is_here(address) and not ring.usable():
        raise ConfigurationError(
            f"{address} can be reached from other machines, and there is no key in {ring.path} "
            f"that may be used; make one: {WAY_OUT}, or listen on 127.0.0.1 alone"
        )


def is_here(address: str) -> bool:
    """Whether `address` is one of this machine that no other one reaches."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
