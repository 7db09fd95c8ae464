"""What Feast asks of an offline store, in the terms of a point-in-time join."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView
from feast.data_source import DataSource
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.types import from_feast_to_pyarrow_type
from feast.utils import _parse_feature_ref

from millwright.errors import ConfigurationError, InputError
from millwright.stores.asof_join import to_microseconds


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
