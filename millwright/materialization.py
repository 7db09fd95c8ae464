"""The newest known row of every machine, brought from the offline store to the online store.

The window of a run is always everything up to `now`, and that is what makes it right. A row may
become known long after it was true, the newest row of a machine may be older than any look-back,
and another definition may have made other rows of old times: a shorter window misses one of them.
It costs one pass over the keys and times of each view.

So a run that was killed, anywhere, needs no repair: the next one looks at everything again, and an
online store of ours takes a row twice without harm (`millwright.stores.online_sqlite`,
`millwright.stores.online_redis`).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore, FeatureView
from feast.feature_view import FeatureViewState
from feast.utils import _get_column_names

from millwright.configuration import nearest
from millwright.errors import ConfigurationError, InputError
from millwright.sql import moment, quoted
from millwright.stores import parquet_files
from millwright.stores.asof_join import to_microseconds
from millwright.stores.online_load import load
from millwright.stores.online_rows import OrderedOnlineStore
from millwright.stores.parquet_files import EPOCH
from millwright.stores.progress import Reporter, reporting

STORES = (
    "millwright.stores.online_sqlite.OrderedSqliteOnlineStore",
    "millwright.stores.online_redis.OrderedRedisOnlineStore",
)
Progress = Reporter
NUMBER = "number of the row"


@dataclass(frozen=True)
class Materialized:
    """What became of one view.

    `expected` machines have a row offline; `written` of them have the same online now, and `kept`
    have a newer one there, which something else has written.
    """

    view: str
    start: datetime
    end: datetime
    expected: int
    written: int
    kept: int


@dataclass(frozen=True)
class Source:
    """Where the offline store has a view, and what the columns are called there."""

    store: FeatureStore
    view: FeatureView
    keys: list[str]
    features: list[str]
    event: str
    created: str | None

    def newest(self, end: datetime) -> pa.Table:
        """The newest row of each key that is true at `end`, known or not."""
        return self._read(self._offline.pull_latest_from_table_or_query, self.features, EPOCH, end)

    def all(self, start: datetime, end: datetime, *, features: bool) -> pa.Table:
        """All rows of a span of event time, with their features or without."""
        names = self.features if features else []
        return self._read(self._offline.pull_all_from_table_or_query, names, start, end)

    @property
    def _offline(self) -> Any:
        return self.store._get_provider().offline_store

    def _read(self, pull: Any, features: list[str], start: datetime, end: datetime) -> pa.Table:
        rows: pa.Table = pull(
            config=self.store.config,
            data_source=self.view.batch_source,
            join_key_columns=self.keys,
            feature_name_columns=features,
            timestamp_field=self.event,
            created_timestamp_column=self.created,
            start_date=start,
            end_date=end,
        ).to_arrow()
        return rows


def materialize(
    store: FeatureStore, views: Sequence[str], now: datetime, progress: Progress | None = None
) -> list[Materialized]:
    """Bring views up to `now`, or to this moment if that is earlier.

    Only rows whose both times are at most that are taken. `progress` is told the name of the work,
    how many rows are done and how many there are.

    Raises:
        InputError: there is no such view.
        MillwrightError: after the writing, a row is not in the online store.
    """
    end = min(now.replace(tzinfo=UTC) if now.tzinfo is None else now, datetime.now(UTC))
    found = _views(store, views)
    online, sources = _online(store), [_source(store, view) for view in found]
    done = []
    with reporting(progress) if progress else nullcontext():
        for source, rows in zip(sources, _newest_known(sources, end), strict=True):
            loaded = load(store.config, online, source.view, rows)
            _record(store, source.view, end)
            done.append(
                Materialized(
                    source.view.name, EPOCH, end, rows.num_rows, loaded.written, loaded.kept
                )
            )
    return done


def _newest_known(sources: Sequence[Source], now: datetime) -> Iterator[pa.Table]:
    """The rows of each source. While the caller is busy with one, the next is read.

    So two are in memory, and an error of the caller's waits for the reading that is under way.
    """
    with ThreadPoolExecutor(1) as reader:
        reading: deque[Future[pa.Table]] = deque()
        for source in sources:
            reading.append(reader.submit(newest_known, source, now))
            if len(reading) == 2:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()


def newest_known(source: Source, now: datetime) -> pa.Table:
    """For each key the newest row that is true and known at `now`, with the source's columns.

    The offline store gives the newest that is true by then. Where that one is not yet known,
    another is looked for among the keys and times of all rows, and then read with its features.
    """
    newest = source.newest(now)
    if source.created is None or not newest.num_rows:
        return newest
    times = to_microseconds(newest[source.created])
    known: Any = pc.less_equal(times, pa.scalar(now, times.type)).fill_null(fill_value=False)
    if pc.all(known).as_py():
        return newest
    found = [newest.filter(known)]
    with parquet_files.connect() as connection:
        connection.register("late", newest.filter(pc.invert(known)))
        query = _newest_of_late(source, now)
        connection.register("rows", _numbered(source.all(EPOCH, now, features=False)))
        times = connection.execute(query).to_arrow_table()[source.event]
        if len(times):
            whole = source.all(pc.min(times).as_py(), pc.max(times).as_py(), features=True)
            connection.register("rows", _numbered(whole))
            found.append(connection.execute(query).to_arrow_table())
    return pa.concat_tables(rows.select(newest.column_names).cast(newest.schema) for rows in found)


def _newest_of_late(source: Source, now: datetime) -> str:
    """SQL for the newest known one of `rows` for each key of `late`; of equal ones the last."""
    keys = ", ".join(map(quoted, source.keys))
    times = f"{quoted(source.event)} DESC, {quoted(str(source.created))} DESC"
    return f"""
        SELECT * EXCLUDE ({quoted(NUMBER)})
        FROM rows {f"SEMI JOIN late USING ({keys})" if keys else ""}
        WHERE {quoted(str(source.created))} <= {moment(now)}
        QUALIFY row_number() OVER (
            {f"PARTITION BY {keys}" if keys else ""} ORDER BY {times}, {quoted(NUMBER)} DESC
        ) = 1
    """


def _numbered(rows: pa.Table) -> pa.Table:
    return rows.append_column(NUMBER, pa.array(np.arange(rows.num_rows)))


def _record(store: FeatureStore, view: FeatureView, end: datetime) -> None:
    """Leave in the registry up to when the view is online.

    Feast would add an interval with each run and never take one away. As ours begin at the
    beginning, the last one says it all.
    """
    published = store.registry.get_feature_view(view.name, store.project)
    published.materialization_intervals = [(EPOCH, end)]
    published.state = FeatureViewState.AVAILABLE_ONLINE
    store.registry.apply_feature_view(published, store.project)


def _online(store: FeatureStore) -> OrderedOnlineStore:
    online = store._get_provider().online_store
    if not isinstance(online, OrderedOnlineStore):
        raise ConfigurationError(
            f"the online store {store.config.online_store.type} lets older rows replace newer "
            f"ones; name {' or '.join(STORES)} in {store.repo_path}/feature_store.yaml"
        )
    return online


def _source(store: FeatureStore, view: FeatureView) -> Source:
    entities = [store.get_entity(name) for name in view.entities]
    keys, features, event, created = _get_column_names(view, entities)
    return Source(store, view, keys, features, event, created or None)


def _views(store: FeatureStore, names: Sequence[str]) -> list[FeatureView]:
    """The views as the registry has them: the feature store hides the entity of one without any."""
    known = {view.name: view for view in store.registry.list_feature_views(store.project)}
    for name in names:
        if name not in known:
            raise InputError(
                f"Feast knows no feature view '{name}'; {nearest(name, [*known])} "
                "Publish it: feast apply"
            )
    return [known[name] for name in names]
