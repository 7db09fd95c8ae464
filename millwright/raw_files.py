"""Files of raw rows, good or refused: what DuckDB selects, written by pyarrow, hashed on the way.

DuckDB sorts and spills better than anything else here; pyarrow writes the same file in a third of
the time, and so a file need not be read again to be hashed.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from millwright.content import Content

# A group of rows is in memory some three times: as it is fetched, hashed and written.
_CELLS = 6_000_000
_MOST_ROWS = 122_880
_LEAST_ROWS = 2_048


def write_parquet(
    connection: Any, rows: str, path: Path, advance: Callable[[int], None] | None = None
) -> str:
    """Write the rows that the SQL `rows` selects to `path`, in its order; give their content hash.

    `advance` is told the rows of each group that is done.
    """
    found = connection.execute(rows)
    at_once = max(_LEAST_ROWS, min(_MOST_ROWS, _CELLS // len(found.description)))
    batches = found.to_arrow_reader(at_once)
    content = Content()
    with pq.ParquetWriter(path, batches.schema) as writer, ThreadPoolExecutor(2) as workers:

        def done(work: list[Any], count: int) -> None:
            for each in work:
                each.result()
            if advance and count:
                advance(count)

        under_way: list[Any] = []
        count = 0
        for batch in batches:  # the next is fetched while one is written and hashed
            done(under_way, count)
            under_way = [
                workers.submit(writer.write_batch, batch),
                workers.submit(content.add, batch),
            ]
            count = batch.num_rows
        done(under_way, count)
    return content.hash
