"""How many requests are worked on at once, so that memory stays steady however many there are."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from millwright.serving.access import OPEN
from millwright.serving.pause import PAUSE


class Load:
    """Lets `most` requests at once through to `app`, and has the others come again.

    The paths that say how the service is do not count: under load they are needed most, and a probe
    that is refused would have the service restarted. Inside `Access` only those hold a place who
    may ask at all.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app = app
        self.most = most
        self.count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
        elif self.count >= self.most:
            told = {"error": f"{self.most} requests are worked on already; come again in a second"}
            await JSONResponse(told, 503, headers=PAUSE)(scope, receive, send)
        else:
            self.count += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.count -= 1
