"""Features as the online store has them, and where they differ from the offline store.

Feast's own reading enforces no time to live, and says something else of an unknown machine on
each store. What is read here is what a historical join at `as_of` would give: stale rows and
unknown machines are null, on every store alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from feast import FeatureService, FeatureStore, FeatureView
from feast.errors import FeatureServiceNotFoundException
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import from_feast_to_pyarrow_type

from millwright.configuration import nearest
from millwright.errors import InputError

MACHINE = "machine_id"
Status = Literal["present", "stale", "missing"]
Found = tuple[datetime | None, dict[str, Value] | None]


@dataclass(frozen=True)
class OnlineFeatures:
    """What a service reads: a row for each machine that was asked for, in that order.

    `table` has `machine_id` and the features in the order of the service. `events` says for each
    view when a machine's row was true, None where it has none, and `statuses` what it is worth.
    """

    table: pa.Table
    events: Mapping[str, tuple[datetime | None, ...]]
    statuses: Mapping[str, tuple[Status, ...]]


@dataclass(frozen=True)
class Difference:
    """A feature of a machine that is not the same offline and online; None is null."""

    machine: str
    feature: str
    offline: float | str | None
    online: float | str | None

    def __str__(self) -> str:
        return (
            f"machine {self.machine}: {self.feature} is {self.offline} offline and "
            f"{self.online} online"
        )


def find_service(store: FeatureStore, name: str) -> FeatureService:
    """The service as the registry's cache has it, which spares a reader the registry's server.

    Raises:
        InputError: Feast knows no such service.
    """
    try:
        return store.get_feature_service(name, allow_cache=True)
    except FeatureServiceNotFoundException:
        store.refresh_registry()  # it may have been published since
    try:
        return store.get_feature_service(name, allow_cache=True)
    except FeatureServiceNotFoundException as err:
        names = [service.name for service in store.list_feature_services()]
        raise InputError(
            f"Feast knows no feature service '{name}'; {nearest(name, names)} Publish it: "
            "feast apply"
        ) from err


def read_online(
    store: FeatureStore, service: str, machines: Sequence[str], as_of: datetime
) -> OnlineFeatures:
    """Read the features of `service` for `machines`.

    A row that is older at `as_of` than its view's time to live is stale: its values are null. One
    that came true after `as_of` is missing, null too, and the store has none of before any more:
    its event time tells that apart from a machine of which nothing is known.

    Raises:
        InputError: Feast knows no such service.
        MillwrightError: the online store does not answer.
    """
    as_of = as_of.replace(tzinfo=UTC) if as_of.tzinfo is None else as_of
    keys = [
        EntityKey(join_keys=[MACHINE], entity_values=[Value(string_val=machine)])
        for machine in machines
    ]
    columns: dict[str, pa.Array[Any]] = {MACHINE: pa.array(list(machines), pa.string())}
    events: dict[str, tuple[datetime | None, ...]] = {}
    statuses: dict[str, tuple[Status, ...]] = {}
    for projection in find_service(store, service).feature_view_projections:
        view = store.get_feature_view(projection.name, allow_registry_cache=True)
        names = [feature.name for feature in projection.features]
        found: list[Found] = []
        if keys:
            provider = store._get_provider()
            found = provider.online_read(store.config, view, keys, list(names))
        name = projection.name_to_use()
        events[name] = tuple(event for event, _ in found)
        statuses[name] = tuple(_status(view, event, as_of) for event in events[name])
        rows = [
            (values or {}) if status == "present" else {}
            for (_, values), status in zip(found, statuses[name], strict=True)
        ]
        for feature in projection.features:
            kind = from_feast_to_pyarrow_type(feature.dtype)
            columns[feature.name] = pa.array([_value(row.get(feature.name)) for row in rows], kind)
    return OnlineFeatures(pa.table(columns), events, statuses)


def compare(
    store: FeatureStore, service: str, machines: Sequence[str], as_of: datetime
) -> list[Difference]:
    """Where the online store does not hold what was true and known at `as_of`.

    Equal means exactly equal, to the last bit; null equals null, and a NaN of the offline store is
    null, for online stores keep none.

    Raises:
        InputError: Feast knows no such service.
        MillwrightError: the online store does not answer.
    """
    as_of = as_of.replace(tzinfo=UTC) if as_of.tzinfo is None else as_of
    online = read_online(store, service, machines, as_of).table
    cutoffs = pd.DataFrame({MACHINE: list(machines)}, dtype="object")
    cutoffs["event_timestamp"] = pd.Timestamp(as_of)
    offline = store.get_historical_features(
        cutoffs, find_service(store, service), filter_by_created_timestamp=True
    ).to_arrow()
    return [
        Difference(machine, feature, there, here)
        for feature in online.column_names[1:]
        for machine, there, here in zip(
            machines,
            map(_without_nan, offline[feature].to_pylist()),
            online[feature].to_pylist(),
            strict=True,
        )
        if there != here
    ]


def _status(view: FeatureView, event: datetime | None, as_of: datetime) -> Status:
    if event is None or event > as_of:
        return "missing"
    life = view.ttl or timedelta(0)
    return "stale" if life and event < as_of - life else "present"


def _value(value: Value | None) -> Any:
    kind = value.WhichOneof("val") if value is not None else None
    return getattr(value, kind) if kind else None


def _without_nan(value: Any) -> Any:
    return value if value == value else None  # NaN alone differs from itself
