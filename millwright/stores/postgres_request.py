"""What Feast asks of the PostgreSQL store, in the store's own terms."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.types import from_feast_to_pyarrow_type
from feast.utils import _parse_feature_ref

from millwright.errors import ConfigurationError, InputError
from millwright.stores.postgres_join import TableHistory
from millwright.stores.postgres_server import Server, connect
from millwright.stores.postgres_tables import Source, find_query, read_all


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
    timestamp = infer_event_timestamp_from_entity_df(entity_df.dtypes.to_dict())
    try:
        if entity_df[timestamp].dtype in ("object", "string"):
            times = pd.to_datetime(entity_df[timestamp], utc=True, format="ISO8601")
            entity_df = entity_df.assign(**{timestamp: times})
        return pa.Table.from_pandas(entity_df, preserve_index=False), timestamp
    except (ValueError, TypeError, pa.ArrowException) as err:
        raise InputError(f"the entity frame cannot be read: {err}") from err


def histories_of(
    views: Iterable[FeatureView], references: Sequence[str], *, full_feature_names: bool
) -> list[TableHistory]:
    """What the views and their sources say, with the sources' names of columns.

    Raises:
        ConfigurationError: a view has no source, or it is not in PostgreSQL.
    """
    return [_history(view, references, full_feature_names=full_feature_names) for view in views]


def _history(
    view: FeatureView, references: Sequence[str], *, full_feature_names: bool
) -> TableHistory:
    source = batch_source(view)
    original = {new: old for old, new in source.field_mapping.items()}
    projection = view.projection
    prefix = f"{projection.name_alias or view.name}__" if full_feature_names else ""
    types = {field.name: from_feast_to_pyarrow_type(field.dtype) for field in view.features}
    asked = dict.fromkeys(_requested(references, projection.name_to_use()))
    return TableHistory(
        name=projection.name_to_use(),
        source=source_of(source),
        keys={
            projection.join_key_map.get(column.name, column.name): original.get(
                column.name, column.name
            )
            for column in view.entity_columns
        },
        event=original.get(source.timestamp_field, source.timestamp_field),
        created=original.get(source.created_timestamp_column, source.created_timestamp_column)
        or None,
        features={f"{prefix}{name}": original.get(name, name) for name in asked},
        types={f"{prefix}{name}": types[name] for name in asked},
        time_to_live=view.ttl,
    )


def _requested(references: Sequence[str], view: str) -> Iterator[str]:
    """The features of `view` among `references`, which read `view:feature` or `view@v2:feature`."""
    for reference in references:
        name, version, feature = _parse_feature_ref(reference)
        if view == (name if version is None else f"{name}@v{version}"):
            yield feature


def batch_source(view: FeatureView) -> DataSource:
    """The source of a view's rows."""
    if view.batch_source is None:
        raise ConfigurationError(f"feature view '{view.name}' has no batch source; give it one")
    return view.batch_source


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
