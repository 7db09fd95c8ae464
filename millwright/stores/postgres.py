"""A Feast offline store over PostgreSQL whose historical join is exact and takes seconds.

In `feature_store.yaml`:

    offline_store:
      type: millwright.stores.postgres.AsofPostgresOfflineStore
      host: localhost            # or the folder of a Unix socket
      port: 5432
      database: millwright
      user: millwright
      password: ${PASSWORD}

A source is a `PostgreSQLSource` of a table or of a query. A table that does not exist yet has no
rows. What is not reading or writing, such as Feast's metrics, is as in Feast's own store.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.saved_dataset import SavedDatasetStorage
from feast.types import from_feast_to_pyarrow_type
from pydantic import Field, StrictStr

from millwright.errors import DataError
from millwright.stores import postgres_join, postgres_tables, postgres_writes
from millwright.stores.asof import AsofRetrievalJob
from millwright.stores.asof_join import check_cutoffs
from millwright.stores.postgres_request import (
    cutoffs_of,
    histories_of,
    server_of,
    source_of,
    table_of,
)
from millwright.stores.postgres_server import Server, connect
from millwright.stores.postgres_tables import INSTANT
from millwright.stores.request import batch_source, metadata_of


class AsofPostgresOfflineStoreConfig(PostgreSQLOfflineStoreConfig):  # type: ignore[misc]
    """The section `offline_store` of `feature_store.yaml`.

    `threads` is how many sessions a join of many cut-offs may have.
    """

    type: StrictStr = "millwright.stores.postgres.AsofPostgresOfflineStore"
    password: StrictStr = ""
    sslmode: StrictStr | None = "prefer"
    threads: int = Field(default=2, gt=0)


class AsofPostgresRetrievalJob(AsofRetrievalJob):
    """Rows that are read when they are asked for, and saved on the server."""

    def __init__(self, server: Server, read: Callable[[], pa.Table], *rest: Any, **more: Any):
        super().__init__(read, None, *rest, **more)
        self._server = server

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the rows, on-demand features among them, to a table of their own.

        Raises:
            SavedDatasetLocationAlreadyExists: it is there already and must not be overwritten.
        """
        name = table_of(storage.to_data_source())
        rows = self.to_arrow(timeout=timeout)
        if not postgres_writes.save(self._server, name, rows, overwrite=allow_overwrite):
            raise SavedDatasetLocationAlreadyExists(location=name)


class AsofPostgresOfflineStore(PostgreSQLOfflineStore):  # type: ignore[misc]
    """Feast's PostgreSQL store with reading and writing of its own."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **span: Any,  # noqa: ARG004
    ) -> RetrievalJob:
        """Join features to the rows of `entity_df`, as they were true at the times there.

        `entity_df` is a frame, or a query of such rows. With `filter_by_created_timestamp`, as
        they were known at those times.
        """
        server = server_of(config)
        cutoffs, timestamp = cutoffs_of(server, entity_df)
        histories = histories_of(feature_views, feature_refs, full_feature_names=full_feature_names)

        def read() -> pa.Table:
            with connect(server) as session:
                return postgres_join.join(
                    session,
                    cutoffs,
                    timestamp,
                    histories,
                    as_known=filter_by_created_timestamp,
                    threads=config.offline_store.threads,
                )

        check_cutoffs(cutoffs, timestamp, histories)
        metadata = metadata_of(cutoffs, timestamp, feature_refs)
        return AsofPostgresRetrievalJob(
            server,
            read,
            metadata,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            full_feature_names=full_feature_names,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row of each key, for the online store."""
        server = server_of(config)
        times = [timestamp_field, *filter(None, [created_timestamp_column])]

        def read() -> pa.Table:
            with connect(server) as session:
                return postgres_tables.read_latest(
                    session,
                    source_of(data_source).find(session),
                    join_key_columns,
                    [*join_key_columns, *feature_name_columns, *times],
                    timestamp_field,
                    created_timestamp_column or None,
                    (start_date, end_date),
                )

        return AsofPostgresRetrievalJob(server, read)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows of a span of time, in the order of the table."""
        server = server_of(config)
        times = [timestamp_field, *filter(None, [created_timestamp_column])]

        def read() -> pa.Table:
            with connect(server) as session:
                return postgres_tables.read(
                    session,
                    source_of(data_source).find(session),
                    [*join_key_columns, *feature_name_columns, *times],
                    timestamp_field,
                    (start_date, end_date),
                )

        return AsofPostgresRetrievalJob(server, read)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to the table of a view, as `postgres_writes.append` does."""
        source = batch_source(feature_view)
        original = {new: old for old, new in source.field_mapping.items()}
        times = [source.timestamp_field, *filter(None, [source.created_timestamp_column])]
        types = {
            original.get(field.name, field.name): from_feast_to_pyarrow_type(field.dtype)
            for field in [*feature_view.entity_columns, *feature_view.features]
        }
        event, *created = [original.get(name, name) for name in times]
        postgres_writes.append(
            server_of(config),
            table_of(source),
            table.rename_columns([original.get(name, name) for name in table.column_names]),
            [original.get(column.name, column.name) for column in feature_view.entity_columns],
            event,
            created[0] if created else None,
            types | dict.fromkeys([event, *created], INSTANT),
        )
        if progress is not None:
            progress(table.num_rows)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:  # noqa: ARG002
        """A source is good before its first rows are there."""
        source_of(data_source)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """The columns of the table, with PostgreSQL's types."""
        with connect(server_of(config)) as session:
            found = source_of(data_source).find(session)
        if not found.exists:
            raise DataError(f"there is no {found.name} yet; write its first rows, or create it")
        return list(found.columns.items())
