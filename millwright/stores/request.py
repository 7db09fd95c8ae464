"""What Feast asks of an offline store, in the terms of a point-in-time join."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, FileSource
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.types import from_feast_to_pyarrow_type
from feast.utils import _parse_feature_ref, compute_non_entity_date_range

from millwright.errors import ConfigurationError, InputError
from millwright.stores.asof_join import History, to_microseconds
from millwright.stores.places import SCHEME, Place, S3Place

AnyHistory = TypeVar("AnyHistory", bound=History)


def cutoffs_of_frame(entity_df: pd.DataFrame) -> tuple[pa.Table, str]:
    """The entity frame as it is, but for times written as text, and the name of its times.

    Raises:
        InputError: it has values of several types in one column, or times that cannot be read.
    """
    timestamp = infer_event_timestamp_from_entity_df(entity_df.dtypes.to_dict())
    try:
        if entity_df[timestamp].dtype in ("object", "string"):
            times = pd.to_datetime(entity_df[timestamp], utc=True, format="ISO8601")
            entity_df = entity_df.assign(**{timestamp: times})
        return pa.Table.from_pandas(entity_df, preserve_index=False), timestamp
    except (ValueError, TypeError, pa.ArrowException) as err:
        raise InputError(f"the entity frame cannot be read: {err}") from err


def span_of(
    views: list[FeatureView], span: Mapping[str, datetime | None]
) -> tuple[datetime, datetime]:
    """The span of time that is asked for without entities, ends included, in UTC.

    It ends now, and begins the longest time to live before, or 30 days, unless `span` has
    `end_date` and `start_date`. This is what Feast documents.
    """
    first, last = compute_non_entity_date_range(
        views, start_date=span.get("start_date"), end_date=span.get("end_date")
    )
    return first.astimezone(UTC), last.astimezone(UTC)


def widest(histories: Sequence[AnyHistory]) -> tuple[list[str], list[AnyHistory]]:
    """The keys that tell the rows of a span of time apart, and the histories that have them all.

    Raises:
        InputError: none of them has all keys of the others.
    """
    chosen = max(histories, key=lambda history: len(history.keys))
    for history in histories:
        if not set(history.keys) <= set(chosen.keys):
            raise InputError(
                f"'{chosen.name}' and '{history.name}' are joined by different keys "
                f"({', '.join(chosen.keys)}; {', '.join(history.keys)}), so a span of time does "
                "not say which rows belong together; pass entity_df"
            )
    return sorted(chosen.keys), [each for each in histories if len(each.keys) == len(chosen.keys)]


def batch_source(view: FeatureView) -> DataSource:
    """The source of a view's rows."""
    if view.batch_source is None:
        raise ConfigurationError(f"feature view '{view.name}' has no batch source; give it one")
    return view.batch_source


def history_of(
    view: FeatureView, references: Sequence[str], *, full_feature_names: bool
) -> dict[str, Any]:
    """What `view` and its source say of a `History`, but for where its rows are.

    Columns are called as in the source.
    """
    source = batch_source(view)
    original = {new: old for old, new in source.field_mapping.items()}
    projection = view.projection
    prefix = f"{projection.name_alias or view.name}__" if full_feature_names else ""
    types = {field.name: from_feast_to_pyarrow_type(field.dtype) for field in view.features}
    asked = dict.fromkeys(_requested(references, projection.name_to_use()))
    return {
        "name": projection.name_to_use(),
        "keys": {
            projection.join_key_map.get(column.name, column.name): original.get(
                column.name, column.name
            )
            for column in view.entity_columns
        },
        "event": original.get(source.timestamp_field, source.timestamp_field),
        "created": original.get(source.created_timestamp_column, source.created_timestamp_column)
        or None,
        "features": {f"{prefix}{name}": original.get(name, name) for name in asked},
        "types": {f"{prefix}{name}": types[name] for name in asked},
        "time_to_live": view.ttl,
    }


def place_of(source: DataSource, repository: Path | None) -> Place:
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


def timestamp_of(cutoffs: pa.Table) -> str:
    """Which column of rows that are no frame has the times, as Feast infers it."""
    types = cutoffs.schema.empty_table().to_pandas().dtypes.to_dict()
    return str(infer_event_timestamp_from_entity_df(types))


@dataclass(frozen=True)
class Columns:
    """What is read of a source, with the source's names: keys, features, and its times."""

    source: DataSource
    keys: list[str]
    features: list[str]
    event: str
    created: str | None

    @property
    def all(self) -> list[str]:
        """In the order of what is read."""
        return [*self.keys, *self.features, self.event, *filter(None, [self.created])]


@dataclass(frozen=True)
class Written:
    """What rows that are written to a source must have, with the source's names of columns."""

    keys: list[str]
    event: str
    created: str | None
    types: dict[str, pa.DataType]


def written_by(view: FeatureView, rows: pa.Table) -> tuple[pa.Table, Written]:
    """Rows that Feast gives with the names of `view`, with those of its source."""
    source = batch_source(view)
    original = {new: old for old, new in source.field_mapping.items()}
    times = [source.timestamp_field, *filter(None, [source.created_timestamp_column])]
    event, *created = [original.get(name, name) for name in times]
    types = {
        original.get(field.name, field.name): from_feast_to_pyarrow_type(field.dtype)
        for field in [*view.entity_columns, *view.features]
    }
    return rows.rename_columns([original.get(name, name) for name in rows.column_names]), Written(
        keys=[original.get(field.name, field.name) for field in view.entity_columns],
        event=event,
        created=created[0] if created else None,
        types=types | dict.fromkeys([event, *created], pa.timestamp("us", tz="UTC")),
    )


def metadata_of(cutoffs: pa.Table, timestamp: str, references: Sequence[str]) -> RetrievalMetadata:
    """What was asked for, and the first and the last cut-off."""
    times = to_microseconds(cutoffs[timestamp])
    return RetrievalMetadata(
        features=list(references),
        keys=[name for name in cutoffs.column_names if name != timestamp],
        min_event_timestamp=pc.min(times).as_py(),
        max_event_timestamp=pc.max(times).as_py(),
    )


def _requested(references: Sequence[str], view: str) -> Iterator[str]:
    """The features of `view` among `references`, which read `view:feature` or `view@v2:feature`."""
    for reference in references:
        name, version, feature = _parse_feature_ref(reference)
        if view == (name if version is None else f"{name}@v{version}"):
            yield feature
