"""The champion, where a new model may be compared with it, and the reason where it may not."""

from collections.abc import Collection

import pandas as pd

from millwright import release as releases
from millwright.errors import ReleaseError
from millwright.project import Project
from millwright.release import Manifest, Release


def find_champion(
    features: Collection[str], start: pd.Timestamp, project: Project
) -> tuple[Release | None, str]:
    """The released champion, if it can be judged on a test window, or why it cannot.

    Args:
        features: what the rows of the test window hold.
        start: where the test window starts (UTC).
        project: gives the releases, and the question that is asked now.

    Returns:
        The champion and an empty note; None and a note that says why it is not compared; or None
        and an empty note where there is no champion yet.

    Raises:
        ReleaseError: the champion cannot be loaded.
    """
    folder = releases.champion(project.state.releases(project.fleet.name))
    if folder is None:
        return None, ""
    try:
        champion = releases.load(folder)
    except ReleaseError as err:
        raise ReleaseError(
            f"the champion cannot be compared with: {err}. Restore its folder, or remove "
            f"{folder.parent / releases.POINTER} to go on without a champion"
        ) from err
    obstacle = _obstacle(champion.manifest, features, start, project)
    return (None, f"{folder.name} {obstacle}") if obstacle else (champion, "")


def _obstacle(
    manifest: Manifest, features: Collection[str], start: pd.Timestamp, project: Project
) -> str:
    """What keeps the model of `manifest` from a fair comparison; empty if nothing does."""
    fleet = project.fleet
    horizon, lead_time = fleet.label(fleet.horizon), fleet.label(fleet.lead_time)
    if (manifest.horizon, manifest.lead_time) != (horizon, lead_time):
        return (
            f"answers another question: its horizon is {manifest.horizon} and its lead time "
            f"{manifest.lead_time}, where the fleet file now says {horizon} and {lead_time}"
        )
    if manifest.learned_until > start:
        return (
            f"has learned from failures up to {manifest.learned_until:%Y-%m-%d %H:%M}, and the "
            f"test window starts at {start:%Y-%m-%d %H:%M} UTC"
        )
    lacking = [name for name in manifest.encoder.features if name not in features]
    if lacking:
        return f"reads features that are no longer made: {', '.join(lacking)}"
    return ""
