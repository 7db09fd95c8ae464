"""Where the prediction log ends up: what a place must do to keep it."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from millwright.errors import MillwrightError

if TYPE_CHECKING:
    from millwright.prediction_log.content import Content


class RefusedError(MillwrightError):
    """A sink will not take a segment for what is in it, however often it is asked."""


class Sink(Protocol):
    """Takes segments of the journal. Every call may raise and is then made again later."""

    def take(self, segment: str, content: "Content") -> None:
        """Keep the rows of a segment, all or none; those of one that was taken are not kept twice.

        Raises:
            RefusedError: it will never take them.
            MillwrightError: it cannot take them now.
            OSError: likewise.
        """

    def forget(self, segment: str) -> None:
        """Know that the segment is gone: it will not come a second time."""

    def tidy(self) -> None:
        """Put in order what was taken, if there is anything to do."""

    def close(self) -> None:
        """Let go of connections."""


class LateSink:
    """A sink that is opened when it is first needed, and again as long as that fails.

    So a service starts without the libraries and the server that its sink takes.
    """

    def __init__(self, open_sink: Callable[[], Sink]) -> None:
        self._open = open_sink
        self._sink: Sink | None = None
        self._opening = threading.Lock()

    def take(self, segment: str, content: "Content") -> None:
        """As the sink does."""
        self._opened().take(segment, content)

    def forget(self, segment: str) -> None:
        """As the sink does."""
        self._opened().forget(segment)

    def tidy(self) -> None:
        """As the sink does."""
        self._opened().tidy()

    def close(self) -> None:
        """As the sink does, if it was opened."""
        if self._sink:
            self._sink.close()

    def _opened(self) -> Sink:
        with self._opening:
            if self._sink is None:
                self._sink = self._open()
            return self._sink
