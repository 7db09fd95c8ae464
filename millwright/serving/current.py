"""Which release answers: the champion of a fleet, followed while the service runs.

Readers take `release` once for a request and so answer from exactly one version. It is only ever
replaced by another that was checked and loaded; one that cannot be is refused, and the old stays.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from millwright import release as releases
from millwright.errors import ReleaseError
from millwright.release import Release

LOG = logging.getLogger(__name__)


class CurrentRelease:
    """The release of one fleet in one environment that is in use, and why a newer one is not.

    `named` gives the folder of the release that should be in use, or None.
    """

    def __init__(self, environment: str, fleet: str, named: Callable[[], Path | None]) -> None:
        self.environment = environment
        self.fleet = fleet
        self.release: Release | None = None
        self.refused: str | None = None
        self._named = named

    def refresh(self) -> None:
        """Load the release that should be in use, if that is another one. It never raises."""
        try:
            folder = self._wanted()
            if self.release is None or folder != self.release.folder:
                self.release = self._loaded(folder)
                LOG.info("serving release %s", folder.name)
        except ReleaseError as err:
            self._refuse(str(err))
        except Exception as err:  # whatever a broken disk or folder makes of it, the old one stays
            self._refuse(f"the champion cannot be loaded: {type(err).__name__}")
        else:
            self.refused = None

    def _wanted(self) -> Path:
        folder = self._named()
        if folder is None:
            raise ReleaseError(
                f"fleet '{self.fleet}' has no champion in environment '{self.environment}'; "
                f"train one: python run.py --pipeline training --fleet {self.fleet} "
                f"--stack {self.environment}, or serve another environment with --stack"
            )
        return folder

    def _refuse(self, reason: str) -> None:
        if reason != self.refused:
            LOG.error("%s", reason)
        self.refused = reason

    def _loaded(self, folder: Path) -> Release:
        release = releases.load(folder)
        for what, here in (("environment", self.environment), ("fleet", self.fleet)):
            there = getattr(release.manifest, what)
            if there != here:
                raise ReleaseError(
                    f"the release {folder} is of {what} '{there}', and this service of '{here}'; "
                    "name the release's own with --stack and --fleet"
                )
        release.booster.set_param({"nthread": 1})  # more make small requests slower
        # XGBoost sets itself up in its first prediction: here, and not in two threads at once.
        release.score(np.full((1, len(release.manifest.encoder.columns)), np.nan, np.float32))
        return release
