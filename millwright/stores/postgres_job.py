"""What the PostgreSQL store hands back: rows read when they are asked for, saved on the server."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.saved_dataset import SavedDatasetStorage

from millwright.stores import postgres_writes
from millwright.stores.postgres_request import table_of
from millwright.stores.postgres_server import Server
from millwright.stores.retrieval import AsofRetrievalJob


class AsofPostgresRetrievalJob(AsofRetrievalJob):
    """Rows that are read when they are asked for, and saved on the server.

    `describe` gives the job's metadata, and `query` its SQL.
    """

    def __init__(
        self,
        server: Server,
        read: Callable[[], pa.Table],
        *rest: Any,
        describe: Callable[[], RetrievalMetadata] | None = None,
        query: Callable[[], str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(read, *rest, **more)
        self._server = server
        self._describe = describe
        self._query = query

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for, and the first and last cut-off, for which a query of them is run."""
        return self._describe() if self._describe else None

    def to_sql(self) -> str:
        """One query that gives the rows, but for on-demand features, to a session in any zone.

        It has the cut-offs of a frame in itself.
        """
        if self._query is None:
            return str(super().to_sql())
        return self._query()

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,  # noqa: ARG002
    ) -> None:
        """Write the rows, on-demand features among them, to a table of their own.

        Raises:
            SavedDatasetLocationAlreadyExists: it is there already and must not be overwritten.
        """
        name = table_of(storage.to_data_source())
        batches = self.to_arrow_batches()
        if not postgres_writes.save(self._server, name, batches, overwrite=allow_overwrite):
            raise SavedDatasetLocationAlreadyExists(location=name)
