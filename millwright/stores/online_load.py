"""Rows of an offline store brought into an online store of ours, and looked for afterwards."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.utils import _run_pyarrow_field_mapping, _validate_vector_field_lengths

from millwright.errors import MillwrightError
from millwright.stores.online_rows import OnlineRows, OrderedOnlineStore
from millwright.stores.parquet_files import EPOCH
from millwright.stores.progress import counting

ROWS_AT_ONCE = 5_000


@dataclass(frozen=True)
class Loaded:
    """How many rows are online now, and for how many there is a newer one, which stayed."""

    written: int
    kept: int


def load(
    config: RepoConfig, store: OrderedOnlineStore, view: FeatureView, rows: pa.Table
) -> Loaded:
    """Write `rows`, which have the columns of the view's source, and see that they are there.

    They are looked for when all of them have been written: a store that is full throws out the
    first ones for the last ones.

    Raises:
        DataError: there can be no such key, or a value is not what its feature is.
        MillwrightError: the store does not answer, or a row is not there.
    """
    written: list[OnlineRows] = []
    writing: deque[Future[None]] = deque()
    with (
        counting(f"{view.name} to the online store", rows.num_rows) as advance,
        # The store is kept busy while the next batch is encoded.
        ThreadPoolExecutor(store.writers) as threads,
    ):
        for batch in _batches(view, rows):
            some = OnlineRows.of_arrow(view, batch)
            if len(writing) == store.writers:
                writing.popleft().result()
            writing.append(threads.submit(store.write_rows, config, view, some))
            written.append(replace(some, values={}))
            advance(len(some))
        for last in writing:
            last.result()
        there = list(threads.map(lambda some: store.event_times(config, view, some.keys), written))
    newer = sum(_newer(view, some, times) for some, times in zip(written, there, strict=True))
    return Loaded(rows.num_rows - newer, newer)


def _batches(view: FeatureView, rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """`rows` with the names of the view, some at once."""
    named = _run_pyarrow_field_mapping(rows, view.batch_source.field_mapping or {})
    if DUMMY_ENTITY_ID in view.join_keys and DUMMY_ENTITY_ID not in named.column_names:
        nobody = pa.repeat(DUMMY_ENTITY_VAL, named.num_rows)
        named = named.append_column(DUMMY_ENTITY_ID, nobody)
    for batch in named.to_batches(max_chunksize=ROWS_AT_ONCE):
        _validate_vector_field_lengths(batch, view)
        yield batch


def _newer(view: FeatureView, rows: OnlineRows, there: list[int | None]) -> int:
    """Of how many rows a newer one is there."""
    count = 0
    for place, (event, found) in enumerate(zip(rows.events.tolist(), there, strict=True)):
        if found is None or found < event:
            raise _lost(view, rows.keys[place].as_py(), event)
        count += found > event
    return count


def _lost(view: FeatureView, key: bytes, event: int) -> MillwrightError:
    values = [getattr(v, v.WhichOneof("val")) for v in deserialize_entity_key(key).entity_values]
    return MillwrightError(
        f"view '{view.name}': the row of machine '{', '.join(map(str, values))}' of "
        f"{EPOCH + timedelta(microseconds=event):%Y-%m-%d %H:%M} was written to the online store "
        "and is not there; something else removes rows from it, or it has no room; run this again "
        "when that has ended"
    )
