"""A Feast offline store over parquet whose historical join is exact and takes seconds.

In `feature_store.yaml`:

    offline_store:
      type: millwright.stores.asof.AsofDuckDBOfflineStore
      memory_limit: 2GB

A source is a `FileSource` of a parquet file or of a folder of them at any depth, on this machine or
in S3 (`s3://bucket/folder`). What is not reading, such as logging features, is as in Feast's own
DuckDB store.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
from feast import FeatureView, FileSource, OnDemandFeatureView, RepoConfig
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.saved_dataset import SavedDatasetStorage
from pydantic import Field, StrictStr

from millwright.errors import ConfigurationError, InputError
from millwright.stores import asof_join, parquet_files, places
from millwright.stores.asof_join import History
from millwright.stores.parquet_files import Table
from millwright.stores.places import SCHEME, Place, S3Place
from millwright.stores.request import batch_source, cutoffs_of_frame, history_of, metadata_of


class AsofDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    """The section `offline_store` of `feature_store.yaml`."""

    type: StrictStr = "millwright.stores.asof.AsofDuckDBOfflineStore"
    memory_limit: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?(MB|GB)$")
    threads: int | None = Field(default=None, gt=0)
    spill_folder: Path | None = None


class AsofRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """Rows that are read when they are asked for."""

    def __init__(
        self,
        read: Callable[[], pa.Table],
        repository: Path | None,
        metadata: RetrievalMetadata | None = None,
        on_demand_views: Iterable[OnDemandFeatureView] = (),
        *,
        full_feature_names: bool = False,
    ) -> None:
        self._read = read
        self._repository = repository
        self._metadata = metadata
        self._on_demand_views = list(on_demand_views)
        self._full_feature_names = full_feature_names

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The views that Feast computes on what was read."""
        return self._on_demand_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for, and the first and last cut-off."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return self._read()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the rows, on-demand features among them, to a parquet file or into a folder.

        Raises:
            SavedDatasetLocationAlreadyExists: it is there already and must not be overwritten.
        """
        place = _place(storage.to_data_source(), self._repository)
        if places.exists(place) and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(place))
        places.write(self.to_arrow(timeout=timeout), place)


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

        With `filter_by_created_timestamp`, as they were known at those times.
        """
        cutoffs, timestamp = _cutoffs(entity_df, span)
        histories = [
            History(
                files=_files(batch_source(view), config),
                **history_of(view, feature_refs, full_feature_names=full_feature_names),
            )
            for view in feature_views
        ]

        def read() -> pa.Table:
            with _connect(config) as connection:
                return asof_join.join(
                    connection,
                    cutoffs,
                    timestamp,
                    histories,
                    as_known=filter_by_created_timestamp,
                )

        asof_join.check_cutoffs(cutoffs, timestamp, histories)
        metadata = metadata_of(cutoffs, timestamp, feature_refs)
        return AsofRetrievalJob(
            read,
            config.repo_path,
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
        times = [timestamp_field, *filter(None, [created_timestamp_column])]

        def read() -> pa.Table:
            with _connect(config) as connection:
                return parquet_files.read_latest(
                    connection,
                    _files(data_source, config),
                    join_key_columns,
                    [*join_key_columns, *feature_name_columns, *times],
                    timestamp_field,
                    created_timestamp_column or None,
                    (start_date, end_date),
                )

        return AsofRetrievalJob(read, config.repo_path)

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

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """A source is good before its first rows are there."""
        _place(data_source, config.repo_path)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """The columns in the files, and not those that the names of folders would make."""
        schema = _files(data_source, config).schema()
        return [(field.name, str(field.type)) for field in schema]


def _connect(config: RepoConfig) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    store = config.offline_store
    return parquet_files.connect(store.memory_limit, store.threads, store.spill_folder)


def _cutoffs(entity_df: object, span: dict[str, Any]) -> tuple[pa.Table, str]:
    """The entity frame as it is, but for times written as text, and the name of its times."""
    if not isinstance(entity_df, pd.DataFrame):
        asked = "spans of time" if span else "SQL"
        raise InputError(f"this offline store takes no {asked}; pass entity_df as a DataFrame")
    return cutoffs_of_frame(entity_df)


def _files(source: DataSource, config: RepoConfig) -> Table:
    return places.find(_place(source, config.repo_path))


def _place(source: DataSource, repository: Path | None) -> Place:
    """Where the parquet of `source` is; a relative path begins at the feature repository."""
    if not isinstance(source, FileSource):
        raise ConfigurationError(
            f"source '{source.name}' is a {type(source).__name__}; this store reads FileSource"
        )
    if source.file_format is not None and not isinstance(source.file_format, ParquetFormat):
        raise ConfigurationError(f"source '{source.name}' is not parquet; write it as parquet")
    if source.path.startswith(SCHEME):
        return S3Place(source.path, source.s3_endpoint_override or None)
    if "://" in source.path:
        raise ConfigurationError(
            f"source '{source.name}' is at {source.path}; this store reads folders of this machine "
            "and s3://bucket/folder"
        )
    return Path(FileSource.get_uri_for_file_path(repository, source.path))
