"""A release into service."""

from functools import partial
from pathlib import Path
from typing import Annotated

from zenml import step

from millwright import deployment, publication, registry, stack
from millwright.deployment import Deployment, Surroundings
from millwright.publication import Released
from millwright.release import read_manifest
from steps.opening import opened


@step(enable_cache=False)
def find_release(fleet: str, version: int | None) -> Annotated[Released, "release"]:
    """The release of a version, or the one that was registered last."""
    return publication.released(opened(fleet), version)


@step(enable_cache=False, experiment_tracker=True)
def deploy_release(fleet: str, release: Released) -> Annotated[Deployment, "deployment"]:
    """Put a release into service, if there is one, and compare what it answers."""
    if release.path is None:
        return Deployment(status="not deployed")
    manifest = read_manifest(Path(release.path))
    around = Surroundings(
        put=partial(stack.model_deployer().deploy_release, proven=True),
        features=stack.feature_store().get_historical_features,
    )
    deployed = deployment.deploy(opened(fleet), manifest.version, around)
    registry.crown(manifest)
    return deployed
