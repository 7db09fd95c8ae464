"""All keys of an environment, and what may be done to them: each change gives another book."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Self

from pydantic import model_validator

from millwright.configuration import Strict, nearest
from millwright.errors import ConfigurationError
from millwright.fields import distinct
from millwright.keys.key import Key, Role, new_key

REMEMBERED = timedelta(days=30)  # that the entry of a key which has ended is kept for


class Book(Strict):
    """The keys in the order in which they were made."""

    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _has_each_once(self) -> Self:
        distinct(tuple(key.id for key in self.keys))
        return self

    def named(self, name: str) -> list[Key]:
        """The keys of a name that were not revoked, the newest last.

        Raises:
            ConfigurationError: the name is not known, or all its keys were revoked.
        """
        mine = [key for key in self.keys if key.name == name]
        if not mine:
            raise ConfigurationError(f"there is no key '{name}'; {nearest(name, self.names())}")
        left = [key for key in mine if key.revoked is None]
        if not left:
            raise ConfigurationError(
                f"key '{name}' was revoked; make another: python -m millwright keys add {name} "
                f"--role {mine[-1].role}"
            )
        return left

    def names(self) -> list[str]:
        """The names, each once."""
        return list(dict.fromkeys(key.name for key in self.keys))

    def added(
        self, name: str, role: Role, now: datetime, life: timedelta | None
    ) -> tuple["Book", Key, str]:
        """The book with a new key, the key, and what its client has to show.

        Raises:
            ConfigurationError: a key of that name is in use.
        """
        if any(key.name == name and key.condition(now) == "valid" for key in self.keys):
            raise ConfigurationError(
                f"there is a key '{name}' already; replace it: python -m millwright keys rotate "
                f"{name}, or take another name"
            )
        key, shown = new_key(name, role, now, life)
        return _book([*self.keys, key], now), key, shown

    def rotated(self, name: str, now: datetime, grace: timedelta) -> tuple["Book", Key, str]:
        """The same with a new key for `name`, whose former ones end after `grace` at the latest.

        The new one has the role and the lifetime of the newest before it.

        Raises:
            ConfigurationError: there is no such key, or it was revoked.
        """
        former = self.named(name)
        key, shown = new_key(name, former[-1].role, now, former[-1].lifetime)
        end = now + grace
        kept = [
            each.model_copy(update={"expires": min(each.expires or end, end)})
            if each in former
            else each
            for each in self.keys
        ]
        return _book([*kept, key], now), key, shown

    def revoked(self, name: str, now: datetime) -> "Book":
        """The same with all keys of `name` revoked; those that were already stay as they are.

        Raises:
            ConfigurationError: there is no such key.
        """
        if name in self.names() and all(key.revoked for key in self.keys if key.name == name):
            return self
        mine = self.named(name)
        kept = [
            each.model_copy(update={"revoked": now}) if each in mine else each for each in self.keys
        ]
        return _book(kept, now)


def _book(keys: Iterable[Key], now: datetime) -> Book:
    """A book without what has ended long ago, so that it does not grow with every rotation."""
    ends = ((key, key.revoked or key.expires) for key in keys)
    return Book(keys=tuple(key for key, end in ends if end is None or end > now - REMEMBERED))
