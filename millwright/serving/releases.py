"""Which releases answer, followed while the service runs.

Whoever answers takes `routes` once and so answers from exactly one set of releases. It is only ever
replaced by another whose releases were all checked, proved in a process of their own, and loaded;
one that cannot be is refused, and what was in use stays. A process that begins with a champion that
is refused takes the one of before, as those do that have it still.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np

from millwright import release as releases
from millwright import traffic, verification
from millwright.errors import MillwrightError, ReleaseError
from millwright.release import SUMS
from millwright.serving.routes import Loaded, Routes
from millwright.traffic import Traffic

LOG = logging.getLogger(__name__)
KEPT = 4  # releases that were in use and stay loaded, so that to go back takes no time
FORMERS = 3  # champions of before that are tried where the present one cannot be used
AGAIN = 60.0  # seconds after which a release that was refused, and stays as it is, is tried again


class Prover:
    """Proves releases in processes of their own; that of `first` begins at once.

    One that was begun and never asked for ends with the block.
    """

    def __init__(self, first: Path | None) -> None:
        self._begun = verification.Verification(first) if first and first.is_dir() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._begun:
            self._begun.end()
            self._begun = None

    def __call__(self, folder: Path) -> None:
        """Prove a release.

        Raises:
            ReleaseError: it is broken, or predicts otherwise than it did.
        """
        begun, self._begun = self._begun, None
        if begun and begun.folder == folder:
            begun.finish()
        else:
            verification.verify_in_fresh_process(folder)


class Releases:
    """The releases of one fleet in one environment, as the files beside them say.

    One that is `pinned` answers alone, whatever the files say of others.
    """

    def __init__(
        self,
        environment: str,
        fleet: str,
        folder: Path,
        pinned: Path | None = None,
        prove: Callable[[Path], None] = verification.verify_in_fresh_process,
    ) -> None:
        self.environment = environment
        self.fleet = fleet
        self.folder = folder
        self.pinned = pinned
        self.routes: Routes | None = None
        self.refused: str | None = None
        self._prove = prove
        self._kept: dict[tuple[Path, str], Loaded] = {}
        self._failed: dict[tuple[Path, str], tuple[str, float]] = {}
        self._loading = threading.Lock()

    def refresh(self) -> None:
        """Have those in use that should be, one caller at a time. It never raises."""
        with self._loading:
            if self.routes:  # and not at the first look, with which a service begins
                for _, loaded in self.routes.all:
                    loaded.warm()
            self._refresh()

    def _refresh(self) -> None:
        try:
            routes, faults = self._wanted()
            if routes != self.routes:
                self.routes = routes
                said = ", ".join(f"{role} v{each.version}" for role, each in routes.all)
                LOG.info("serving %s", said)
            for old in list(self._kept)[: -KEPT - len(routes.all)]:
                del self._kept[old]
        except ReleaseError as err:
            faults = [str(err)]
        except Exception as err:  # whatever a broken disk or folder makes of it, the old one stays
            faults = [f"the champion cannot be loaded: {type(err).__name__}"]
        self._refuse("; ".join(faults) or None)

    def prepare(self, version: int) -> Loaded:
        """Prove and load a release, so that it can be used at once.

        Raises:
            InputError: there is no such release.
            ReleaseError: it is broken, or refused as another service's.
        """
        with self._loading:
            return self._loaded(traffic.named(self.folder, version))

    def _wanted(self) -> tuple[Routes, list[str]]:
        """The releases that should be in use, or stay in place of those that cannot be, and why."""
        faults: list[str] = []
        first = self._champion(faults)
        if self.pinned:
            return Routes(first), faults
        shares, others = self._shares(faults), {}
        for version in sorted(shares.versions):
            found = self._usable(self.folder / f"v{version}", faults)
            if found:
                others[version] = found
            else:
                shares = shares.without(version)
        routes = Routes(
            champion=first,
            canary=others[shares.canary.version] if shares.canary else None,
            tags={tag: others[version] for tag, version in shares.tags.items()},
            shadows=tuple(others[version] for version in shares.shadow),
            shares=shares,
        )
        return routes, faults

    def _champion(self, faults: list[str]) -> Loaded:
        """The champion, or the one of before as long as it cannot be used."""
        folder = self.pinned
        try:
            folder = folder or self._named()
            return self._loaded(folder)
        except ReleaseError as err:
            faults.append(str(err))
            before = self.routes.champion if self.routes else None
            before = before or (self._former(faults) if folder and not self.pinned else None)
            if before is None:
                raise
            return before

    def _former(self, faults: list[str]) -> Loaded | None:
        """For a process that begins with a champion that cannot be used: the last one that can."""
        try:
            former = traffic.formers(self.folder)[:FORMERS]
        except ReleaseError as err:
            faults.append(str(err))
            return None
        found = (self._usable(self.folder / f"v{version}", faults) for version in former)
        return next((each for each in found if each), None)

    def _named(self) -> Path:
        folder = releases.champion(self.folder)
        if folder is None:
            raise ReleaseError(
                f"fleet '{self.fleet}' has no champion in environment '{self.environment}'; "
                f"train one: python run.py --pipeline training --fleet {self.fleet} "
                f"--stack {self.environment}, or serve another environment with --stack"
            )
        return folder

    def _shares(self, faults: list[str]) -> Traffic:
        """How traffic is to be divided, or is already where that cannot be read."""
        try:
            return traffic.read(self.folder)
        except ReleaseError as err:
            faults.append(str(err))
            return self.routes.shares if self.routes else Traffic()

    def _usable(self, folder: Path, faults: list[str]) -> Loaded | None:
        """The release in `folder`: as it is, or as it was loaded when it is in use already."""
        try:
            return self._loaded(folder)
        except ReleaseError as err:
            faults.append(str(err))
            used = self.routes.all if self.routes else ()
            return next((each for _, each in used if each.release.folder == folder), None)

    def _refuse(self, reason: str | None) -> None:
        if reason and reason != self.refused:
            LOG.error("%s", reason)
        self.refused = reason

    def _loaded(self, folder: Path) -> Loaded:
        """The release in `folder`, proved and loaded once as long as its files stay the same."""
        mark = (folder, _digest(folder))
        reason, since = self._failed.get(mark, ("", -AGAIN))
        if time.monotonic() - since < AGAIN:
            raise ReleaseError(reason)
        if mark not in self._kept:
            try:
                self._kept[mark] = self._load(*mark)
            except MillwrightError as err:
                self._failed[mark] = str(err), time.monotonic()
                raise
        found = self._kept.pop(mark)
        self._kept[mark] = found  # the latest last
        return found

    def _load(self, folder: Path, digest: str) -> Loaded:
        releases.check(folder)
        self._prove(folder)
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
        return Loaded(release, digest, releases.read_recipe(folder))


def _digest(folder: Path) -> str:
    """What changes whenever a file of the release does, found without reading them."""
    try:
        sums = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
        found = [
            (each.name, each.stat().st_size, each.stat().st_mtime_ns, each.stat().st_ino)
            for each in sorted(folder.iterdir())
        ]
    except OSError as err:
        raise ReleaseError(f"{folder} is not a whole release: {err}; train again") from err
    return f"{sums}{found}"
