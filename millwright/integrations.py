"""What ZenML does at the start of each run for any package there is, done where it counts alone.

ZenML activates the integration of each installed package: it imports the library, to know how its
objects are stored as artifacts. Of a library that no step has imported there is no object.
"""

import importlib.metadata
import sys
from collections.abc import Callable
from functools import cache

from zenml.integrations.integration import Integration
from zenml.integrations.registry import integration_registry

# What takes long to import, by the name of ZenML's integration.
LIBRARIES = {"polars": "polars", "scipy": "scipy", "sklearn": "sklearn", "xgboost": "xgboost"}


def leave_idle() -> None:
    """Have the integration of a library wait until something else has imported the library."""
    for name, library in LIBRARIES.items():
        integration = integration_registry.integrations[name]
        integration.activate = _when_imported(library, integration)


def remember_packages() -> None:
    """Have the packages of this environment be looked through once.

    ZenML asks for them for the type of each artifact, and every file of theirs is read each time.
    """
    found = importlib.metadata.packages_distributions
    if not hasattr(found, "cache_info"):
        importlib.metadata.packages_distributions = cache(found)


def _when_imported(library: str, integration: type[Integration]) -> Callable[[], None]:
    activate = integration.activate

    def activated() -> None:
        if library in sys.modules:
            activate()

    return activated
