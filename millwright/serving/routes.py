"""A release that was loaded, and which of them answer at one moment."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from millwright import traffic
from millwright.encoder import Matrix
from millwright.errors import InputError
from millwright.recipe import Recipe
from millwright.release import Release
from millwright.serving.plan import Plan
from millwright.serving.rows import Block, FeatureRows
from millwright.traffic import CANARY, CHAMPION, SHADOW

# DuckDB and scikit-learn, which most requests do without.
if TYPE_CHECKING:
    from millwright.serving.readings import ReadingsEngine

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A release that answers, and what it reads of a machine; of a digest it is made once."""

    release: Release
    digest: str
    recipe: Recipe | None = None
    _making: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _warmed: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def version(self) -> int:
        """Its version."""
        return self.release.manifest.version

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the model's columns."""
        return tuple(self.release.manifest.encoder.columns)

    @cached_property
    def plan(self) -> Plan:
        """What it reads."""
        return Plan(self.release.manifest.views)

    def matrix(self, rows: FeatureRows) -> Matrix:
        """What the model sees of each row, shape (n, columns)."""
        encoder, columns = self.release.manifest.encoder, rows.columns
        if isinstance(columns, Block):
            return encoder.encode_block(columns.numbers[:, self._order], columns.__getitem__)
        return encoder.encode_columns(columns.__getitem__, len(rows))

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        """Where the plan has the numbers that the model sees."""
        numbers = self.release.manifest.encoder.numbers
        return np.array([self.plan.places[name] for name in numbers], np.intp)

    @cached_property
    def engine(self) -> "ReadingsEngine":
        """What makes features of readings that are sent.

        Raises:
            InputError: the release does not say how.
            ReleaseError: its recipe cannot be run.
        """
        from millwright.serving.readings import ReadingsEngine

        with self._making:
            if self.recipe is None:
                raise InputError(
                    f"release v{self.version} does not say how features follow from readings; "
                    "train again, or ask about machines that are in the store"
                )
            detector = self.release.folder if self.recipe.detector else None
            return ReadingsEngine(self.recipe, detector)

    def warm(self) -> None:
        """Make what readings need, once, in a thread: it takes seconds, and few send any."""
        if not self._warmed.is_set():
            self._warmed.set()
            threading.Thread(target=self._warm, daemon=True).start()

    def _warm(self) -> None:
        try:
            if self.recipe:
                self.engine.warm()
        except Exception as err:  # who sends readings is told
            LOG.warning("v%d will take no readings: %s", self.version, err)


@dataclass(frozen=True)
class Routes:
    """The releases that are in use at one moment."""

    champion: Loaded
    canary: Loaded | None = None
    tags: Mapping[str, Loaded] = field(default_factory=dict)
    shadows: tuple[Loaded, ...] = ()
    shares: traffic.Traffic = field(default_factory=traffic.Traffic)

    def of(self, machine: str, tag: str | None) -> tuple[Loaded, str]:
        """Which release answers for a machine, and in what role.

        Raises:
            InputError: there is no such tag.
        """
        if tag is not None:
            return self._tagged(tag), tag
        if self.canary and self.shares.canary and self.shares.canary.takes(machine):
            return self.canary, CANARY
        return self.champion, CHAMPION

    def of_readings(self, tag: str | None) -> tuple[Loaded, str]:
        """Which release answers by readings that are sent, and in what role: never the canary.

        Raises:
            InputError: there is no such tag.
        """
        return (self.champion, CHAMPION) if tag is None else (self._tagged(tag), tag)

    def _tagged(self, tag: str) -> Loaded:
        if tag not in self.tags:
            known = ", ".join(sorted(self.tags)) or "none at the moment"
            raise InputError(f"there is no tag '{tag}'; there are: {known}")
        return self.tags[tag]

    @cached_property
    def all(self) -> tuple[tuple[str, Loaded], ...]:
        """Each release with its role."""
        canary = [(CANARY, self.canary)] if self.canary else []
        shadows = [(SHADOW, each) for each in self.shadows]
        return ((CHAMPION, self.champion), *canary, *self.tags.items(), *shadows)
