"""What an online store has that is no machine's features: refused by name, or passed over."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from millwright.errors import first_line
from millwright.serving.plan import MistypedError

LOG = logging.getLogger(__name__)
# What comes of bytes that Feast never wrote.
ODD = (ValueError, TypeError, IndexError, OverflowError)

Found = TypeVar("Found")


def unreadable(machine: str, err: BaseException | str) -> MistypedError:
    """Why a machine cannot be read, and the way out."""
    why = err if isinstance(err, str) else first_line(err)
    return MistypedError(
        f"the online store has something of machine {machine!r} that is no row of features ({why});"
        " delete it there and materialize the machine's views again"
    )


def readable(
    machines: Sequence[str], read: Callable[[Sequence[str]], Found]
) -> tuple[list[Found], MistypedError | None]:
    """What `read` makes of machines: of all of them at once, or in parts without the odd ones.

    With it comes why the first of those cannot be read, or None where there is none.
    """
    half = len(machines) // 2
    try:
        return [read(machines)], None
    except MistypedError as err:
        if not half:
            return [], err
    found, odd = readable(machines[:half], read)
    others, another = readable(machines[half:], read)
    return found + others, odd or another


class PassedOver:
    """What a look at many machines leaves out; the first is told, for such looks are frequent."""

    def __init__(self) -> None:
        self._told = False

    def add(self, what: MistypedError | str) -> None:
        """Leave something out."""
        if not self._told:
            LOG.warning("left out of the fleet, as is whatever is like it: %s", what)
        self._told = True

    def parts(self, machines: Sequence[str], read: Callable[[Sequence[str]], Found]) -> list[Found]:
        """What `read` makes of machines: of all of them at once, or in parts without the odd ones.

        Raises:
            MistypedError: not one of them can be read.
        """
        found, odd = readable(machines, read)
        if odd:
            if not found:
                raise odd
            self.add(odd)
        return found
