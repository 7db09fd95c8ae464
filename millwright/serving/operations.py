"""The endpoints beside prediction: the fleet, a machine's history, releases, and feedback."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import to_json
from starlette.convertors import register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from millwright import release as releases
from millwright import traffic, trial
from millwright.errors import BusyError, InputError, MillwrightError, ReleaseError
from millwright.prediction_log.log import PredictionLog
from millwright.prediction_log.opening import recent
from millwright.serving import bodies, logged, queries
from millwright.serving.complaints import Complaints
from millwright.serving.described import ChampionRequest, RollbackRequest
from millwright.serving.features import check_published
from millwright.serving.overview import Fleet
from millwright.serving.pause import unavailable
from millwright.serving.scoring import NoReleaseError, Scoring
from millwright.serving.workers import Workers
from millwright.settings import Serving, State
from millwright.traffic import Traffic

LOG = logging.getLogger(__name__)
PATIENCE = 30.0  # seconds for what looks at a whole fleet, or into the log
CHANGE = 120.0  # seconds to prove a release

Result = TypeVar("Result")


class Operations:
    """What the service can be asked besides predictions. What waits, waits in threads."""

    def __init__(
        self, scoring: Scoring, log: PredictionLog, settings: Serving, state: State
    ) -> None:
        self.releases = scoring.releases
        self.reader = scoring.reader
        self.log = log
        self.settings = settings
        self.state = state
        self.fleet = self.releases.fleet
        self.overviews = Fleet(scoring)
        self._looking = Workers(1)  # over the whole fleet, which takes its time
        self._reading = Workers(2)
        self._changing = Workers(1)
        self._complaints = Complaints(LOG)

    @property
    def routes(self) -> list[Route]:
        """The endpoints."""
        register_url_convertor("anything", queries.Anything())
        return [
            Route("/v1/fleet", self.overview),
            Route("/v1/machines/{machine:anything}/predictions", self.history),
            Route("/v1/feedback", self.feedback, methods=["POST"]),
            Route("/v1/releases", self.released),
            Route("/v1/releases/champion", self.promote, methods=["PUT"]),
            Route("/v1/releases/rollback", self.rollback, methods=["POST"]),
            Route("/v1/releases/traffic", self.split, methods=["PUT"]),
        ]

    async def overview(self, request: Request) -> Response:
        """The whole fleet, the most urgent machines first."""
        asked = queries.read(request, "limit", "as_of")
        limit, as_of = queries.limit(asked), queries.as_of(asked)

        def told() -> dict[str, Any]:
            return self.overviews.overview(as_of).told(limit)

        return _json(await self._done(self._looking, told, PATIENCE))

    async def history(self, request: Request) -> Response:
        """The last predictions of a machine, as they were logged."""
        limit = queries.limit(queries.read(request, "limit"))
        machine = queries.machine(request)

        def told() -> dict[str, Any]:
            rows = recent(self.state, self.fleet, machine, limit)
            return logged.answer(machine, rows)

        return _json(await self._done(self._reading, told, PATIENCE))

    async def feedback(self, request: Request) -> Response:
        """What became of machines."""
        asked = await bodies.read(request, logged.FeedbackRequest, self.settings)
        now = datetime.now(UTC)
        for place, each in enumerate(asked.outcomes):
            if each.observed_at > now:
                raise HTTPException(422, f"outcomes.{place}.observed_at is in the future")
        taken = logged.outcomes(asked.outcomes)
        await self._done(self._reading, lambda: self.log.report(taken), PATIENCE)
        return _json({"taken": len(taken)}, 202)

    async def released(self, request: Request) -> Response:
        """Every release, and what each one answers."""
        queries.read(request)
        return _json(await self._done(self._reading, self._releases, PATIENCE))

    async def promote(self, request: Request) -> Response:
        """Make a release the champion."""
        asked = await bodies.read(request, ChampionRequest, self.settings)

        def promoted() -> dict[str, Any]:
            return self._promoted(asked.version)

        return await self._changed(request, promoted, f"promote v{asked.version}")

    async def rollback(self, request: Request) -> Response:
        """Make the champion of before the champion again."""
        asked = await bodies.read(request, RollbackRequest, self.settings)
        folder = self.releases.folder

        def rolled_back() -> dict[str, Any]:
            traffic.check_champion(folder, asked.version)
            return self._promoted(traffic.former(folder), asked.version)

        return await self._changed(request, rolled_back, f"roll back from v{asked.version}")

    async def split(self, request: Request) -> Response:
        """Divide traffic among releases."""
        asked = await bodies.read(request, Traffic, self.settings)
        used = self.releases

        def divided() -> dict[str, Any]:
            for version in sorted(asked.versions):
                self._prepare(version)
            traffic.write(used.folder, asked)
            used.refresh()
            return self._releases()

        return await self._changed(request, divided, f"split {asked.model_dump_json()}")

    async def _changed(
        self, request: Request, job: Callable[[], dict[str, Any]], what: str
    ) -> Response:
        """Do what changes what is served; the log has who asked for it, and what came of it."""
        self._refuse_pinned()
        who = request.scope.get("state", {}).get("key", "somebody here")
        LOG.info("%s asks to %s", who, what)
        try:
            said = await self._done(
                self._changing, job, CHANGE,
                "it may be done all the same: GET /v1/releases says what is in use",
            )  # fmt: skip
        except HTTPException as err:
            LOG.info("what %s asked for is refused: %s", who, err.detail)
            raise
        LOG.info("what %s asked for is done", who)
        return _json(said)

    def _promoted(self, version: int, instead_of: int | None = None) -> dict[str, Any]:
        used = self.releases
        self._prepare(version)
        traffic.promote(used.folder, version, instead_of)
        trial.passed(used.folder)
        used.refresh()
        return self._releases()

    def _prepare(self, version: int) -> None:
        """Have a release ready that can answer."""
        loaded = self.releases.prepare(version)
        check_published(self.reader, loaded.plan, version)

    def _refuse_pinned(self) -> None:
        if self.releases.pinned:
            raise HTTPException(
                409,
                f"this service serves {self.releases.pinned} alone (--release); deploy "
                "another beside it",
            )

    def _releases(self) -> dict[str, Any]:
        used = self.releases
        roles: dict[int, list[str]] = {}
        for role, loaded in used.routes.all if used.routes else ():
            roles.setdefault(loaded.version, []).append(role)
        return {
            "fleet": used.fleet,
            "environment": used.environment,
            "refused": used.refused,
            "traffic": traffic.as_json(used.routes.shares if used.routes else Traffic()),
            "releases": [
                {
                    "version": version,
                    "roles": roles.get(version, []),
                    **_facts(used.folder, version),
                }
                for version in traffic.versions(used.folder)
            ],
        }

    async def _done(
        self,
        workers: Workers,
        job: Callable[[], Result],
        seconds: float,
        again: str = "ask again",
    ) -> Result:
        try:
            return await workers.run(job, seconds)
        except InputError as err:
            raise HTTPException(422, str(err)) from None
        except (NoReleaseError, BusyError) as err:
            raise unavailable(str(err)) from None
        except ReleaseError as err:
            raise HTTPException(409, str(err)) from None
        except TimeoutError:
            raise unavailable(f"no answer within {seconds:g} s; {again}") from None
        except (MillwrightError, OSError) as err:
            self._complaints.add(f"cannot answer: {err}")
            raise unavailable("what this needs cannot be had now; the log says why") from None


def _facts(folder: Path, version: int) -> dict[str, Any]:
    try:
        manifest = releases.read_manifest(folder / f"v{version}")
    except ReleaseError:
        return {"broken": True}
    names = ("fingerprint", "feature_service", "threshold", "dataset_version", "git_revision",
             "mlflow_run")  # fmt: skip
    return {
        "broken": False,
        "learned_until": manifest.learned_until,
        **{name: getattr(manifest, name) for name in names},
    }


def _json(said: Any, status: int = 200) -> Response:
    return Response(to_json(said), status, media_type="application/json")
