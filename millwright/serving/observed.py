"""What every request passes through: it is counted, and no error shows more than it may."""

import logging
import time
import traceback
from urllib.parse import quote

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from millwright.serving.metrics import Metrics

LOG = logging.getLogger(__name__)


class Observed:
    """Counts and times every request, and answers for whatever nobody has foreseen."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, began = 0, time.perf_counter()
        scope["began"] = began

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception as err:
            # The text of an unknown error may hold anything, a password too, and a path a new line.
            frame = traceback.extract_tb(err.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            LOG.error(  # noqa: TRY400 - which would log that text
                "internal error in %s: %s at %s", quote(scope["path"]), type(err).__name__, place
            )
            if status:
                raise  # the answer has begun: all that is left is to break it off
            await JSONResponse({"error": "internal error"}, 500)(scope, receive, noting)
        finally:
            # The endpoint's own name, so that no caller makes new labels.
            endpoint = scope.get("endpoint")
            name = getattr(endpoint, "__name__", "other") if endpoint else "other"
            self.metrics.requested(name, status or 500, time.perf_counter() - began)
