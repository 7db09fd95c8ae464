"""How a step gets at what it works on: the active stack says which environment this is."""

from millwright.project import Project, open_project
from millwright.stack import current_environment


def opened(fleet: str) -> Project:
    """The fleet's project in the environment of the active stack."""
    return open_project(fleet, current_environment())
