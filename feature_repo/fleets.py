"""The fleets that this repository defines features for: one for each file in `configs/fleets`.

Feast publishes what stands at the top of a module under a name of its own, and what a fleet has
follows from its file; so each module here ends by giving its definitions their names.
"""

import os

from millwright.fleet import Fleet, fleets_folder, load_fleet
from millwright.settings import Settings, State, load_settings, state
from millwright.views import feature_views

ENVIRONMENT: State = state(os.environ.get("MILLWRIGHT_ENVIRONMENT", "local"))
SETTINGS: Settings = load_settings(ENVIRONMENT.environment)
FLEETS: list[Fleet] = [load_fleet(path.stem) for path in sorted(fleets_folder().glob("*.yaml"))]
VIEWS = [(fleet, view) for fleet in FLEETS for view in feature_views(fleet)]
