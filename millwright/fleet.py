"""What a fleet is: its tables, sensors, parts and costs, read from `configs/fleets/<name>.yaml`.

Nothing else in the project knows the name of a sensor. Another fleet is another file of this form
and its data.
"""

import os
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, Field, FiniteFloat, field_validator, model_validator

from millwright import durations
from millwright.configuration import SEPARATOR, Strict, load, nearest
from millwright.durations import Duration
from millwright.errors import ConfigurationError
from millwright.fields import ColumnName, Name, Range, distinct, distinct_names

Statistic = Literal["mean", "std", "min", "max", "slope"]
TABLES = ("machines", "telemetry", "errors", "maintenance", "failures")

Values = Annotated[tuple[str, ...], AfterValidator(distinct)]
Names = Annotated[tuple[str, ...], AfterValidator(distinct_names)]
Lengths = Annotated[tuple[Duration, ...], AfterValidator(distinct)]
Statistics = Annotated[tuple[Statistic, ...], Field(min_length=1), AfterValidator(distinct)]


class Source(Strict):
    """Where a raw table comes from and what its columns are called there.

    `source` is the name of a CSV or parquet file without its ending, of a folder of such files, or
    of a table in a database. `received` is the column that says when a row became known; without
    it a row counts as known at its own time, and a correction at the time of its ingest.
    """

    source: str
    machine: str
    received: str | None = None


class Timed(Source):
    """A raw table whose rows each happened at a time."""

    timestamp: str


class Errors(Timed):
    """Error messages that machines sent."""

    code: str


class Parts(Timed):
    """Replacements or failures, of a component where the fleet tells them apart."""

    component: str | None = None


class Tables(Strict):
    """The five raw tables. Telemetry and failures are required."""

    telemetry: Timed
    failures: Parts
    errors: Errors | None = None
    maintenance: Parts | None = None
    machines: Source | None = None


class Sensor(Strict):
    """One measured quantity. A reading outside `range` is refused at the ingest."""

    unit: str = ""
    range: Range | None = None
    column: str | None = None


class Attribute(Strict):
    """A property of a machine that stays as it is: its model, its age when the records begin."""

    type: Literal["category", "number"]
    unit: str = ""
    values: Values = ()
    range: Range | None = None
    bands: tuple[FiniteFloat, ...] = ()
    column: str | None = None

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.type == "category" and not self.values:
            raise ValueError("a category needs its 'values'")
        if list(self.bands) != sorted(set(self.bands)):
            raise ValueError("'bands' must rise")
        return self


class Features(Strict):
    """Which statistics are taken of the readings, within a step and over windows of steps."""

    step_statistics: Statistics = ("mean",)
    windows: Lengths = Field(min_length=1)
    statistics: Statistics = ("mean", "std", "min", "max", "slope")
    error_windows: Lengths = ()
    time_to_live: Duration


class Anomaly(Strict):
    """The anomaly detector learns from healthy telemetry of the first `fit_window` of the data."""

    fit_window: Duration


class Costs(Strict):
    """What a decision costs, for the threshold: all three per occasion, in one currency."""

    currency: str = "EUR"
    failure: FiniteFloat = Field(gt=0)
    planned_repair: FiniteFloat = Field(ge=0)
    inspection: FiniteFloat = Field(gt=0)


class Simulation(Strict):
    """How large a made-up fleet is, and what is wrong with its data."""

    machines: int = Field(gt=0)
    days: int = Field(gt=0)
    start: datetime
    seed: int = Field(default=0, ge=0)
    reading_interval: Duration | None = None
    gap_share: float = Field(default=0.0, ge=0, lt=1)
    late_share: float = Field(default=0.0, ge=0, lt=1)
    drift_from_day: int | None = Field(default=None, ge=0)

    @field_validator("start")
    @classmethod
    def _in_utc(cls, start: datetime) -> datetime:
        return start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)

    @model_validator(mode="after")
    def _drifts_in_its_days(self) -> Self:
        if self.drift_from_day is not None and self.drift_from_day >= self.days:
            raise ValueError(
                f"'drift_from_day' must be one of the {self.days} days, counted from 0"
            )
        return self


