"""Where a service reads features: the online store of its environment, without Feast.

Feast writes this store and says what is in it; how it lies there is in `stores.online_layout`.
Reading it directly is what makes an answer take a millisecond, and a service start in two seconds.
That it reads what Feast would is shown by tests, on both stores.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, Protocol

import yaml

from millwright.endpoints import endpoint
from millwright.errors import ConfigurationError, MillwrightError, ReleaseError
from millwright.serving.plan import Cells, Plan
from millwright.serving.rows import FeatureRows, Moments
from millwright.settings import ENVIRONMENTS, State, load_settings

MACHINE = "machine_id"
SQLITE = "millwright.stores.online_sqlite.OrderedSqliteOnlineStore"
REDIS = "millwright.stores.online_redis.OrderedRedisOnlineStore"


class OnlineReader(Protocol):
    """An online store to read from. Every method raises a MillwrightError if it cannot be read."""

    def cells(self, plan: Plan, machines: Sequence[str]) -> tuple[list[Cells], Moments]:
        """The cells of each machine, and the event times of its views, shape (n, views)."""
        ...

    def machines(self, plan: Plan) -> Iterator[str]:
        """Every machine that has a row in some view, each once, in no order."""
        ...

    def published(self) -> Mapping[str, Collection[str]] | None:
        """The views that were published for this store, or None where that is not known.

        With the features of each; none of a view of which they cannot be told yet.
        """
        ...


def open_reader(state: State, seconds: float) -> OnlineReader:
    """A reader of an environment's online store, which has so many seconds for an answer.

    Nothing is connected to before something is read.

    Raises:
        ConfigurationError: the store is of another kind, or no URL of its server is known.
    """
    path = ENVIRONMENTS / state.environment / "feature_store.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    store, project = config["online_store"], config["project"]
    known = {**os.environ, "MILLWRIGHT_STATE": str(state.root)}
    if store["type"] == SQLITE:
        from millwright.serving.sqlite_reader import SqliteReader

        place = Path(Template(store["path"]).safe_substitute(known))
        return SqliteReader(place, project, MACHINE, seconds)
    if store["type"] == REDIS:
        from millwright.serving.redis_reader import RedisReader

        if load_settings(state.environment).servers != "none":
            known["MILLWRIGHT_REDIS_CONNECTION"] = endpoint("redis", state)
        url = Template(store["connection_string"]).safe_substitute(known)
        return RedisReader(url, project, MACHINE, seconds)
    raise ConfigurationError(
        f"{path}: 'online_store.type' is '{store['type']}', which the service cannot read; take "
        f"{SQLITE} or {REDIS}"
    )


def read(reader: OnlineReader, plan: Plan, machines: Sequence[str], as_of: Moments) -> FeatureRows:
    """The features of each machine at its time in `as_of`, shape (n,), microseconds since 1970.

    Raises:
        MillwrightError: the store does not answer, or holds features of other types.
    """
    cells, events = reader.cells(plan, machines)
    return plan.rows(machines, cells, events, as_of)


def lacking(reader: OnlineReader, plan: Plan) -> str | None:
    """Why the features of a release cannot all be had, in a sentence; None if they can.

    Raises:
        MillwrightError: the store does not answer.
    """
    published = reader.published()
    if published is None:
        return None
    for view in plan.views:
        if view.name not in published:
            return f"view '{view.name}' is not in {reader}; publish it: feast apply"
        there = published[view.name]
        gone = [name for name in view.features if name not in there]
        if there and gone:
            return (
                f"view '{view.name}' in {reader} has no '{gone[0]}', which the release needs; "
                "publish the views of the release and materialize them again, or train again"
            )
    return None


def check_published(reader: OnlineReader, plan: Plan, version: int) -> None:
    """See that the store has the features of a release, as far as it can be asked now.

    Raises:
        ReleaseError: it has not.
    """
    try:
        reason = lacking(reader, plan)
    except MillwrightError:  # to be away says nothing against a release
        return
    if reason:
        raise ReleaseError(f"release v{version} cannot answer: {reason}")
