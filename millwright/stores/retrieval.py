"""What a Feast offline store hands back: rows that are read when they are asked for.

As a whole by `to_arrow` and `to_df`, or in batches that are never in memory together by
`to_arrow_batches`, `persist` and `to_remote_storage`.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
from feast import OnDemandFeatureView
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.saved_dataset import SavedDatasetStorage, ValidationReference
from feast.types import from_feast_to_pyarrow_type

from millwright.errors import ConfigurationError, DataError
from millwright.stores import places
from millwright.stores.asof_features import batches
from millwright.stores.places import Place
from millwright.stores.request import place_of

ROWS_AT_ONCE = 2**17

Read = Callable[[], pa.Table]
# Told how many rows a batch may have. There is at least one batch, which may be without rows.
Stream = Callable[[int], Iterator[pa.RecordBatch]]


class AsofRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """Rows that `read` gives together, and `stream` in their order a batch at a time.

    On-demand features are computed by Feast on what was read. `staging` is where
    `to_remote_storage` writes.
    """

    def __init__(
        self,
        read: Read,
        repository: Path | None = None,
        metadata: RetrievalMetadata | None = None,
        on_demand_views: Iterable[OnDemandFeatureView] = (),
        *,
        stream: Stream | None = None,
        staging: Place | None = None,
        full_feature_names: bool = False,
    ) -> None:
        self._read = read
        self._repository = repository
        self._metadata = metadata
        self._on_demand_views = list(on_demand_views)
        self._stream = stream or self._batches_of_all
        self._staging = staging
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

    def to_df(
        self, validation_reference: ValidationReference | None = None, timeout: int | None = None
    ) -> pd.DataFrame:
        """The rows of `to_arrow`, numbered from 0: as Feast does it, without its copy of them."""
        rows = self.to_arrow(validation_reference=validation_reference, timeout=timeout)
        frame: pd.DataFrame = rows.to_pandas()
        frame.index = pd.RangeIndex(len(frame))
        return frame

    def to_arrow_batches(self, rows_at_once: int | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of `to_arrow` in their order, at most `rows_at_once` of them together.

        There is at least one batch, so that there is a schema. On-demand features have the types
        that their view declares, and are computed from the rows of one batch at a time.

        Raises:
            DataError: an on-demand view gives other values than it declares.
        """
        for batch in self._stream(rows_at_once or ROWS_AT_ONCE):
            yield self._transformed(batch) if self._on_demand_views else batch

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,  # noqa: ARG002
    ) -> None:
        """Write the rows of `to_arrow_batches` to a parquet file or into a folder.

        Raises:
            SavedDatasetLocationAlreadyExists: it is there already and must not be overwritten.
        """
        place = place_of(storage.to_data_source(), self._repository)
        if places.exists(place) and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(place))
        places.write(self.to_arrow_batches(), place)

    def supports_remote_storage_export(self) -> bool:
        """Whether the store has a `staging_location`."""
        return self._staging is not None

    def to_remote_storage(self) -> list[str]:
        """Write the rows as parquet files into a new folder of the `staging_location`.

        Returns their paths or URLs, in the order of the rows. All of them are there, or none.
        """
        if self._staging is None:
            raise ConfigurationError(
                "there is nowhere to write to; name a folder of this machine or of S3 as "
                "'staging_location' of the offline store"
            )
        return places.write_parts(self.to_arrow_batches(), self._staging, uuid.uuid4().hex)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return self._read()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def _batches_of_all(self, rows_at_once: int) -> Iterator[pa.RecordBatch]:
        yield from batches(self._read(), rows_at_once)

    def _transformed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """`batch` with on-demand features, which `to_arrow` knows how to choose and name."""
        part = AsofRetrievalJob(
            lambda: pa.Table.from_batches([batch]),
            self._repository,
            self._metadata,
            self._on_demand_views,
            full_feature_names=self._full_feature_names,
        ).to_arrow()
        typed = _typed(part, self._declared())
        return next(batches(typed, max(typed.num_rows, 1)))

    def _declared(self) -> dict[str, tuple[str, pa.DataType]]:
        """The view and the type of each on-demand feature: batches must not differ in types."""
        found = {}
        for view in self._on_demand_views:
            prefix = f"{view.projection.name_to_use()}__" if self._full_feature_names else ""
            for field in view.features:
                kind = from_feast_to_pyarrow_type(field.dtype)
                found[f"{prefix}{field.name}"] = (view.name, kind)
        return found


def _typed(rows: pa.Table, declared: dict[str, tuple[str, pa.DataType]]) -> pa.Table:
    for index, name in enumerate(rows.column_names):
        if name not in declared or rows.schema.field(index).type == declared[name][1]:
            continue
        view, kind = declared[name]
        try:
            rows = rows.set_column(index, name, rows.column(index).cast(kind))
        except pa.ArrowException as err:
            raise DataError(
                f"on-demand view '{view}' gives {rows.schema.field(index).type} for '{name}', "
                f"which is no {kind}; correct its schema: {err}"
            ) from err
    return rows
