"""The newest known row of every machine, brought from the offline store to the online store.

The window of a run is always everything up to `now`, and that is what makes it right. A row may
become known long after it was true, the newest row of a machine may be older than any look-back,
and another definition may have made other rows of old times: a shorter window misses one of them.
It costs one pass over the keys and times of each view.

So a run that was killed, anywhere, needs no repair: the next one looks at everything again, and an
online store of ours takes a row twice without harm (`millwright.stores.online_sqlite`,
`millwright.stores.online_redis`).
"""

from collections.abc import Iterator, Sequence
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
from millwright.stores.asof import AsofDuckDBOfflineStore
from millwright.stores.asof_join import to_microseconds
from millwright.stores.online_load import Loaded, load
from millwright.stores.online_rows import OrderedOnlineStore
from millwright.stores.parquet_files import EPOCH
from millwright.stores.progress import Reporter, reporting
from millwright.stores.request import Columns

STORES = (
    "millwright.stores.online_sqlite.OrderedSqliteOnlineStore",
    "millwright.stores.online_redis.OrderedRedisOnlineStore",
)
Progress = Reporter
NUMBER = "number of the row"


@dataclass(frozen=True)
class Materialized:
    """What became of one view.

    `expected` machines have a row offline; `written` of them have one of its time online now, and
    `kept` a newer one, which something else has written.
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
    columns: Columns

    @property
    def offline(self) -> Any:
        """The offline store, whose methods Feast calls by itself elsewhere."""
        return self.store._get_provider().offline_store

    def newest(self, end: datetime) -> pa.Table:
        """The newest row of each key that is true at `end`, known or not."""
        features = self.columns.features
        return self._read(self.offline.pull_latest_from_table_or_query, features, EPOCH, end)

    def all(self, start: datetime, end: datetime, *, features: bool) -> pa.Table:
        """All rows of a span of event time, with their features or without."""
        names = self.columns.features if features else []
        return self._read(self.offline.pull_all_from_table_or_query, names, start, end)

    def _read(self, pull: Any, features: list[str], start: datetime, end: datetime) -> pa.Table:
        rows: pa.Table = pull(
            config=self.store.config,
            data_source=self.columns.source,
            join_key_columns=self.columns.keys,
            feature_name_columns=features,
            timestamp_field=self.columns.event,
            created_timestamp_column=self.columns.created,
            start_date=start,
            end_date=end,
        ).to_arrow()
        return rows


def materialize(
    store: FeatureStore, views: Sequence[str], now: datetime, progress: Progress | None = None
) -> list[Materialized]:
    """Bring views up to `now`, or to this moment if that is earlier.

    Only rows whose both times are at most that are taken. `progress` is told the name of the work,
    how many rows are done and how many there are. The registry is told of a view when all of its
    rows are online. A view that cannot be read stops those that come after it, and no others.

    Raises:
        InputError: there is no such view.
        DataError: a view cannot be read, or what it has is not what its features are.
        MillwrightError: the online store does not answer, or a row that was written is not there.
    """
    end = min(now.replace(tzinfo=UTC) if now.tzinfo is None else now, datetime.now(UTC))
    found = _views(store, views)
    online, sources = _online(store), [_source(store, view) for view in found]
    done = []

    def arrived(loaded: Loaded) -> None:
        _record(store, loaded.view, end)
        done.append(
            Materialized(loaded.view.name, EPOCH, end, loaded.expected, loaded.written, loaded.kept)
        )

    with reporting(progress) if progress else nullcontext():
        load(store.config, online, _newest_known(sources, end), arrived)
    return done


def _newest_known(
    sources: Sequence[Source], now: datetime
) -> Iterator[tuple[FeatureView, pa.Table]]:
    """For each key the newest row that is true and known at `now`, with the source's columns.

    The offline store gives the newest that is true by then. Where that one is not yet known,
    another is looked for among the keys and times of all rows, and then read with its features.
    """
    for source, newest in zip(sources, _newest(sources, now), strict=True):
        yield source.view, _known(source, newest, now)


def _newest(sources: Sequence[Source], end: datetime) -> Iterator[pa.Table]:
    """The newest row of each key that is true at `end`, known or not."""
    offline = sources[0].offline if sources else None
    if isinstance(offline, AsofDuckDBOfflineStore):
        asked = [source.columns for source in sources]
        yield from offline.pull_latest_of_each(sources[0].store.config, asked, EPOCH, end)
    else:
        yield from (source.newest(end) for source in sources)


def _known(source: Source, newest: pa.Table, now: datetime) -> pa.Table:
    """Of `newest` what is known at `now`, and for the other keys the newest that is."""
    created = source.columns.created
    if created is None or not newest.num_rows:
        return newest
    times = to_microseconds(newest[created])
    known: Any = pc.less_equal(times, pa.scalar(now, times.type)).fill_null(fill_value=False)
    if pc.all(known).as_py():
        return newest
    found = [newest.filter(known)]
    with parquet_files.connect() as connection:
        connection.register("late", newest.filter(pc.invert(known)))
        query = _newest_of_late(source, now)
        connection.register("rows", _numbered(source.all(EPOCH, now, features=False)))
        times = connection.execute(query).to_arrow_table()[source.columns.event]
        if len(times):
            whole = source.all(pc.min(times).as_py(), pc.max(times).as_py(), features=True)
            connection.register("rows", _numbered(whole))
            found.append(connection.execute(query).to_arrow_table())
    return pa.concat_tables(rows.select(newest.column_names).cast(newest.schema) for rows in found)


def _newest_of_late(source: Source, now: datetime) -> str:
    """SQL for the newest known one of `rows` for each key of `late`; of equal ones the last."""
    keys = ", ".join(map(quoted, source.columns.keys))
    created = quoted(str(source.columns.created))
    times = f"{quoted(source.columns.event)} DESC, {created} DESC"
    return f"""
        SELECT * EXCLUDE ({quoted(NUMBER)})
        FROM rows {f"SEMI JOIN late USING ({keys})" if keys else ""}
        WHERE {created} <= {moment(now)}
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
    columns = Columns(view.batch_source, keys, features, event, created or None)
    return Source(store, view, columns)


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
