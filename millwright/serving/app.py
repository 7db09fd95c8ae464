"""The endpoints of the service that answer which machines will fail.

Whatever goes wrong is told as `{"error": ...}` in one sentence; of an error that nobody has
foreseen the log has the place.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from millwright.errors import InputError, MillwrightError
from millwright.prediction_log.log import PredictionLog
from millwright.serving import bodies, openapi
from millwright.serving.access import Access
from millwright.serving.asking import Asking
from millwright.serving.bodies import shortened
from millwright.serving.complaints import Complaints
from millwright.serving.features import OnlineReader
from millwright.serving.keys import KeyRing
from millwright.serving.load import Load
from millwright.serving.logged import batch
from millwright.serving.metrics import Metrics
from millwright.serving.observed import Observed
from millwright.serving.operations import Operations
from millwright.serving.pause import PAUSE, unavailable
from millwright.serving.policy import Policy
from millwright.serving.predictions import PredictionRequest, micros, moment
from millwright.serving.rate import Limit
from millwright.serving.readiness import Readiness
from millwright.serving.readings_request import ReadingsRequest
from millwright.serving.releases import Releases
from millwright.serving.scoring import NoReleaseError, Question, Scored, Scoring, in_use
from millwright.serving.supervision import HEARTBEAT, Post
from millwright.serving.workers import Workers
from millwright.settings import Serving, State

LOG = logging.getLogger(__name__)
FOLLOWING = 0.25  # seconds between two looks at which releases should be in use
SENT_DEADLINE = 5.0  # seconds for features of readings that are sent
CLOSING = 5.0  # seconds that the prediction log has to bring away what it can, in the end


class Service:
    """Releases, the features that they need, and the endpoints over both."""

    def __init__(
        self,
        releases: Releases,
        reader: OnlineReader,
        log: PredictionLog,
        ring: KeyRing,
        where: State,
        settings: Serving,
        post: Post | None = None,
    ) -> None:
        self.releases = releases
        self.log = log
        self.ring = ring
        self.settings = settings
        self.deadline = settings.deadline_ms / 1000
        self.metrics = Metrics(self._gauges)
        self._probing, self._receiving, self._telling = Workers(2), Workers(2), Workers(1)
        self.readiness = Readiness(releases, reader)
        policy = Policy(settings.stale, settings.missing)
        self.asking = Asking(releases, reader, policy, self._logged)
        overviewing = Scoring(releases, reader, policy, lambda _: None)
        self.operations = Operations(overviewing, log, settings, where)
        self._post = post
        self._complaints = Complaints(LOG)

    def app(self) -> Starlette:
        """The ASGI application."""
        app = Starlette(
            routes=[
                Route("/", self.describe),
                Route("/v1/predict", self.predict, methods=["POST"]),
                Route("/v1/predict/readings", self.predict_readings, methods=["POST"]),
                Route("/health", self.health),
                Route("/ready", self.ready),
                Route("/metrics", self.expose),
                Route("/openapi.json", self.openapi),
                *self.operations.routes,
            ],
            middleware=[
                Middleware(Observed, metrics=self.metrics),
                Middleware(Access, ring=self.ring, keys=self._limit(), strangers=self._limit()),
                Middleware(Load, most=self.settings.in_flight),
            ],
            exception_handlers={HTTPException: _fault},
            lifespan=self._following,
        )
        app.router.redirect_slashes = False  # a path with a slash too many is none of ours
        return app

    async def predict(self, request: Request) -> Response:
        """Predict the machines that were asked for."""
        asked = await bodies.read(request, PredictionRequest, self.settings)
        if len(asked.machines) > self.settings.most_machines:
            raise HTTPException(422, f"machines: at most {self.settings.most_machines} at once")
        now = datetime.now(UTC)
        try:
            as_of = micros(moment(asked, now))
        except InputError as err:
            raise HTTPException(422, str(err)) from None
        question = Question(
            machines=asked.machines,
            as_of=as_of,
            dated=asked.as_of is not None,
            tag=asked.tag,
            asked_at=micros(now),
            began=request.scope["began"],
        )
        told = await self.asking.told(question, asked.explain, self.deadline)
        return Response(told, media_type="application/json")

    async def predict_readings(self, request: Request) -> Response:
        """Predict machines from the readings that are sent."""
        asked = await bodies.read(request, ReadingsRequest, self.settings)
        now, arrived = datetime.now(UTC), time.perf_counter()
        try:
            job = partial(self._sent, asked, now, request.scope["began"])
            question = await self._receiving.run(job, SENT_DEADLINE)
        except InputError as err:
            raise HTTPException(422, str(err)) from None
        except (NoReleaseError, TimeoutError) as err:
            raise unavailable(str(err) or f"no answer within {SENT_DEADLINE:g} s") from None
        except MillwrightError as err:
            self._complaints.add(f"cannot take readings: {err}")
            raise unavailable("readings cannot be taken now; the log says why") from None
        spent = time.perf_counter() - arrived
        told = await self.asking.told(question, asked.explain, SENT_DEADLINE, spent)
        return Response(told, media_type="application/json")

    def _sent(self, asked: ReadingsRequest, now: datetime, began: float) -> Question:
        """What a request with readings wants to know, if what it sends is fit for features."""
        from millwright.serving.sent import checked

        loaded, _ = in_use(self.releases).of_readings(asked.tag)
        sent = checked(asked, loaded.engine.recipe, now)
        return Question(
            sent.machines, int(sent.as_of.max()), tag=asked.tag, asked_at=micros(now),
            began=began, sent=sent,
        )  # fmt: skip

    async def ready(self, _: Request) -> Response:
        """Whether predictions can be had: a release is loaded, and its features can be read."""
        try:
            said = await self._probing.run(self.readiness.told, self.deadline)
        except TimeoutError:
            said = {
                **self.readiness.unknown,
                "reason": f"the online store did not answer within {self.deadline:g} s",
            }
        if self.ring.now.door == "closed":
            said |= {"ready": False, "reason": "keys cannot be checked now; the log says why"}
        return JSONResponse(said) if said["ready"] else JSONResponse(said, 503, headers=PAUSE)

    async def health(self, _: Request) -> Response:
        """That the process lives."""
        return JSONResponse({"status": "alive"})

    async def expose(self, _: Request) -> Response:
        """Figures for Prometheus."""

        def told() -> bytes:  # the log tells of itself after a write that the disk may keep waiting
            return self.metrics.text(self.releases.routes, self.releases.refused)

        try:
            text = await self._telling.run(told, self.deadline)
        except TimeoutError:
            raise unavailable(f"no figures within {self.deadline:g} s; ask again") from None
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def describe(self, _: Request) -> Response:
        """What this is and where to go from here."""
        return JSONResponse(
            {
                "service": "millwright",
                "environment": self.releases.environment,
                "fleet": self.releases.fleet,
                "openapi": "/openapi.json",
            }
        )

    async def openapi(self, _: Request) -> Response:
        """The description of the service for machines."""
        return JSONResponse(openapi.description())

    def _limit(self) -> Limit:
        return Limit(self.settings.requests_per_second, self.settings.burst)

    def _logged(self, scored: Scored) -> None:
        self.log.append(batch(scored))
        self.metrics.scored(scored)

    def _gauges(self) -> dict[str, tuple[str, float]]:
        status = self.log.status()
        return {
            "log_written": ("Answers and outcomes that are in the prediction log", status.written),
            "log_waiting": ("Answers and outcomes on their way to the log", status.waiting),
            "log_waiting_bytes": ("What these take on disk and in memory", status.waiting_bytes),
            "log_lost": ("Answers and outcomes that the log has lost", status.lost),
            "log_fault": (
                "1 while the log cannot be written or brought away",
                int(status.fault is not None),
            ),
            "keys_fault": ("1 while the keys cannot be read", int(self.ring.fault is not None)),
            "unshadowed": (
                "Predictions that no shadow made, for it failed or was too slow",
                self.asking.unshadowed,
            ),
        }

    @contextlib.asynccontextmanager
    async def _following(self, _: Starlette) -> AsyncIterator[None]:
        self.asking.begin()
        self.log.start()
        looks = (self.ring.look, self.releases.refresh)
        tasks = [asyncio.create_task(_follow(look)) for look in looks]
        if self._post:
            self._post.watch()
            tasks.append(asyncio.create_task(_beat(self._post)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(self.log.close, CLOSING)


async def _follow(look: Callable[[], None]) -> None:
    """Look at what may have changed now and then, in a thread of its own."""
    looking = Workers(1)
    while True:
        with contextlib.suppress(TimeoutError):  # a slow disk: the next look waits its turn
            await looking.run(look, 60.0)
        await asyncio.sleep(FOLLOWING)


async def _beat(post: Post) -> None:
    """Show the supervisor that the event loop goes round."""
    while True:
        post.alive()
        await asyncio.sleep(HEARTBEAT)


async def _fault(request: Request, err: Exception) -> Response:
    """The answer to a request that is refused."""
    assert isinstance(err, HTTPException)  # noqa: S101 - it is registered for these alone
    path = shortened(request.scope["path"])
    detail = {
        404: f"there is no {path}; /openapi.json says what there is",
        405: f"{path} does not take {request.method}",
    }.get(err.status_code, err.detail)
    return JSONResponse({"error": detail}, err.status_code, headers=err.headers)
