"""An API key: what a client shows, and the little that is kept of it.

A key is `mw_<id>_<secret>`. The id finds its entry; the secret is 256 bits from the generator of
the operating system. Kept is the SHA-256 of the whole, and no slow hash such as scrypt: that is to
make guessing dear where a password can be guessed. 256 random bits cannot, and a slow hash would
only cost every request milliseconds.
"""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from millwright.configuration import Strict

Role = Literal["predict", "operate"]
Condition = Literal["valid", "expired", "revoked"]
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

# Within years that every time zone has.
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
Moment = Annotated[
    AwareDatetime,
    Field(ge=_FIRST, lt=_LAST),
    AfterValidator(lambda moment: moment.astimezone(UTC)),
]

_MARK = "mw_"
_ID, _SECRET = 6, 32  # bytes; written as hexadecimal digits, two for each
ID = slice(len(_MARK), len(_MARK) + 2 * _ID)  # where the id stands in what is shown
LENGTH = ID.stop + 1 + 2 * _SECRET


class Key(Strict):
    """What is kept of a key. Several may have one name: that which a rotation replaces ends later.

    `expires` and `revoked` are None while nothing ends it. All times are UTC.
    """

    name: str = Field(pattern=f"^{NAME}$")
    id: str = Field(pattern=f"^[0-9a-f]{{{2 * _ID}}}$")
    role: Role
    hash: str = Field(pattern="^[0-9a-f]{64}$")
    created: Moment
    expires: Moment | None = None
    revoked: Moment | None = None

    def condition(self, now: datetime) -> Condition:
        """Whether it may be used."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"

    @property
    def lifetime(self) -> timedelta | None:
        """How long it lasts from when it was made; None if nothing ends it."""
        return self.expires - self.created if self.expires else None

    def may(self, role: Role) -> bool:
        """Whether it has the rights of `role`: who may operate may predict."""
        return self.role in (role, "operate")


def new_key(name: str, role: Role, now: datetime, life: timedelta | None) -> tuple[Key, str]:
    """A new key, and what its client has to show: kept nowhere, so it cannot be told again."""
    identity = secrets.token_hex(_ID)
    shown = f"{_MARK}{identity}_{secrets.token_hex(_SECRET)}"
    kept = Key(
        name=name,
        id=identity,
        role=role,
        hash=digest(shown.encode()).hex(),
        created=now,
        expires=now + life if life else None,
    )
    return kept, shown


def digest(shown: bytes) -> bytes:
    """The hash of what a client shows, 32 bytes."""
    return hashlib.sha256(shown).digest()
