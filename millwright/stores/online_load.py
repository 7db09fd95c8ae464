"""Rows of an offline store brought into an online store of ours, and looked for afterwards."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from operator import attrgetter

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.utils import _run_pyarrow_field_mapping, _validate_vector_field_lengths

from millwright.errors import DataError, MillwrightError
from millwright.stores.online_rows import OnlineRows, OrderedOnlineStore
from millwright.stores.parquet_files import EPOCH
from millwright.stores.progress import counting

ROWS_AT_ONCE = 5_000
VIEWS_AT_ONCE = 4


@dataclass(frozen=True)
class Loaded:
    """What became of a view's rows: online with the same time now, or with a newer one."""

    view: FeatureView
    expected: int
    written: int
    kept: int


@dataclass
class _Loading:
    """A view whose rows are being written, and what of them was written, without its values."""

    view: FeatureView
    expected: int
    batches: Iterator[pa.RecordBatch]
    advance: Callable[[int], None]
    failed: list[MillwrightError]
    written: list[OnlineRows] = field(default_factory=list)
    done: int = 0

    @property
    def part(self) -> float:
        """How far it is, from 0 to 1."""
        return self.done / self.expected if self.expected else 1.0

    def next(self) -> OnlineRows | None:
        """Some rows to write; None when there are no more, or what comes next is wrong."""
        batch = next(self.batches, None)
        if batch is None:
            return None
        try:
            some = OnlineRows.of_arrow(self.view, batch)
        except DataError as err:
            self.failed.append(err)
            return None
        self.written.append(replace(some, values={}))
        self.done += len(some)
        self.advance(len(some))
        return some


def load(
    config: RepoConfig,
    store: OrderedOnlineStore,
    tables: Iterable[tuple[FeatureView, pa.Table]],
    arrived: Callable[[Loaded], None] = lambda _: None,
) -> None:
    """Write the rows of some views, with the columns of their sources, and see that they are there.

    Rows are looked for when all have been written: a store that is full throws out the first ones
    for the last. `arrived` is told of each view whose rows are all there. A view that cannot be
    read or written keeps no other from arriving that was read before it; its error comes in the
    end. What is being read when another error comes is read to its end first.

    `tables` are read in a thread of their own and closed there. As many as `VIEWS_AT_ONCE` are in
    memory, and one that is read; of what was written, keys and times, and in the end those found.

    Raises:
        DataError: there can be no such key, or a value is not what its feature is.
        MillwrightError: the store does not answer, or a row is not there.
    """
    loading: list[_Loading] = []
    failed: list[MillwrightError] = []
    writing: deque[Future[None]] = deque()
    with ExitStack() as stack:

        def begin(view: FeatureView, rows: pa.Table) -> _Loading:
            bar = counting(f"{view.name} to the online store", rows.num_rows)
            advance = stack.enter_context(bar)
            loading.append(_Loading(view, rows.num_rows, _batches(view, rows), advance, failed))
            return loading[-1]

        # The store is kept busy while the next batch is encoded.
        threads = ThreadPoolExecutor(store.writers)
        stack.callback(threads.shutdown, cancel_futures=True)  # what has not begun, after an error
        for each, some in stack.enter_context(closing(_in_turn(tables, begin, failed))):
            if len(writing) == store.writers:
                writing.popleft().result()
            writing.append(threads.submit(store.write_rows, config, each.view, some))
        for last in writing:
            last.result()

        def looked_for(each: _Loading) -> Iterable[list[int | None]]:
            look = partial(store.event_times, config, each.view)
            return threads.map(look, map(attrgetter("keys"), each.written))

        # While one view is told of, the next are looked for.
        found = [(each, looked_for(each)) for each in loading if each.done == each.expected]
        for each, times in found:
            arrived(_compared(each, times))
    if failed:
        raise failed[0]


def _in_turn(
    tables: Iterable[tuple[FeatureView, pa.Table]],
    begin: Callable[[FeatureView, pa.Table], _Loading],
    failed: list[MillwrightError],
) -> Generator[tuple[_Loading, OnlineRows]]:
    """Batches of the views that have been read: the next of the one that is furthest behind.

    Where views have the same machines, in the order of their keys, those of a machine are written
    one soon after the other, while its place in the online store is at hand.
    """
    left, under_way = iter(tables), list[_Loading]()
    more, reading = True, None

    def read() -> tuple[FeatureView, pa.Table] | None:
        try:
            return next(left, None)
        except MillwrightError as err:
            failed.append(err)
            return None

    with ThreadPoolExecutor(1) as reader:
        try:
            while more or under_way:
                if more and not reading and len(under_way) < VIEWS_AT_ONCE:
                    reading = reader.submit(read)
                if reading and (reading.done() or not under_way):
                    table, reading = reading.result(), None
                    more = table is not None
                    if table:
                        under_way.append(begin(*table))
                    continue
                behind = min(under_way, key=attrgetter("part"))
                some = behind.next()
                if some is None:
                    under_way.remove(behind)
                else:
                    yield behind, some
        finally:
            reader.submit(getattr(left, "close", lambda: None))


def _batches(view: FeatureView, rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """`rows` with the names of the view, some at once."""
    named = _run_pyarrow_field_mapping(rows, view.batch_source.field_mapping or {})
    if DUMMY_ENTITY_ID in view.join_keys and DUMMY_ENTITY_ID not in named.column_names:
        nobody = pa.repeat(DUMMY_ENTITY_VAL, named.num_rows)
        named = named.append_column(DUMMY_ENTITY_ID, nobody)
    for batch in named.to_batches(max_chunksize=ROWS_AT_ONCE):
        _validate_vector_field_lengths(batch, view)
        yield batch


def _compared(loading: _Loading, found: Iterable[list[int | None]]) -> Loaded:
    """What is online of all that was written of a view; `found` are its times there, by batch."""
    written = kept = 0
    for rows, times in zip(loading.written, found, strict=True):
        for place, (event, there) in enumerate(zip(rows.events.tolist(), times, strict=True)):
            if there is None or there < event:
                raise _lost(loading.view, rows.keys[place].as_py(), event)
            written += there == event
            kept += there > event
    return Loaded(loading.view, loading.expected, written, kept)


def _lost(view: FeatureView, key: bytes, event: int) -> MillwrightError:
    values = [getattr(v, v.WhichOneof("val")) for v in deserialize_entity_key(key).entity_values]
    return MillwrightError(
        f"view '{view.name}': the row of machine '{', '.join(map(str, values))}' of "
        f"{EPOCH + timedelta(microseconds=event):%Y-%m-%d %H:%M} was written to the online store "
        "and is not there; something else removes rows from it, or it has no room; run this again "
        "when that has ended"
    )
