"""The recipe of a release: how features follow from raw rows, as data that a service can run.

The SQL is what the feature expressions (`millwright.features`) compile to for DuckDB, so what a
service computes from the readings of a request is what training learned from. It is frozen with
the model: a later change of the expressions changes no release. Reading a recipe needs no Ibis.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from pydantic import AwareDatetime, FiniteFloat

from millwright.configuration import Strict
from millwright.detectors import Detector
from millwright.fields import Range
from millwright.fleet import Fleet
from millwright.validation import schema
from millwright.views import Kind, Type, View, detector_view, feature_views, published

_STEP = timedelta(seconds=1)
_IBIS_TYPES = {
    "VARCHAR": "string",
    "DOUBLE": "float64",
    "TIMESTAMP WITH TIME ZONE": "timestamp('UTC', 6)",
}


class RecipeView(Strict):
    """One feature view, by the name that Feast knows it under.

    `sql` selects its rows in all their versions from the raw tables in `sources`, from `readings`
    in place of the telemetry, and from `asked`, those readings whose steps get features of windows.
    It is None for the anomaly score, which no expression makes. `time_to_live` is in seconds.
    """

    name: str
    kind: Kind
    features: dict[str, Type]
    sources: tuple[str, ...]
    time_to_live: FiniteFloat | None
    sql: str | None


class RecipeAttribute(Strict):
    """What an attribute may be: a number, in `range` if there is one, or one of `values`."""

    type: Literal["category", "number"]
    values: tuple[str, ...]
    range: Range | None


class RecipeDetector(Strict):
    """Which anomaly detector scores the rows of `view` that are true after `fit_end`."""

    version: str
    view: str
    features: tuple[str, ...]
    fit_end: AwareDatetime


class Recipe(Strict):
    """How the features of a fleet follow from raw rows, and which rows are fit for it.

    `tables` has the SQL types of the columns, in their order, of the raw tables that are read.
    `readings` is the SQL of the statistics within each step, from the telemetry. A step lasts
    `step` seconds, and the longest window has `reach` steps.
    """

    fleet: str
    step: int
    reach: int
    counts_cycles: bool
    tables: dict[str, dict[str, Literal["VARCHAR", "DOUBLE", "TIMESTAMP WITH TIME ZONE"]]]
    sensors: dict[str, Range | None]
    error_codes: tuple[str, ...]
    components: tuple[str, ...]
    attributes: dict[str, RecipeAttribute]
    readings: str
    views: tuple[RecipeView, ...]
    detector: RecipeDetector | None

    @classmethod
    def of(cls, fleet: Fleet, detector: Detector | None) -> "Recipe":
        """The recipe of `fleet`, with the detector whose scores its model has learned from."""
        views = feature_views(fleet)
        read = {table for view in views for table in view.sources}
        tables = {name: schema(fleet, name) for name in fleet.table_names if name in read}
        readings, expressions = _compiled(fleet, views, tables)
        return cls.model_validate(
            {
                "fleet": fleet.name,
                "step": fleet.step // _STEP,
                "reach": max(view.window or fleet.step for view in views) // fleet.step,
                "counts_cycles": fleet.counts_cycles,
                "tables": tables,
                "sensors": {name: sensor.range for name, sensor in fleet.sensors.items()},
                "error_codes": fleet.error_codes,
                "components": fleet.components,
                "attributes": {
                    name: attribute.model_dump(include={"type", "values", "range"})
                    for name, attribute in fleet.attributes.items()
                },
                "readings": readings,
                "views": [_view(fleet, view, expressions.get(view.name)) for view in views],
                "detector": detector and _detector(fleet, detector),
            }
        )

    @property
    def features(self) -> dict[str, tuple[str, ...]]:
        """The features of each view, by its name."""
        return {view.name: tuple(view.features) for view in self.views}


def _view(fleet: Fleet, view: View, sql: str | None) -> dict[str, Any]:
    return {
        "name": published(fleet, view.name),
        "kind": view.kind,
        "features": view.features,
        "sources": view.sources,
        "time_to_live": view.time_to_live and view.time_to_live.total_seconds(),
        "sql": sql,
    }


def _detector(fleet: Fleet, detector: Detector) -> dict[str, Any]:
    return {
        "version": detector.version,
        "view": published(fleet, detector_view(fleet).name),
        "features": detector.features,
        "fit_end": detector.fit_end,
    }


def _compiled(
    fleet: Fleet, views: tuple[View, ...], tables: Mapping[str, Mapping[str, str]]
) -> tuple[str, dict[str, str]]:
    """The SQL of the readings of each step, and of each view that is an expression."""
    import ibis

    from millwright import features

    def sql(expression: Any) -> str:
        return str(ibis.to_sql(expression, dialect="duckdb"))

    raw = {
        name: ibis.table({column: _IBIS_TYPES[kind] for column, kind in columns.items()}, name)
        for name, columns in tables.items()
    }
    readings = features.step_readings(raw.pop("telemetry"), fleet)
    made = {name: ibis.table(readings.schema(), name) for name in ("readings", "asked")}
    return sql(readings), {
        view.name: sql(features.build(view, fleet, raw | made))
        for view in views
        if view.kind != "anomaly"
    }
