"""HTTP for a client that costs little: requests are bytes, and a connection has one at a time."""

import asyncio
from typing import cast

PATIENCE = 10.0  # seconds for an answer


class RefusedError(Exception):
    """An answer that is none: another status than 200, or the end of the connection."""


class Connection(asyncio.Protocol):
    """A connection to a server, for one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._length = -1  # of the answer, once its head is there

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """A connection to a port of this machine."""
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(cls, "127.0.0.1", port))[1]

    async def ask(self, request: bytes) -> bytes:
        """The body of the answer to a whole request.

        Raises:
            RefusedError: there is none within PATIENCE, or its status is not 200.
        """
        if self._transport.is_closing():
            raise RefusedError("the connection has ended")
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._transport.write(request)
        late = loop.call_later(PATIENCE, self._end, RefusedError(f"no answer in {PATIENCE:g} s"))
        try:
            return await self._answer
        finally:
            late.cancel()

    def close(self) -> None:
        """Let go of it."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to write to."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Give the body to who waits, when all of it is there."""
        self._buffer += data
        if self._length < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            _, found, length = head.partition(b"content-length:")
            if head[9:12] != b"200" or not found:
                self._end(RefusedError(bytes(self._buffer[:500]).decode("latin-1")))
                return
            self._length = int(length.split(b"\r\n", 1)[0])
            del self._buffer[: end + 4]
        if len(self._buffer) >= self._length:
            body, self._length = bytes(self._buffer), -1
            self._buffer.clear()
            if self._answer and not self._answer.done():
                self._answer.set_result(body)

    def connection_lost(self, err: Exception | None) -> None:
        """Nobody is to wait any longer."""
        self._end(RefusedError(f"the connection has ended: {err}"))

    def _end(self, err: RefusedError) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(err)
        self._transport.abort()


def post(path: str, body: bytes) -> bytes:
    """A request with JSON, as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
