"""Feast: the registry, the definitions published in it, and what is online."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feast import FeatureView
from feast.diff.property_diff import TransitionType
from redis import Redis

from millwright import feast_store
from millwright.arguments import FLEET
from millwright.doctor.databases import damage
from millwright.doctor.findings import LEFT_OUT, Check, Finding, Patient, moved
from millwright.errors import MillwrightError
from millwright.fleet import Fleet
from millwright.postgres.connection import connect
from millwright.raw_store import RawStore
from millwright.sqlite_files import query
from millwright.views import feature_views, published

# The files, what each is called, and what is lost with it.
LOST = {
    "registry.db": (
        "feast registry",
        "lost are then the published definitions and what is online, which the next run restores",
    ),
    "online.db": (
        "online store",
        "lost are then the online features, which the next run brings back",
    ),
}
NAMED = 4  # definitions that a line names


def registry_path(patient: Patient) -> Path:
    """The registry of an environment without servers."""
    return patient.state.root / "registry.db"


def registry(patient: Patient) -> Iterator[Finding]:
    """Whether Feast's registry and the online store can be opened."""
    if patient.has_servers:
        return  # the checks of the servers see to both
    for name, (title, loss) in LOST.items():
        path = patient.state.root / name
        if not path.is_file():
            yield Finding(title, "ok", "none yet; the first run makes it")
        elif problem := damage(path):
            fleets = [fleet.name for fleet in patient.fleets()] or [FLEET]
            again = [moved(path), *(patient.run("features", fleet) for fleet in fleets)]
            said = f"{path} {problem}. Restore it from a backup, or move it away; {loss}"
            yield Finding(title, "fault", said, " && ".join(again))
        else:
            yield Finding(title, "ok", str(path))


def published_already(patient: Patient) -> bool:
    """Whether there is a registry with definitions.

    Raises:
        MillwrightError: there is one, and it cannot be opened.
    """
    patient.needs_places()
    patient.needs("postgres", "redis")
    if patient.has_servers:
        connection = connect(patient.urls["postgres"])
        try:
            cursor = connection.cursor()
            table = f"{feast_store.REGISTRY_SCHEMA}.projects"
            cursor.execute("SELECT to_regclass(%s)", (table,))
            if cursor.fetchone()[0] is None:
                return False
            cursor.execute(f"SELECT count(*) FROM {table}")
            return bool(cursor.fetchone()[0])
        finally:
            connection.close()
    path = registry_path(patient)
    if not path.is_file():
        return False
    if damage(path):
        raise MillwrightError(f"{LEFT_OUT}, because the registry cannot be opened")
    tables = query(path, "SELECT count(*) FROM sqlite_master WHERE name = 'projects'")
    return tables == [(1,)] and query(path, "SELECT count(*) FROM projects") != [(0,)]


def definitions(patient: Patient) -> Iterator[Finding]:
    """Whether what is published is what `feature_repo/` defines now, for all fleets."""
    if not published_already(patient):
        yield Finding("definitions", "ok", "none published yet; the first run does that")
        return
    changes = planned(patient)
    if not changes:
        yield Finding("definitions", "ok", "published as feature_repo/ defines them")
        return

    def repair() -> str:
        feast_store.apply(patient.state)
        return "feature definitions published"

    more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
    said = f"not as feature_repo/ and configs/fleets define them: {', '.join(changes[:NAMED])}"
    yield Finding("definitions", "warning", said + more, patient.apply, repair)


def planned(patient: Patient) -> list[str]:
    """What `feast apply` would do, as `feast plan` finds it."""
    return [
        f"{each.transition_type.name.lower()} {each.feast_object_type.value} {each.name}"
        for each in feast_store.plan(patient.state).feast_object_diffs
        if _differs(each)
    ]


def _differs(each: Any) -> bool:
    """Whether a definition is not the published one, apart from when it was published.

    A view carries its source, with the times at which that was published; sources are compared by
    themselves.
    """
    if each.transition_type is TransitionType.UPDATE:
        return any(
            found.property_name != "batch_source" for found in each.feast_object_property_diffs
        )
    return each.transition_type is not TransitionType.UNCHANGED


def materialized(patient: Patient) -> Iterator[Finding]:
    """Up to when each fleet's views are online."""
    if not published_already(patient):
        return
    store = feast_store.open_store(patient.state)
    views = {view.name: view for view in store.list_feature_views()}
    for fleet in patient.fleets():
        if (patient.state.raw(fleet.name) / "batches").is_dir():
            yield _of_fleet(patient, fleet, views)
    if patient.has_servers and any(view.materialization_intervals for view in views.values()):
        yield _of_redis(patient)


def _of_redis(patient: Patient) -> Finding:
    """Whether Redis has kept what was brought to it; which keys it has is Feast's business."""
    with Redis.from_url(patient.urls["redis"], socket_timeout=3) as client:
        count = client.dbsize()
    if count:
        return Finding("online store", "ok", f"{count:,} keys in Redis")
    mends = [patient.run("features", fleet.name) for fleet in patient.fleets()]
    said = "Redis is empty, and features were brought to it: it was restarted without its data"
    return Finding("online store", "fault", said, " && ".join(mends))


def _of_fleet(patient: Patient, fleet: Fleet, views: dict[str, FeatureView]) -> Finding:
    title, mend = f"online features of {fleet.name}", patient.run("features", fleet.name)
    ends: dict[str, datetime] = {}
    for view in feature_views(fleet):
        found = views.get(published(fleet, view.name))
        if found is not None and found.materialization_intervals:
            ends[view.name] = found.materialization_intervals[-1][1].astimezone(UTC)
    never = [view.name for view in feature_views(fleet) if view.name not in ends]
    if never:
        shown = ", ".join(never[:NAMED])
        return Finding(title, "warning", f"{len(never)} views were never online: {shown}", mend)
    oldest = min(ends.values())
    said = f"{len(ends)} views as of {oldest:%Y-%m-%d %H:%M} UTC, {_age(oldest)} ago"
    if later := brought_since(patient, fleet, oldest):
        batches = "1 batch" if later == 1 else f"{later} batches"
        return Finding(title, "warning", f"{said}; {batches} of raw rows came later", mend)
    return Finding(title, "ok", said)


def brought_since(patient: Patient, fleet: Fleet, moment: datetime) -> int:
    """How many batches of raw rows have come since `moment`, whenever they were true or known.

    The raw store is made of files in every environment, wherever the feature tables are.
    """
    store = RawStore(patient.state.raw(fleet.name), fleet)
    times = (path.stat().st_mtime for path in (store.folder / "batches").glob("*.json"))
    return sum(datetime.fromtimestamp(time, UTC) > moment for time in times)


def _age(moment: datetime) -> str:
    minutes = int((datetime.now(UTC) - moment).total_seconds() // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days"


CHECKS = (
    Check("feast registry", registry, "feast registry-dump"),
    Check("definitions", definitions, "cd feature_repo && feast apply", server="postgres"),
    Check("online features", materialized, "cd feature_repo && feast apply", server="postgres"),
)
