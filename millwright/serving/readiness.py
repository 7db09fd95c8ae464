"""Whether predictions can be had, and how fresh the features are that they would be made from."""

import itertools
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from millwright.errors import MillwrightError
from millwright.revision import code_version
from millwright.serving.answers import iso
from millwright.serving.features import OnlineReader, lacking, read
from millwright.serving.plan import Plan
from millwright.serving.predictions import micros
from millwright.serving.releases import Releases
from millwright.serving.rows import NEVER, Moments
from millwright.serving.unreadable import PassedOver
from millwright.traffic import as_json

SAMPLE = 50  # machines whose features are looked at
SAMPLED = 60.0  # seconds for which the same ones are
PROBE = "-"  # a machine that no fleet has, to see whether the store answers


class Readiness:
    """What `/ready` says. Old features are told, and do not make a service unready.

    If they did, every replica would go at once, and nobody would answer that they are old.
    """

    def __init__(self, releases: Releases, reader: OnlineReader) -> None:
        self.releases = releases
        self.reader = reader
        self._machines: list[str] = []
        self._since = -SAMPLED
        self._sampling = threading.Lock()
        self._passed_over = PassedOver()
        self._code = code_version()

    @property
    def unknown(self) -> dict[str, Any]:
        """What can be said without asking anybody."""
        routes, refused = self.releases.routes, self.releases.refused
        said: dict[str, Any] = {
            "ready": False, "reason": refused or "no release is loaded yet", "refused": refused,
            "release": None, "releases": [], "features": {}, "code": self._code,
        }  # fmt: skip
        if routes:
            manifest = routes.champion.release.manifest
            said["release"] = {"model": manifest.name, "version": manifest.version}
            said["releases"] = [
                {"role": role, "version": loaded.version} for role, loaded in routes.all
            ]
            said["traffic"] = as_json(routes.shares)
        return said

    def told(self) -> dict[str, Any]:
        """The answer: `ready`, or the `reason` why not; what is in use, and what is refused."""
        routes, said = self.releases.routes, self.unknown
        if routes is None:
            return said
        try:
            for plan in {loaded.plan for _, loaded in routes.all}:
                if reason := lacking(self.reader, plan):
                    return {**said, "reason": reason}
            said["features"] = self._freshness(routes.champion.plan)
        except MillwrightError as err:
            return {**said, "reason": str(err)}
        return {**said, "ready": True, "reason": None}

    def _freshness(self, plan: Plan) -> dict[str, Any]:
        """Of each view how old its newest row is, in seconds, among some machines."""
        now = micros(datetime.now(UTC))

        def newest(machines: Sequence[str]) -> Moments:
            as_of = np.full(len(machines), now, np.int64)
            found: Moments = read(self.reader, plan, machines, as_of).events.max(axis=0)
            return found

        parts = self._passed_over.parts(self._sample(plan) or [PROBE], newest)
        events: list[int] = np.max(parts, axis=0).tolist()
        return {
            view: {
                "newest": None if event == NEVER else iso(event),
                "age": None if event == NEVER else (now - event) / 1e6,
                "fresh": bool(event != NEVER and now - event <= life),
            }
            for view, event, life in zip(plan.names, events, plan.lives, strict=True)
        }

    def _sample(self, plan: Plan) -> list[str]:
        with self._sampling:
            if not self._machines or time.monotonic() - self._since > SAMPLED:
                self._machines = list(itertools.islice(self.reader.machines(plan), SAMPLE))
                self._since = time.monotonic()
            return self._machines
