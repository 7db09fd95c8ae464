"""A connection, whose client may neither keep the service waiting nor fill its memory.

uvicorn waits without end for the head of a request, for the rest of a body that nobody reads, and
for a client to take its answer, and its parser keeps a head of any size. Here a client that keeps
the service waiting is cut off after a while. Where there are as many connections as there may be,
the one that has waited longest for its client makes room for the next.
"""

import asyncio
import json
import resource
import time
from collections import deque
from functools import cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

PATIENCE = 10.0  # seconds for a head, for what is left of a body, or for an answer to be taken
MOST_HEAD = 64_000  # bytes
MOST_MESSAGE = 64_000_000  # bytes; as far what is too long is thrown away, so that it is answered
MOST = 4_000  # connections
SPARE = 200  # handles for all else that a service has open


class Connection(HttpToolsProtocol):
    """uvicorn's, within limits."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.since: float | None = None  # when it began to wait for its client
        self._ending: asyncio.TimerHandle | None = None
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._begin()

    def connection_made(self, transport: Any) -> None:
        """Make room for it."""
        super().connection_made(transport)
        if len(self.connections) > _most_connections():
            waiting = {
                each.since: each
                for each in self.connections
                if isinstance(each, Connection) and each.since
            }
            waiting.get(min(waiting, default=0), self).transport.abort()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        for cycle in self._unanswered:  # uvicorn tells the last one alone
            cycle.disconnected = True
        super().connection_lost(exc)
        self._stop()

    def data_received(self, data: bytes) -> None:
        """Take in what was sent, unless that is too much."""
        if self._whole:
            self._begin()
        self._received += len(data)
        super().data_received(data)
        if self._in_head and self._received > MOST_HEAD:
            self._refuse(431, f"the head of a request has at most {MOST_HEAD:,} bytes")
        elif self._received > MOST_MESSAGE:
            self.transport.abort()
        self._look()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what cannot be understood, as everything is refused here."""
        self._refuse(400, "that is no request of HTTP/1.1")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        """From here on its endpoint has an eye on the time."""
        super().on_headers_complete()
        self._in_head = False
        self._unanswered.append(self.cycle)

    def on_message_complete(self) -> None:
        """All of it is there."""
        super().on_message_complete()
        self._whole = True

    def on_response_complete(self) -> None:
        """It is answered, whether or not all of it is there."""
        self._unanswered.popleft()
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """The client does not take its answer."""
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self._look()

    def _begin(self) -> None:
        self._in_head, self._whole, self._received = True, False, 0
        self._stop()

    def _look(self) -> None:
        """Begin to wait for the client, go on, or leave off."""
        answered = self.cycle is None or self.cycle.response_complete
        untaken = self.flow.write_paused or self.transport.is_closing()
        if not (answered or untaken):
            self._stop()
            return
        self.since = self.since or time.monotonic()
        if self._ending is None and (untaken or not self._whole):
            self._ending = self.loop.call_later(PATIENCE, self.transport.abort)

    def _stop(self) -> None:
        self.since = None
        if self._ending:
            self._ending.cancel()
            self._ending = None

    def _refuse(self, status: int, reason: str) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps({"error": reason}).encode()
        kind = b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
        length = str(len(body)).encode()
        self.transport.write(STATUS_LINE[status] + kind + length + b"\r\n\r\n" + body)
        self.transport.close()


@cache
def _most_connections() -> int:
    """How many connections this process has handles for."""
    handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(SPARE, min(handles - SPARE, MOST))