class Fleet(Strict):
    """A fleet of machines and the question asked of it: who fails within the `horizon`?

    `timezone` is the zone of timestamps that carry none; without it such rows are refused.
    """

    name: Name
    description: str = ""
    owner: str = ""
    timezone: str | None = None
    step: Duration
    horizon: Duration
    lead_time: Duration
    test_window: Duration
    partition: Literal["day", "month"] = "month"
    tables: Tables
    sensors: dict[ColumnName, Sensor] = Field(min_length=1)
    error_codes: Names = ()
    components: Names = ()
    attributes: dict[ColumnName, Attribute] = Field(default_factory=dict)
    features: Features
    anomaly: Anomaly
    costs: Costs
    simulation: Simulation | None = None
    counts_cycles: bool = False

    @model_validator(mode="before")
    @classmethod
    def _sees_cycles(cls, values: object) -> object:
        """A step written in cycles says that timestamps are cycle numbers."""
        if (
            isinstance(values, dict)
            and "counts_cycles" not in values
            and "cycle" in str(values.get("step"))
        ):
            return {**values, "counts_cycles": True}
        return values

    @field_validator("name")
    @classmethod
    def _is_no_folder_of_ours(cls, name: str) -> str:
        if name == "mlflow":
            raise ValueError("'mlflow' is a folder beside those of the fleets; take another name")
        return name

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, zone: str | None) -> str | None:
        if zone is not None and zone not in available_timezones():
            raise ValueError(
                f"'{zone}' is no time zone; {nearest(zone, sorted(available_timezones()))}"
            )
        return zone

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        faults = [
            *self._uneven_lengths(),
            *self._repeated_columns(),
            *self._missing_partners(),
        ]
        if faults:
            raise ValueError(SEPARATOR.join(faults))
        return self

    def _uneven_lengths(self) -> list[str]:
        lengths = {
            "horizon": self.horizon,
            "lead_time": self.lead_time,
            **{f"features.windows[{i}]": w for i, w in enumerate(self.features.windows)},
            **{
                f"features.error_windows[{i}]": w for i, w in enumerate(self.features.error_windows)
            },
        }
        faults = [
            f"'{key}' must be a whole number of steps of {self.label(self.step)}"
            for key, length in lengths.items()
            if length % self.step
        ]
        if self.step % timedelta(seconds=1):
            faults.append("'step' must be whole seconds")
        if self.step in self.features.windows:
            faults.append(
                "'features.windows' has the step itself; its statistics are "
                "'features.step_statistics'"
            )
        if self.lead_time > self.horizon:
            faults.append("'lead_time' must not be longer than 'horizon'")
        if self.test_window <= self.horizon:
            faults.append("'test_window' must be longer than 'horizon': its end has no answers yet")
        return faults

    def _repeated_columns(self) -> list[str]:
        """Two names for one column would count it twice, and one name for two hide one."""
        faults = [
            f"'{name}' is a sensor and an attribute; give one of them another name"
            for name in self.sensors
            if name in self.attributes
        ]
        for kind, entries in (("sensors", self.sensors), ("attributes", self.attributes)):
            owners: dict[str, str] = {}
            for name, entry in entries.items():
                column = entry.column or name
                if column in owners:
                    faults.append(
                        f"'{kind}': '{owners[column]}' and '{name}' both read column '{column}'"
                    )
                owners[column] = name
        return faults

    def _missing_partners(self) -> list[str]:
        faults = []
        if self.tables.errors and not self.error_codes:
            faults.append("'tables.errors' needs 'error_codes'")
        if self.tables.errors and not self.features.error_windows:
            faults.append("'tables.errors' needs 'features.error_windows'")
        if self.tables.maintenance and not self.components:
            faults.append("'tables.maintenance' needs 'components'")
        elif self.tables.maintenance and not self.tables.maintenance.component:
            faults.append("'tables.maintenance' needs 'component', the column that names it")
        if self.tables.failures.component and not self.components:
            faults.append("'tables.failures.component' needs 'components'")
        if self.attributes and not self.tables.machines:
            faults.append("'attributes' needs 'tables.machines'")
        return faults

    @cached_property
    def table_names(self) -> tuple[str, ...]:
        """The raw tables that this fleet has, machines first, so that they are known by then."""
        return tuple(name for name in TABLES if getattr(self.tables, name) is not None)

    def label(self, length: timedelta) -> str:
        """`length` as it stands in the name of a feature."""
        return durations.label(length, self.counts_cycles)

    def zone(self) -> ZoneInfo | None:
        """The zone of timestamps that carry none."""
        return ZoneInfo(self.timezone) if self.timezone else None


FLEETS = Path(__file__).parent.parent / "configs" / "fleets"


def fleets_folder() -> Path:
    """Where fleet files are looked for: `MILLWRIGHT_FLEETS`, or `configs/fleets`."""
    return Path(os.environ.get("MILLWRIGHT_FLEETS", FLEETS))


def load_fleet(name: str) -> Fleet:
    """Read the fleet called `name`.

    Raises:
        ConfigurationError: there is no such fleet, or its file is wrong.
    """
    path = fleets_folder() / f"{name}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise ConfigurationError(
            f"there is no fleet '{name}' in {path.parent}; {nearest(name, names)}"
        )
    fleet = load(path, Fleet)
    if fleet.name != name:
        raise ConfigurationError(
            f"{path}: 'name' is '{fleet.name}' and must be '{name}', as the file"
        )
    return fleet
