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

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from pydantic import Field, StrictStr

from millwright.errors import ConfigurationError, DataError
from millwright.stores import postgres_join, postgres_query, postgres_rows, postgres_writes
from millwright.stores.asof_join import check_cutoffs
from millwright.stores.postgres_job import AsofPostgresRetrievalJob
from millwright.stores.postgres_logs import AsofPostgresLoggingDestination, logs_of
from millwright.stores.postgres_request import (
    asked_of,
    histories_of,
    of_dummy,
    server_of,
    source_of,
    staging_of,
    table_of,
)
from millwright.stores.postgres_server import connect
from millwright.stores.request import batch_source, metadata_of, span_of, written_by


class AsofPostgresOfflineStoreConfig(PostgreSQLOfflineStoreConfig):  # type: ignore[misc]
    """The section `offline_store` of `feature_store.yaml`.

    `threads` is how many sessions a join of many cut-offs may have. `staging_location` is a folder
    of this machine or of S3 into which results are exported. `entity_select_mode` changes nothing:
    a query of cut-offs is run once, and no table is made of it that others could see.
    """

    type: StrictStr = "millwright.stores.postgres.AsofPostgresOfflineStore"
    password: StrictStr = ""
    sslmode: StrictStr | None = "prefer"
    threads: int = Field(default=2, gt=0)
    staging_location: StrictStr | None = None
    staging_location_endpoint_override: StrictStr | None = None


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
        **span: Any,
    ) -> RetrievalJob:
        """Join features to the rows of `entity_df`, as they were true at the times there.

        `entity_df` is a frame, or a query of such rows. Without it the rows are those that the
        views have from `start_date` to `end_date` (`request.span_of`), each pair of keys and event
        time once, in the order of time; views with fewer keys than others are joined to these rows.
        With `filter_by_created_timestamp`, as they were known at those times.
        """
        server = server_of(config)
        histories = histories_of(feature_views, feature_refs, full_feature_names=full_feature_names)
        asked = asked_of(server, entity_df, histories, lambda: span_of(feature_views, span))
        check_cutoffs(asked.columns, asked.timestamp, histories)

        def read() -> pa.Table:
            cutoffs = asked.read()
            with connect(server) as session:
                return postgres_join.join(
                    session,
                    cutoffs,
                    asked.timestamp,
                    histories,
                    as_known=filter_by_created_timestamp,
                    threads=config.offline_store.threads,
                )

        def stream(rows_at_once: int) -> Iterator[pa.RecordBatch]:
            cutoffs = asked.read()
            with connect(server) as session:
                yield from postgres_join.stream(
                    session,
                    cutoffs,
                    asked.timestamp,
                    histories,
                    rows_at_once,
                    as_known=filter_by_created_timestamp,
                )

        def query() -> str:
            with connect(server) as session:
                return postgres_query.query(
                    session,
                    asked.query(session),
                    asked.timestamp,
                    histories,
                    as_known=filter_by_created_timestamp,
                )

        return AsofPostgresRetrievalJob(
            server,
            read,
            config.repo_path,
            None,
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            describe=lambda: metadata_of(asked.read(), asked.timestamp, feature_refs),
            query=query,
            stream=stream,
            staging=staging_of(config),
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
        """The newest row of each key, for the online store.

        No names of features mean all columns. Rows without keys are of Feast's dummy entity.
        """
        server = server_of(config)
        times = [timestamp_field, *filter(None, [created_timestamp_column])]

        def read() -> pa.Table:
            with connect(server) as session:
                table = source_of(data_source).find(session)
                rows = postgres_rows.read_latest(
                    session,
                    table,
                    join_key_columns,
                    [*join_key_columns, *(feature_name_columns or table.columns), *times],
                    timestamp_field,
                    created_timestamp_column or None,
                    (start_date, end_date),
                )
            return rows if join_key_columns else of_dummy(rows)

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
        """All rows of a span of time, in the order of the table.

        No names of features mean all columns. Rows without keys are of Feast's dummy entity.
        """
        server = server_of(config)
        times = [timestamp_field, *filter(None, [created_timestamp_column])]

        def read() -> pa.Table:
            with connect(server) as session:
                table = source_of(data_source).find(session)
                rows = postgres_rows.read(
                    session,
                    table,
                    [*join_key_columns, *(feature_name_columns or table.columns), *times],
                    timestamp_field,
                    (start_date, end_date),
                )
            return rows if join_key_columns else of_dummy(rows)

        return AsofPostgresRetrievalJob(server, read)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to the table of a view, as `postgres_writes.append` does."""
        rows, written = written_by(feature_view, table)
        postgres_writes.append(
            server_of(config),
            table_of(batch_source(feature_view)),
            rows,
            written.keys,
            written.event,
            written.created,
            written.types,
        )
        if progress is not None:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Append logs of served features to a table.

        Raises:
            ConfigurationError: the logs are not to go into PostgreSQL.
        """
        destination = logging_config.destination
        if not isinstance(destination, AsofPostgresLoggingDestination):
            raise ConfigurationError(
                f"the logs are to go to a {type(destination).__name__}; this store writes to an "
                "AsofPostgresLoggingDestination"
            )
        types = {field.name: field.type for field in source.get_schema(registry)}
        event = source.get_log_timestamp_column()
        rows = logs_of(data)
        postgres_writes.append(server_of(config), destination.table, rows, None, event, None, types)

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
