"""Names that PostgreSQL would cut, and then take for each other."""

from collections.abc import Iterable, Iterator

from millwright.errors import ConfigurationError
from millwright.fleet import Fleet
from millwright.validation import schema
from millwright.views import View
from millwright.warehouse import KEYS

LIMIT = 63  # bytes, of an identifier
MOST = 1600  # columns, of a table


def check(fleet: Fleet, schemas: Iterable[str], views: Iterable[View]) -> None:
    """Make sure that PostgreSQL keeps every name of a fleet whole, and holds every view.

    Raises:
        ConfigurationError: a name is too long, or a view too wide.
    """
    views = tuple(views)
    for view in views:
        if len(KEYS) + len(view.features) > MOST:
            raise ConfigurationError(
                f"fleet '{fleet.name}': feature view '{view.name}' has {len(view.features):,} "
                f"features, and a table of PostgreSQL has at most {MOST:,} columns; ask for fewer "
                "statistics in the fleet's file, or use the local environment"
            )
    for kind, name in _names(fleet, schemas, views):
        size = len(name.encode())
        if size > LIMIT:
            raise ConfigurationError(
                f"fleet '{fleet.name}': the {kind} '{name}' has {size} bytes, and PostgreSQL cuts "
                f"names at {LIMIT}; shorten what it is made of in the fleet's file"
            )


def _names(
    fleet: Fleet, schemas: Iterable[str], views: Iterable[View]
) -> Iterator[tuple[str, str]]:
    yield from (("schema", name) for name in schemas)
    for table in fleet.table_names:
        yield from (("column", name) for name in schema(fleet, table))
    for view in views:
        yield "feature view", view.name
        yield from (("feature", name) for name in view.features)
