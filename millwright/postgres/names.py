"""Names that PostgreSQL would cut, and then take for each other."""

from collections.abc import Iterable, Iterator

from millwright.errors import ConfigurationError
from millwright.fleet import Fleet
from millwright.validation import schema
from millwright.views import View

LIMIT = 63  # bytes, of an identifier


def check(fleet: Fleet, schemas: Iterable[str], views: Iterable[View]) -> None:
    """Make sure that PostgreSQL keeps every name of a fleet whole.

    Raises:
        ConfigurationError: one is too long.
    """
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
