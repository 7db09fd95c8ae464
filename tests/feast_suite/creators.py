"""What Feast's tests call data source creators: each puts frames where one of the stores reads.

A creator keeps its rows in fixtures of the test that it is made for: `tmp_path`, `postgres` (the
URL of a server) and `s3` (the URL of an endpoint).
"""

import tempfile
import uuid
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import psycopg
import pytest
import sqlalchemy
from feast import FileSource
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
    SavedDatasetPostgreSQLStorage,
)
from feast.infra.offline_stores.dask import DaskOfflineStoreConfig
from feast.infra.offline_stores.duckdb import DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.infra.utils.postgres.connection_utils import df_to_postgres_table
from psycopg.types.json import JsonbDumper

from millwright.stores.asof import AsofDuckDBOfflineStoreConfig
from millwright.stores.postgres import AsofPostgresOfflineStoreConfig
from millwright.stores.postgres_logs import AsofPostgresLoggingDestination

try:
    from tests.universal.feature_repos.universal.data_source_creator import DataSourceCreator
except ModuleNotFoundError:  # creators work without Feast's checkout, too
    DataSourceCreator = object

BUCKET = "feast"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class FileCreator(DataSourceCreator):
    """A parquet file for each frame, written as pandas does it."""

    store: Any = AsofDuckDBOfflineStoreConfig

    def __init__(self, project_name: str, fixture_request: pytest.FixtureRequest) -> None:
        self.project_name = project_name
        self.folder: Path = fixture_request.getfixturevalue("tmp_path") / project_name
        self.folder.mkdir()

    def create_data_source(
        self,
        df: pd.DataFrame,
        destination_name: str,
        created_timestamp_column: str | None = "created_ts",
        field_mapping: dict[str, str] | None = None,
        timestamp_field: str | None = "ts",
    ) -> FileSource:
        source = FileSource(
            name=destination_name,
            path=self.write(df, destination_name),
            file_format=ParquetFormat(),
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            field_mapping=field_mapping or {"ts_1": "ts"},
        )
        source.table = f'"{destination_name}"'  # where Feast's tests look for something to query
        return source

    def write(self, df: pd.DataFrame, name: str) -> str:
        path = self.folder / f"{name}.parquet"
        df.to_parquet(path)
        return str(path)

    def create_offline_store_config(self) -> Any:
        return self.store()

    def create_saved_dataset_destination(self) -> SavedDatasetFileStorage:
        return SavedDatasetFileStorage(path=self.place(), file_format=ParquetFormat())

    def create_logged_features_destination(self) -> FileLoggingDestination:
        return FileLoggingDestination(path=self.place())

    def place(self) -> str:
        return tempfile.mkdtemp(dir=self.folder)  # it is there, as Feast's creator has it

    def teardown(self) -> None:
        """The folder is pytest's to remove."""


class AsofFileDataSourceCreator(FileCreator):
    """Ours over single files."""


class AsofFolderDataSourceCreator(FileCreator):
    """Ours over folders of files, the rows dealt out to two of them."""

    def write(self, df: pd.DataFrame, name: str) -> str:
        for part in range(2):
            path = self.folder / name / f"part={part}" / "rows.parquet"
            path.parent.mkdir(parents=True)
            df.iloc[part::2].to_parquet(path)
        return str(self.folder / name)


class AsofS3DataSourceCreator(FileCreator):
    """Ours over files in S3."""

    mock_environ = KEYS  # which Feast's fixture sets

    def __init__(self, project_name: str, fixture_request: pytest.FixtureRequest) -> None:
        super().__init__(project_name, fixture_request)
        self.endpoint: str = fixture_request.getfixturevalue("s3")

    def write(self, df: pd.DataFrame, name: str) -> str:
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name=KEYS["AWS_REGION"],
        )
        client.create_bucket(Bucket=BUCKET)
        client.upload_file(super().write(df, name), BUCKET, f"{self.project_name}/{name}.parquet")
        return f"s3://{BUCKET}/{self.project_name}/{name}.parquet"

    def create_data_source(self, *frame: Any, **columns: Any) -> FileSource:
        source = super().create_data_source(*frame, **columns)
        source.file_options.s3_endpoint_override = self.endpoint
        return source

    def create_saved_dataset_destination(self) -> SavedDatasetFileStorage:
        return SavedDatasetFileStorage(
            path=self.place(), file_format=ParquetFormat(), s3_endpoint_override=self.endpoint
        )

    def create_logged_features_destination(self) -> FileLoggingDestination:
        return FileLoggingDestination(path=self.place(), s3_endpoint_override=self.endpoint)

    def place(self) -> str:
        return f"s3://{BUCKET}/{self.project_name}/{uuid.uuid4().hex}"


class AsofPostgresDataSourceCreator(DataSourceCreator):
    """Ours over tables of PostgreSQL, in a schema for each test."""

    store: Any = AsofPostgresOfflineStoreConfig

    def __init__(self, project_name: str, fixture_request: pytest.FixtureRequest) -> None:
        self.project_name = project_name
        url = sqlalchemy.make_url(fixture_request.getfixturevalue("postgres"))
        self.config = self.store(
            host=url.query.get("host", url.host),
            port=url.port or 5432,
            database=url.database,
            user=url.username,
            password=url.password or "",
            sslmode="disable",
            db_schema=project_name,
        )
        engine = sqlalchemy.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.schema.CreateSchema(project_name))
        engine.dispose()
        psycopg.adapters.register_dumper(dict, JsonbDumper)  # which Feast's function cannot write

    def create_data_source(
        self,
        df: pd.DataFrame,
        destination_name: str,
        created_timestamp_column: str | None = "created_ts",
        field_mapping: dict[str, str] | None = None,
        timestamp_field: str | None = "ts",
    ) -> PostgreSQLSource:
        df_to_postgres_table(self.config, df, destination_name)
        source = PostgreSQLSource(
            name=destination_name,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            field_mapping=field_mapping or {"ts_1": "ts"},
            **self.rows(destination_name),
        )
        source.table = destination_name  # where Feast's tests look for something to query
        return source

    def rows(self, name: str) -> dict[str, str]:
        return {"table": name}

    def create_offline_store_config(self) -> Any:
        return self.config

    def create_saved_dataset_destination(self) -> SavedDatasetPostgreSQLStorage:
        return SavedDatasetPostgreSQLStorage(table_ref=f"saved_{uuid.uuid4().hex}")

    def create_logged_features_destination(self) -> AsofPostgresLoggingDestination:
        return AsofPostgresLoggingDestination(table=f"logged_{uuid.uuid4().hex}")

    def teardown(self) -> None:
        """The server goes with all its schemas."""


class AsofPostgresQueryDataSourceCreator(AsofPostgresDataSourceCreator):
    """Ours over queries."""

    def rows(self, name: str) -> dict[str, str]:
        return {"query": f"SELECT * FROM {name}"}


class FeastDuckDBDataSourceCreator(FileCreator):
    """Feast's DuckDB store, for comparison."""

    store = DuckDBOfflineStoreConfig


class FeastDaskDataSourceCreator(FileCreator):
    """Feast's file store, for comparison."""

    store = DaskOfflineStoreConfig


class FeastPostgresDataSourceCreator(AsofPostgresQueryDataSourceCreator):
    """Feast's PostgreSQL store over queries, as in Feast's own configuration of these tests."""

    @staticmethod
    def store(**server: Any) -> PostgreSQLOfflineStoreConfig:
        return PostgreSQLOfflineStoreConfig(type="postgres", **server)
