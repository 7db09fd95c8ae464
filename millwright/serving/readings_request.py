"""Readings sent in a request, and what they must be: the rules of the ingest, for a few machines.

A service that left out what it does not like would predict something else than was asked, so a
request with one wrong row is refused whole, and told where it is wrong.

Times are ISO times with their zone; of a fleet that counts cycles they are cycle numbers. A row is
known from its `received` on, or from its own time if it does not say. What is known of a machine is
told apart from what is not told of it: without `errors` nobody knows of any, and `[]` says that
there was none. The same goes for `maintenance` and `attributes`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from millwright.configuration import Strict
from millwright.serving.predictions import MOST_REASONS, Machine, Text
from millwright.traffic import Tag

MOST_MACHINES = 100
MOST_ROWS = 10_000
# As the recipe calls them; what a machine is, `attributes` says.
TABLES = ("telemetry", "errors", "maintenance", "machines")


def _moment(value: object) -> datetime | int:
    """An ISO time with its zone, or a cycle number; which of them it must be, the fleet says."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and "T" in value.upper():
        try:
            time = datetime.fromisoformat(value)
            if time.tzinfo is not None:
                return time.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError(
        "moment",
        "must be an ISO time with its zone, such as 2025-01-31T12:00:00Z, or a cycle number",
    )


def _cell(value: object) -> float | str | None:
    if isinstance(value, bool) or not isinstance(value, float | int | str | None):
        raise PydanticCustomError("cell", "must be a number, a text or null")
    return value


Moment = Annotated[
    datetime | int,
    PlainValidator(_moment),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer"}]}),
]
Reading = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Cell = Annotated[
    float | str | None,
    PlainValidator(_cell),
    WithJsonSchema({"type": ["number", "string", "null"]}),
]


class TelemetryRow(BaseModel):
    """What sensors read at a time: `"volt": 231.5`, null or nothing at all where one did not."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Reading | None]

    timestamp: Moment
    received: Moment | None = None


class ErrorRow(Strict):
    """An error message that a machine sent."""

    timestamp: Moment
    received: Moment | None = None
    code: Text


class MaintenanceRow(Strict):
    """The replacement of a component."""

    timestamp: Moment
    received: Moment | None = None
    component: Text


class AttributeRow(BaseModel):
    """What a machine is, by the names of its attributes; `received` is known to be so since then.

    Without it that is the time that the request is about.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Cell]

    received: Moment | None = None


class MachineReadings(Strict):
    """What is told of one machine.

    Windows are computed from the rows sent, so they must reach back as far as the longest window,
    before the newest whole step; of less, features are those of a machine that young.
    """

    TIMED: ClassVar[tuple[str, ...]] = ("telemetry", "errors", "maintenance")

    machine: Machine
    telemetry: tuple[TelemetryRow, ...] = Field(min_length=1)
    errors: tuple[ErrorRow, ...] | None = None
    maintenance: tuple[MaintenanceRow, ...] | None = None
    attributes: AttributeRow | None = None

    def rows(self, table: str) -> Sequence[Any] | None:
        """The rows of a raw table; None where nothing is told."""
        if table == "machines":
            return None if self.attributes is None else (self.attributes,)
        found: Sequence[Any] | None = getattr(self, table)
        return found


class ReadingsRequest(Strict):
    """Machines to predict from what is sent of them, and as of when.

    That is now, or the newest cycle of each machine in a fleet that counts those. What is not sent
    of a machine, or is newer there, comes from the store. `tag` and `explain` are as in a request
    without readings.
    """

    machines: tuple[MachineReadings, ...] = Field(min_length=1, max_length=MOST_MACHINES)
    as_of: Moment | None = None
    tag: Tag | None = None
    explain: int = Field(default=0, ge=0, le=MOST_REASONS, strict=True)

    @model_validator(mode="after")
    def _is_not_too_long(self) -> "ReadingsRequest":
        rows = sum(
            len(machine.rows(table) or ()) for machine in self.machines for table in machine.TIMED
        )
        if rows > MOST_ROWS:
            said = "has {rows} rows of machines; send at most {most} at once"
            raise PydanticCustomError("rows", said, {"rows": rows, "most": MOST_ROWS})
        return self
