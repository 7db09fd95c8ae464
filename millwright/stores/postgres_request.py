"""What Feast asks of the PostgreSQL store, in the store's own terms."""

from collections.abc import Iterable, Sequence

import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df

from millwright.errors import ConfigurationError, InputError
from millwright.stores.postgres_join import TableHistory
from millwright.stores.postgres_server import Server, connect
from millwright.stores.postgres_tables import Source, find_query, read_all
from millwright.stores.request import batch_source, cutoffs_of_frame, history_of


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


def cutoffs_of(server: Server, entity_df: object) -> tuple[pa.Table, str]:
    """The rows that features are asked for, and the name of their times.

    Times that are written as text become times; all else stays as it is.
    """
    if isinstance(entity_df, str):
        with connect(server) as session:
            query = find_query(session, entity_df, "entity_df")
            rows = read_all(session, query)
        return rows, infer_event_timestamp_from_entity_df(
            rows.schema.empty_table().to_pandas().dtypes.to_dict()
        )
    if not isinstance(entity_df, pd.DataFrame):
        raise InputError(
            "this offline store takes no spans of time; pass entity_df as a DataFrame or a query"
        )
    return cutoffs_of_frame(entity_df)


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
