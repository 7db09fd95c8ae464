"""Features by what they are computed from, each view with the time for which it counts."""

from datetime import timedelta

from data_sources import SOURCES
from entities import machine
from feast import FeatureView, Field
from feast.types import Float32, String
from fleets import VIEWS

from millwright.views import published

TYPES = {"float32": Float32, "string": String}

FEATURE_VIEWS = {
    published(fleet, view.name): FeatureView(
        name=published(fleet, view.name),
        entities=[machine],
        schema=[
            Field(name="machine_id", dtype=String),
            *(Field(name=name, dtype=TYPES[kind]) for name, kind in view.features.items()),
        ],
        source=SOURCES[published(fleet, view.name)],
        ttl=view.time_to_live or timedelta(0),
        online=True,
        description=view.description,
        owner=fleet.owner,
        tags={"fleet": fleet.name, "kind": view.kind},
    )
    for fleet, view in VIEWS
}

globals().update(FEATURE_VIEWS)
