"""Where features are read from: the tables that `python run.py --pipeline features` keeps."""

from feast import FileSource
from fleets import ENVIRONMENT, VIEWS

from millwright.views import published

SOURCES = {
    published(fleet, view.name): FileSource(
        name=f"{published(fleet, view.name)}_source",
        path=str(ENVIRONMENT.offline(fleet.name) / view.name),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=f"{view.description}, one row per machine, step and version",
        owner=fleet.owner,
        tags={"fleet": fleet.name},
    )
    for fleet, view in VIEWS
}

globals().update({source.name: source for source in SOURCES.values()})
