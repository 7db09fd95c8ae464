"""Where the features of a whole fleet come from: as they are now, or as they were known once.

Of now the online store tells, read and judged as the service does it. Of a past time the offline
store tells what was true and known then, joined as for training. That join gives null for what was
too old and for what was never there alike, and tells no event times. So of a past time

- a view counts where it has a value that is not null,
- a machine with all views is `ok`, one without some of them is `degraded`, one of whose readings
  nothing counts is `missing`, and one of which nothing at all counts is `unknown`,
- nothing is `stale`; where the settings refuse stale features, those that do not count are refused,
- ages are not known.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from millwright.errors import DataError, ReleaseError
from millwright.fleet import Fleet
from millwright.project import Project
from millwright.release import Manifest
from millwright.serving.features import lacking, open_reader, read
from millwright.serving.plan import Plan
from millwright.serving.policy import Policy
from millwright.serving.predictions import EPOCH, micros
from millwright.serving.rows import MISSING, NEVER, PRESENT, FeatureRows

PATIENCE = 10.0  # seconds for an answer of the online store, for which nobody waits here

Source = Literal["online", "offline"]
Features = Callable[[pd.DataFrame, str], pa.Table]


class WholeFleet(Protocol):
    """All machines of a fleet, and their features as of one time.

    `as_of` is what the predictions are kept under, and `moment` when the features are judged; it
    tells event times or not. So many machines are best read `together`.
    """

    source: Source
    as_of: datetime
    moment: datetime
    policy: Policy
    together: int

    def machines(self) -> list[str]:
        """Every machine, in order.

        Raises:
            DataError: there is none, or no features of the release.
            MillwrightError: the store cannot be read.
        """
        ...

    def rows(self, machines: Sequence[str]) -> FeatureRows:
        """The features of some machines.

        Raises:
            MillwrightError: the store cannot be read.
        """
        ...


class FleetNow:
    """The fleet as the online store has it, kept under the end of the last full step.

    So a run that is repeated within a step replaces what it found before.
    """

    source: Source = "online"
    together = 5_000

    def __init__(self, project: Project, manifest: Manifest, now: datetime) -> None:
        self.as_of, self.moment = last_step(project.fleet, now), now
        serving = project.settings.serving
        self.policy = Policy(serving.stale, serving.missing)
        self._project = project
        self._plan = Plan(manifest.views)
        self._reader = open_reader(project.state, PATIENCE)

    def machines(self) -> list[str]:
        """Every machine that has features in some view."""
        gone = lacking(self._reader, self._plan)
        if gone:
            raise DataError(gone)
        found = sorted(self._reader.machines(self._plan))
        if not found:
            name, where = self._project.fleet.name, self._project.state.environment
            raise DataError(
                f"{self._reader} has no machine of fleet '{name}'; bring its features online: "
                f"python run.py --pipeline features --fleet {name} --stack {where}"
            )
        return found

    def rows(self, machines: Sequence[str]) -> FeatureRows:
        """Their newest features."""
        as_of = np.full(len(machines), micros(self.moment), np.int64)
        return read(self._reader, self._plan, machines, as_of)


class FleetThen:
    """The fleet as it was known at a past time; `features` joins those of a service with cut-offs.

    A machine belongs to it from its first reading on.
    """

    source: Source = "offline"
    together = 100_000

    def __init__(
        self, project: Project, manifest: Manifest, as_of: datetime, features: Features
    ) -> None:
        self.as_of = self.moment = as_of.astimezone(UTC)
        serving = project.settings.serving
        refuses = "refuse" in (serving.stale, serving.missing)
        self.policy = Policy(missing="refuse" if refuses else "degrade")
        self._project = project
        self._manifest = manifest
        self._plan = Plan(manifest.views)
        self._features = features

    def machines(self) -> list[str]:
        """Every machine that was observed by then."""
        observed = self._project.offline.observed()
        found = observed.loc[observed["first"] <= self.as_of, "machine_id"]
        if found.empty:
            name = self._project.fleet.name
            begin = f"make them: python run.py --pipeline features --fleet {name}"
            if len(observed):
                begin = f"they begin at {observed['first'].min().isoformat()}"
            raise DataError(
                f"no machine of fleet '{name}' has features by {self.as_of.isoformat()}; {begin}"
            )
        return sorted(found)

    def rows(self, machines: Sequence[str]) -> FeatureRows:
        """Their features as they were true and known then."""
        cutoffs = pd.DataFrame({"machine_id": list(machines)}, dtype="object")
        cutoffs["event_timestamp"] = pd.Timestamp(self.as_of)
        found = self._features(cutoffs, self._manifest.feature_service)
        gone = [name for _, name in self._plan.features if name not in found.column_names]
        if gone or found["machine_id"].to_pylist() != list(machines):
            raise ReleaseError(
                f"feature service '{self._manifest.feature_service}' does not give what release "
                f"v{self._manifest.version} needs{f', such as {gone[0]!r}' if gone else ''}; "
                "publish the definitions of the release, or train again"
            )
        return joined_rows(found, self._plan, micros(self.as_of))


def last_step(fleet: Fleet, now: datetime) -> datetime:
    """The end of the last step of a fleet that is over; steps are counted from 1970."""
    return EPOCH + (now - EPOCH) // fleet.step * fleet.step


def joined_rows(found: pa.Table, plan: Plan, as_of: int) -> FeatureRows:
    """Features as a historical join gives them; a view without any value counts as missing."""
    columns = {name: found[name].to_numpy().astype(np.float32) for _, name in plan.numbers}
    columns |= {name: found[name].to_numpy().astype(object) for _, name in plan.texts}
    told = np.zeros((len(found), len(plan.names)), bool)
    for view, name in plan.features:
        told[:, view] |= ~pd.isna(columns[name])
    return FeatureRows(
        columns,
        np.where(told, as_of, NEVER),  # when is not told; that there is something is
        np.where(told, PRESENT, MISSING).astype(np.int8),
        plan.names,
    )
