"""What Feast asks of the PostgreSQL store, in the store's own terms."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import pandas as pd
import pyarrow as pa
from feast import FeatureView, FileSource, RepoConfig
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)

from millwright.errors import ConfigurationError, InputError
from millwright.stores.asof_cutoffs import TIMESTAMP, columns_of_span
from millwright.stores.places import Place
from millwright.stores.postgres_join import TableHistory
from millwright.stores.postgres_query import values
from millwright.stores.postgres_rows import all_rows, read_all
from millwright.stores.postgres_server import Server, Session, connect
from millwright.stores.postgres_span import of_span, span_query
from millwright.stores.postgres_tables import Source
from millwright.stores.request import (
    batch_source,
    cutoffs_of_frame,
    history_of,
    place_of,
    timestamp_of,
    widest,
)


def server_of(config: RepoConfig) -> Server:
    """The server that the section `offline_store` names."""
    store = config.offline_store
    tls = {
        "sslmode": store.sslmode,
        "sslkey": store.sslkey_path,
        "sslcert": store.sslcert_path,
        "sslrootcert": store.sslrootcert_path,
    }
    return Server(
        host=store.host,
        port=store.port,
        database=store.database,
        user=store.user,
        password=store.password,
        schema=store.db_schema,
        more=tuple((name, value) for name, value in tls.items() if value),
    )


@dataclass(frozen=True)
class Asked:
    """The rows that features are asked for, whose times are in the column `timestamp`.

    `columns` has no rows where those are on the server, from which `read` brings them, once.
    `query` gives SQL for them.
    """

    timestamp: str
    columns: pa.Table
    read: Callable[[], pa.Table]
    query: Callable[[Session], str]


def asked_of(
    server: Server,
    entity_df: object,
    histories: Sequence[TableHistory],
    span: Callable[[], tuple[datetime, datetime]],
) -> Asked:
    """What `entity_df` asks for, or without one the rows of a `span`.

    Times that are written as text become times; all else stays as it is.
    """
    if isinstance(entity_df, pd.DataFrame):
        rows, timestamp = cutoffs_of_frame(entity_df)
        return Asked(timestamp, rows, lambda: rows, lambda session: values(session, rows))
    if isinstance(entity_df, str):
        return _of_query(server, Source("entity_df", entity_df))
    if entity_df is not None:
        kind = type(entity_df).__name__
        raise InputError(f"entity_df is a {kind}; pass a DataFrame, a query, or none")
    return _of_span(server, histories, span())


def _of_query(server: Server, source: Source) -> Asked:
    with connect(server) as session:
        columns = session.fetch(f"{all_rows(source.find(session))} LIMIT 0")

    @cache
    def read() -> pa.Table:
        with connect(server) as session:
            return read_all(session, source.find(session))

    def query(session: Session) -> str:
        return all_rows(source.inline(source.find(session)))

    return Asked(timestamp_of(columns), columns, read, query)


def _of_span(
    server: Server, histories: Sequence[TableHistory], span: tuple[datetime, datetime]
) -> Asked:
    keys, complete = widest(histories)

    @cache
    def read() -> pa.Table:
        with connect(server) as session:
            return of_span(session, complete, keys, span)

    def query(session: Session) -> str:
        tables = [each.source.inline(each.source.find(session)) for each in complete]
        return span_query(complete, tables, keys, span) or values(session, columns_of_span(keys))

    return Asked(TIMESTAMP, columns_of_span(keys), read, query)


def histories_of(
    views: Iterable[FeatureView], references: Sequence[str], *, full_feature_names: bool
) -> list[TableHistory]:
    """What the views and their sources say, with the sources' names of columns.

    Raises:
        ConfigurationError: a view has no source, or it is not in PostgreSQL.
    """
    return [
        TableHistory(
            source=source_of(batch_source(view)),
            **history_of(view, references, full_feature_names=full_feature_names),
        )
        for view in views
    ]


def source_of(source: DataSource) -> Source:
    """The table or the query that Feast's `source` names."""
    if not isinstance(source, PostgreSQLSource):
        raise ConfigurationError(
            f"source '{source.name}' is a {type(source).__name__}; this store reads "
            "PostgreSQLSource"
        )
    options = source._postgres_options
    return Source(options._table) if options._table else Source(source.name, options._query)


def table_of(source: DataSource) -> str:
    """The name of the table that rows of `source` are written into."""
    found = source_of(source)
    if found.query:
        raise ConfigurationError(f"source '{source.name}' is a query; rows go into a table only")
    return found.name


def of_dummy(rows: pa.Table) -> pa.Table:
    """Rows of a view without entities, for which Feast has an entity of its own."""
    if DUMMY_ENTITY_ID in rows.column_names:
        return rows
    return rows.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * rows.num_rows))


def staging_of(config: RepoConfig) -> Place | None:
    """Where results are exported to, if that is configured."""
    store = config.offline_store
    if not store.staging_location:
        return None
    endpoint = store.staging_location_endpoint_override or None
    source = FileSource(path=store.staging_location, s3_endpoint_override=endpoint)
    return place_of(source, config.repo_path)
