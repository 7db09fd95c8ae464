"""The feature views of a fleet: what each holds, for how long it counts, and what it is made from.

This is the one list that the feature engine, the Feast definitions and the models read.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from millwright.errors import ConfigurationError
from millwright.fleet import Fleet

Kind = Literal["step", "window", "errors", "maintenance", "attributes", "anomaly"]
Type = Literal["float32", "string"]


@dataclass(frozen=True)
class View:
    """One feature view. Its table has `machine_id`, both timestamps and the `features`.

    A row of a raw table in `sources` changes the features of its own step and of all steps up to
    `reach` later; None means of all later steps.
    """

    name: str
    kind: Kind
    description: str
    features: dict[str, Type]
    sources: tuple[str, ...]
    reach: timedelta | None
    time_to_live: timedelta | None
    window: timedelta | None = None


def feature_views(fleet: Fleet) -> tuple[View, ...]:
    """All views of `fleet`, in the order in which they can be computed.

    Raises:
        ConfigurationError: two features would have one name.
    """
    views = [_step(fleet)]
    views += [_window(fleet, window) for window in fleet.features.windows]
    if fleet.tables.errors:
        views += [_errors(fleet, window) for window in fleet.features.error_windows]
    if fleet.tables.maintenance:
        views.append(_maintenance(fleet))
    if fleet.attributes:
        views.append(_attributes(fleet))
    views.append(_anomaly(fleet))
    _refuse_doubles(fleet, views)
    return tuple(views)


def published(fleet: Fleet, view: str) -> str:
    """The name under which Feast knows a view: several fleets share one registry."""
    return f"{fleet.name}_{view}"


def service_name(fleet: Fleet, model: Literal["failure", "anomaly"]) -> str:
    """The feature service that a model reads; features of another shape take a new version."""
    return f"{fleet.name}_{model}_v1"


def model_features(fleet: Fleet) -> dict[str, Type]:
    """Every feature that the failure model reads, in the order of its columns."""
    return {name: kind for view in feature_views(fleet) for name, kind in view.features.items()}


def detector_view(fleet: Fleet) -> View:
    """The view that the anomaly detector reads: the sensors over the longest window."""
    longest = max(fleet.features.windows)
    return next(
        view for view in feature_views(fleet) if view.kind == "window" and view.window == longest
    )


def _refuse_doubles(fleet: Fleet, views: list[View]) -> None:
    seen: dict[str, str] = {}
    for view in views:
        for name in view.features:
            other = seen.setdefault(name.casefold(), view.name)
            if other != view.name:
                raise ConfigurationError(
                    f"fleet '{fleet.name}': '{name}' would be a feature of '{other}' and of "
                    f"'{view.name}'; give the attribute another name, and its own by 'column'"
                )


def _step(fleet: Fleet) -> View:
    label = fleet.label(fleet.step)
    return View(
        name="sensor_step",
        kind="step",
        description=f"Sensor statistics over one step of {label}",
        features={
            f"{sensor}_{statistic}_{label}": "float32"
            for sensor in fleet.sensors
            for statistic in fleet.features.step_statistics
        },
        sources=("telemetry",),
        reach=fleet.step,
        time_to_live=fleet.features.time_to_live,
    )


def _window(fleet: Fleet, window: timedelta) -> View:
    label = fleet.label(window)
    return View(
        name=f"sensor_window_{label}",
        kind="window",
        description=f"Sensor statistics over the last {label}",
        features={
            f"{sensor}_{statistic}_{label}": "float32"
            for sensor in fleet.sensors
            for statistic in fleet.features.statistics
        },
        sources=("telemetry",),
        reach=window,
        time_to_live=fleet.features.time_to_live,
        window=window,
    )


def _errors(fleet: Fleet, window: timedelta) -> View:
    label = fleet.label(window)
    return View(
        name=f"error_counts_{label}",
        kind="errors",
        description=f"Error messages by code over the last {label}",
        features={f"{code}_count_{label}": "float32" for code in fleet.error_codes},
        sources=("telemetry", "errors"),
        reach=window,
        time_to_live=fleet.features.time_to_live,
        window=window,
    )


def _maintenance(fleet: Fleet) -> View:
    unit = "cycles" if fleet.counts_cycles else "hours"
    return View(
        name="component_age",
        kind="maintenance",
        description=f"{unit.capitalize()} since each component was replaced",
        features={f"{component}_age": "float32" for component in fleet.components},
        sources=("telemetry", "maintenance"),
        reach=None,
        time_to_live=fleet.features.time_to_live,
    )


def _attributes(fleet: Fleet) -> View:
    return View(
        name="machine_attributes",
        kind="attributes",
        description="What a machine is, known from the beginning",
        features={
            name: "string" if attribute.type == "category" else "float32"
            for name, attribute in fleet.attributes.items()
        },
        sources=("machines",),
        reach=None,
        time_to_live=None,
    )


def _anomaly(fleet: Fleet) -> View:
    return View(
        name="anomaly",
        kind="anomaly",
        description="How unlike healthy telemetry the longest window looks",
        features={"anomaly_score": "float32"},
        sources=("telemetry",),
        reach=max(fleet.features.windows),
        time_to_live=fleet.features.time_to_live,
        window=max(fleet.features.windows),
    )
