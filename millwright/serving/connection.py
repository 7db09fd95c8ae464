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
from operator import attrgetter
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

PATIENCE = 10.0  # seconds for a head, for what is left of a body, or for an answer to be taken
MOST_HEAD = 64_000  # bytes
TOO_LONG = 431, f"a request, without its body, has at most {MOST_HEAD:,} bytes"
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
            ours = [each for each in self.connections if isinstance(each, Connection)]
            waiting = [each for each in ours if each.since is not None]
            min(waiting, key=attrgetter("since"), default=self).transport.abort()
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
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(400, "that is no request of HTTP/1.1")
        if self._in_head and self._received > MOST_HEAD:
            self._refuse(*TOO_LONG)
        elif self._received > MOST_MESSAGE:
            self.transport.abort()
        self._look()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        """From here on its endpoint has an eye on the time."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            return  # it is read again
        if refused := self._fault():
            self._refuse(*refused)
            raise httptools.HttpParserError  # which is told to the parser: go no further
        super().on_headers_complete()
        self._in_head = False
        self._unanswered.append(self.cycle)

    def on_message_complete(self) -> None:
        """All of it is there."""
        if self.parser.should_upgrade():
            return
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

    def _parse(self, data: bytes) -> None:
        """Parse what was sent, as if nobody had asked for another protocol than HTTP/1.1.

        A server need not speak another (RFC 9110, section 7.8). Java's client asks for HTTP/2 in
        its first request, and the parser skips the body of one that asks.
        """
        left = memoryview(data)
        while left:
            try:
                self.parser.feed_data(left)
            except httptools.HttpParserUpgrade as upgrade:
                left, head = left[upgrade.args[0] :], self._head_without_upgrade()
                # The parser may have left off for good. This one is as uvicorn has it.
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % each for each in self.headers if each[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _fault(self) -> tuple[int, str] | None:
        """Why a head is not taken that the parser takes: a status and a reason."""
        if self.parser.get_method() == b"CONNECT":
            return 400, "this is no proxy, and takes no CONNECT"
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MOST_HEAD:
            return TOO_LONG
        if sum(name == b"host" for name, _ in self.headers) > 1:
            return 400, "a request has one header 'Host', and this one has more"
        return None

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
