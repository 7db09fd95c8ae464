"""What an online store has that is no machine's features: refused by name, or passed over."""

import logging

from millwright.errors import first_line
from millwright.serving.plan import MistypedError

LOG = logging.getLogger(__name__)
# What comes of bytes that Feast never wrote.
ODD = (ValueError, TypeError, IndexError, OverflowError)


def unreadable(machine: str, err: BaseException | str) -> MistypedError:
    """Why a machine cannot be read, and the way out."""
    why = err if isinstance(err, str) else first_line(err)
    return MistypedError(
        f"the online store has something of machine {machine!r} that is no row of features ({why});"
        " delete it there and materialize the machine's views again"
    )


class PassedOver:
    """What a list of machines leaves out; the first of it is told, for lists are made often."""

    def __init__(self) -> None:
        self._told = False

    def add(self, what: MistypedError | str) -> None:
        """Leave something out."""
        if not self._told:
            LOG.warning("not in the list of machines, nor whatever is like it: %s", what)
        self._told = True
