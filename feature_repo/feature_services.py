"""What each model reads: the contract between features and a model, versioned by its name."""

from feast import FeatureService
from feature_views import FEATURE_VIEWS
from fleets import FLEETS, VIEWS

from millwright.views import detector_view, published, service_name

FAILURE = [
    FeatureService(
        name=service_name(fleet, "failure"),
        features=[
            FEATURE_VIEWS[published(owner, view.name)] for owner, view in VIEWS if owner is fleet
        ],
        description="What the failure classifier reads",
        owner=fleet.owner,
        tags={"fleet": fleet.name, "model": "failure"},
    )
    for fleet in FLEETS
]

ANOMALY = [
    FeatureService(
        name=service_name(fleet, "anomaly"),
        features=[FEATURE_VIEWS[published(fleet, detector_view(fleet).name)]],
        description="What the anomaly detector reads",
        owner=fleet.owner,
        tags={"fleet": fleet.name, "model": "anomaly"},
    )
    for fleet in FLEETS
]

globals().update({service.name: service for service in [*FAILURE, *ANOMALY]})
