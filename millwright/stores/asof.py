"""A Feast offline store over parquet whose historical join is exact and takes seconds.

In `feature_store.yaml`:

    offline_store:
      type: millwright.stores.asof.AsofDuckDBOfflineStore
      memory_limit: 2GB

A source is a `FileSource` of a parquet file or of a folder of them at any depth, on this machine or
in S3 (`s3://bucket/folder`). What is neither reading nor writing, such as Feast's metrics, is as in
Feast's own DuckDB store.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
from feast import FeatureView, FileSource, OnDemandFeatureView, RepoConfig
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from pydantic import Field, StrictStr

from millwright.errors import InputError
from millwright.sql import quoted
from millwright.stores import asof_cutoffs, asof_join, parquet_files, parquet_writes, places
from millwright.stores.asof_join import History
from millwright.stores.parquet_files import Table
from millwright.stores.places import Place
from millwright.stores.request import (
    Columns,
    batch_source,
    cutoffs_of_frame,
    history_of,
    metadata_of,
    place_of,
    span_of,
    timestamp_of,
    widest,
    written_by,
)
from millwright.stores.retrieval import AsofRetrievalJob


class AsofDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    """The section `offline_store` of `feature_store.yaml`."""

    type: StrictStr = "millwright.stores.asof.AsofDuckDBOfflineStore"
    memory_limit: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?(MB|GB)$")
    threads: int | None = Field(default=None, gt=0)
    spill_folder: Path | None = None


class AsofDuckDBOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """Feast's DuckDB store with reading of its own."""

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

        With `filter_by_created_timestamp`, as they were known at those times. `entity_df` is a
        frame, or a SELECT for DuckDB, which may name files ('folder/*.parquet') and, in double
        quotes, the sources of this project. Without it the rows are those that the views have
        from `start_date` to `end_date` (`request.span_of`), each pair of keys and event time once,
        in the order of time; views with fewer keys than others are joined to these rows.
        """
        histories = [
            History(
                files=_files(batch_source(view), config),
                **history_of(view, feature_refs, full_feature_names=full_feature_names),
            )
            for view in feature_views
        ]
        if isinstance(entity_df, pd.DataFrame):
            cutoffs, timestamp = cutoffs_of_frame(entity_df)
        elif isinstance(entity_df, str):
            with _connect(config) as connection:
                tables = _tables(config, registry, project, entity_df)
                cutoffs = asof_cutoffs.of_query(connection, entity_df, tables)
            timestamp = timestamp_of(cutoffs)
        elif entity_df is None:
            keys, complete = widest(histories)
            with _connect(config) as connection:
                cutoffs = asof_cutoffs.of_span(
                    connection, complete, keys, span_of(feature_views, span)
                )
            timestamp = asof_cutoffs.TIMESTAMP
        else:
            kind = type(entity_df).__name__
            raise InputError(f"entity_df is a {kind}; pass a DataFrame, a query, or none")
        asof_join.check_cutoffs(cutoffs, timestamp, histories)

        def read() -> pa.Table:
            with _connect(config) as connection:
                return asof_join.join(
                    connection, cutoffs, timestamp, histories, as_known=filter_by_created_timestamp
                )

        def stream(rows_at_once: int) -> Iterator[pa.RecordBatch]:
            with _connect(config) as connection:
                yield from asof_join.stream(
                    connection,
                    cutoffs,
                    timestamp,
                    histories,
                    rows_at_once,
                    as_known=filter_by_created_timestamp,
                )

        return AsofRetrievalJob(
            read,
            config.repo_path,
            metadata_of(cutoffs, timestamp, feature_refs),
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            stream=stream,
            staging=_staging(config),
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
        columns = Columns(
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column or None,
        )

        def read() -> pa.Table:
            (rows,) = AsofDuckDBOfflineStore.pull_latest_of_each(
                config, [columns], start_date, end_date
            )
            return rows

        return AsofRetrievalJob(read, config.repo_path)

    @staticmethod
    def pull_latest_of_each(
        config: RepoConfig, sources: Iterable[Columns], start: datetime, end: datetime
    ) -> Iterator[pa.Table]:
        """The same of some sources one after the other, over one connection."""
        with _connect(config) as connection:
            for columns in sources:
                yield parquet_files.read_latest(
                    connection,
                    _files(columns.source, config),
                    columns.keys,
                    columns.all,
                    columns.event,
                    columns.created,
                    (start, end),
                )

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
        """All rows of a span of time, in the order of the files."""
        times = [timestamp_field, *filter(None, [created_timestamp_column])]

        def read() -> pa.Table:
            with _connect(config) as connection:
                return parquet_files.read(
                    connection,
                    _files(data_source, config),
                    [*join_key_columns, *feature_name_columns, *times],
                    timestamp_field,
                    (start_date, end_date),
                )

        return AsofRetrievalJob(read, config.repo_path)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows to the source of a view, as `parquet_writes.append` does."""
        source = batch_source(feature_view)
        rows, written = written_by(feature_view, table)
        with _connect(config) as connection:
            parquet_writes.append(connection, place_of(source, config.repo_path), rows, written)
        if progress is not None:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,  # noqa: ARG004
        logging_config: LoggingConfig,
        registry: BaseRegistry,  # noqa: ARG004
    ) -> None:
        """Append rows to the folder of a `FileLoggingDestination`, as `parquet_writes.log` does."""
        destination = logging_config.destination
        place = place_of(destination.to_data_source(), config.repo_path)
        parquet_writes.log(place, data, destination.partition_by or [])

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """A source is good before its first rows are there."""
        place_of(data_source, config.repo_path)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """The columns in the files, and not those that the names of folders would make."""
        schema = _files(data_source, config).schema()
        return [(field.name, str(field.type)) for field in schema]


def _connect(config: RepoConfig) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    store = config.offline_store
    return parquet_files.connect(store.memory_limit, store.threads, store.spill_folder)


def _tables(
    config: RepoConfig, registry: BaseRegistry, project: str, query: str
) -> dict[str, Table]:
    """The sources of the project that `query` may mean, by their names."""
    return {
        source.name: _files(source, config)
        for source in registry.list_data_sources(project)
        if isinstance(source, FileSource) and quoted(source.name) in query
    }


def _staging(config: RepoConfig) -> Place | None:
    """Where results are exported to, if that is configured."""
    store = config.offline_store
    if not store.staging_location:
        return None
    endpoint = store.staging_location_endpoint_override or None
    return place_of(
        FileSource(path=store.staging_location, s3_endpoint_override=endpoint), config.repo_path
    )


def _files(source: DataSource, config: RepoConfig) -> Table:
    return places.find(place_of(source, config.repo_path))
