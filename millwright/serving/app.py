"""The endpoints of the service.

Whatever goes wrong is told as `{"error": ...}` in one sentence; of an error that nobody has
foreseen the log has the place.
"""

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from millwright.errors import InputError, MillwrightError
from millwright.release import Release
from millwright.serving import bodies, openapi
from millwright.serving.current import CurrentRelease
from millwright.serving.features import FeatureReader
from millwright.serving.metrics import Metrics
from millwright.serving.predictions import (
    PredictionAnswer,
    PredictionRequest,
    answer,
    check_features,
    moment,
)
from millwright.serving.workers import Workers

LOG = logging.getLogger(__name__)
DEADLINE = 4.0  # seconds that an answer may take; without it who asks would wait for a dead server
FOLLOWING = 1.0  # seconds between two looks at which release is the champion
THREADS = 4
PROBE = "-"  # a machine that no fleet has, to see whether the online store answers

Result = TypeVar("Result")


class Service:
    """A release, the features that it needs, and the endpoints over both."""

    def __init__(self, current: CurrentRelease, features: FeatureReader) -> None:
        self.current = current
        self.features = features
        self.metrics = Metrics()
        self.workers = Workers(THREADS)

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self.describe),
            Route("/v1/predict", self.predict, methods=["POST"]),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.expose),
            Route("/openapi.json", self.openapi),
        ]
        paths = frozenset(route.path for route in routes)
        return Starlette(
            routes=routes,
            middleware=[Middleware(Observed, metrics=self.metrics, paths=paths)],
            exception_handlers={HTTPException: _fault},
            lifespan=self._following,
        )

    async def predict(self, request: Request) -> Response:
        """Predict the machines that were asked for."""
        asked = await bodies.read(request, PredictionRequest)
        release = self._release()
        try:
            as_of = moment(asked, datetime.now(UTC))
            said = await self._done(partial(self._predicted, release, asked, as_of))
        except InputError as err:
            raise HTTPException(422, str(err)) from None
        except MillwrightError as err:
            LOG.warning("cannot predict: %s", err)
            raise HTTPException(503, "features cannot be read now; /ready says why") from None
        self.metrics.answered(said)
        return Response(said.model_dump_json(), media_type="application/json")

    async def ready(self, _: Request) -> Response:
        """Whether predictions can be had: a release is loaded, and its features can be read."""
        release, refused = self.current.release, self.current.refused
        said: dict[str, Any] = {
            "ready": False, "release": None, "refused": refused, "reason": refused,
        }  # fmt: skip
        if release is None:
            return JSONResponse(said, 503)
        manifest = release.manifest
        said["release"] = {"model": manifest.name, "version": manifest.version}
        try:
            await self._done(partial(self._probe, release))
        except MillwrightError as err:
            return JSONResponse({**said, "reason": str(err)}, 503)
        return JSONResponse({**said, "ready": True, "reason": None})

    async def health(self, _: Request) -> Response:
        """That the process lives."""
        return JSONResponse({"status": "alive"})

    async def expose(self, _: Request) -> Response:
        """Figures for Prometheus."""
        release = self.current.release
        text = self.metrics.text(release.manifest if release else None, self.current.refused)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def describe(self, _: Request) -> Response:
        """What this is and where to go from here."""
        return JSONResponse(
            {
                "service": "millwright",
                "environment": self.current.environment,
                "fleet": self.current.fleet,
                "openapi": "/openapi.json",
            }
        )

    async def openapi(self, _: Request) -> Response:
        """The description of the service for machines."""
        return JSONResponse(openapi.description())

    def _release(self) -> Release:
        if self.current.release is None:
            raise HTTPException(503, "no release is loaded; /ready says why")
        return self.current.release

    def _predicted(
        self, release: Release, asked: PredictionRequest, as_of: datetime
    ) -> PredictionAnswer:
        service = release.manifest.feature_service
        return answer(release, self.features.read(service, asked.machines, as_of), asked, as_of)

    def _probe(self, release: Release) -> None:
        service, now = release.manifest.feature_service, datetime.now(UTC)
        check_features(release, self.features.read(service, [PROBE], now))

    async def _done(self, job: Callable[[], Result]) -> Result:
        try:
            return await self.workers.run(job, DEADLINE)
        except TimeoutError:
            raise MillwrightError(
                f"the feature store did not answer within {DEADLINE:g} s"
            ) from None

    @contextlib.asynccontextmanager
    async def _following(self, _: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            task.cancel()

    async def _follow(self) -> None:
        """Look for another champion now and then, in a thread of its own."""
        looking = Workers(1)
        while True:
            await asyncio.sleep(FOLLOWING)
            with contextlib.suppress(TimeoutError):  # a slow disk: the next look waits its turn
                await looking.run(self.current.refresh, 60.0)


class Observed:
    """Counts and times every request, and answers for whatever nobody has foreseen."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, began = 0, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception as err:
            # The text of an unknown error may hold anything, a password too.
            frame = traceback.extract_tb(err.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            LOG.error(  # noqa: TRY400 - which would log that text
                "internal error in %s: %s at %s", scope["path"], type(err).__name__, place
            )
            if status:
                raise  # the answer has begun: all that is left is to break it off
            await JSONResponse({"error": "internal error"}, 500)(scope, receive, noting)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requested(path, status or 500, time.perf_counter() - began)


async def _fault(request: Request, err: Exception) -> Response:
    """The answer to a request that is refused."""
    assert isinstance(err, HTTPException)  # noqa: S101 - it is registered for these alone
    detail = {
        404: f"there is no {request.url.path}; /openapi.json says what there is",
        405: f"{request.url.path} does not take {request.method}",
    }.get(err.status_code, err.detail)
    return JSONResponse({"error": detail}, err.status_code, headers=err.headers)
