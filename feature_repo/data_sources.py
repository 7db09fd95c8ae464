"""Where features are read from: the tables that `python run.py --pipeline features` keeps."""

from feast import FileSource
from feast.data_source import DataSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from fleets import ENVIRONMENT, SETTINGS, VIEWS

from millwright.fleet import Fleet
from millwright.postgres.view_tables import table_of
from millwright.views import View, published


def source(fleet: Fleet, view: View) -> DataSource:
    """The rows of a view: files, or a table in PostgreSQL, as the environment keeps them."""
    described = {
        "name": f"{published(fleet, view.name)}_source",
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": "created_timestamp",
        "description": f"{view.description}, one row per machine, step and version",
        "owner": fleet.owner,
        "tags": {"fleet": fleet.name},
    }
    if SETTINGS.engine.kind == "postgres":
        return PostgreSQLSource(table=table_of(fleet, view.name), **described)
    return FileSource(path=str(ENVIRONMENT.offline(fleet.name) / view.name), **described)


SOURCES = {published(fleet, view.name): source(fleet, view) for fleet, view in VIEWS}

globals().update({each.name: each for each in SOURCES.values()})
