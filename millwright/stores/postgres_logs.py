"""Logs of served features in a table of PostgreSQL, for Feast's feature logging."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.feature_logging import LOG_TIMESTAMP_FIELD, LoggingDestination
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.protos.feast.core.FeatureService_pb2 import LoggingConfig

KIND = "millwright_postgres"


class AsofPostgresLoggingDestination(LoggingDestination):  # type: ignore[misc]
    """The table called `table`, which is created with the first logs."""

    _proto_kind = KIND

    def __init__(self, table: str) -> None:
        self.table = table

    @classmethod
    def from_proto(cls, config_proto: LoggingConfig) -> "AsofPostgresLoggingDestination":
        """As the registry keeps it."""
        return cls(config_proto.custom_destination.config["table"])

    def to_proto(self) -> LoggingConfig:
        """For the registry to keep."""
        destination = LoggingConfig.CustomDestination(kind=KIND, config={"table": self.table})
        return LoggingConfig(custom_destination=destination)

    def to_data_source(self) -> DataSource:
        """Where Feast reads the logs again."""
        return PostgreSQLSource(table=self.table, timestamp_field=LOG_TIMESTAMP_FIELD)


def logs_of(data: pa.Table | Path) -> pa.Table:
    """The logs that Feast hands over: rows, or a file or a folder of parquet that has them."""
    return pq.read_table(data) if isinstance(data, Path) else data
