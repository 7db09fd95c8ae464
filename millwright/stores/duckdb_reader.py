"""DuckDB's answers a batch at a time, how much memory they may take, and where they spill."""

from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

# What one of the parts of a join takes at most, of `memory_limit` or in bytes: the keys and times
# that are searched at once, or the features that are kept in memory when a result is streamed.
SHARE, MOST = 1 / 4, 2**30
ROWS_READ = 122_880  # at once; a row group of DuckDB's


def reader(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    advance: Callable[[int], None] = lambda _: None,
) -> pa.RecordBatchReader:
    """The rows of `query`; `advance` is told how many more were read.

    Another query on `connection` would end the reading. What goes wrong on the way is a
    `duckdb.Error`, as it is at the start: through Arrow it comes as an `OSError`.
    """
    found = connection.execute(query).to_arrow_reader(ROWS_READ)

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for batch in found:
                yield batch
                advance(batch.num_rows)
        except (OSError, pa.ArrowException) as err:
            full = "Out of Memory Error" in str(err)
            raise (duckdb.OutOfMemoryException if full else duckdb.Error)(str(err)) from err

    return pa.RecordBatchReader.from_batches(found.schema, batches())


def share(connection: duckdb.DuckDBPyConnection) -> int:
    """How many bytes one of the parts of a join may take."""
    query = "SELECT parse_formatted_bytes(current_setting('memory_limit'))"
    return min(int(connection.execute(query).fetchall()[0][0] * SHARE), MOST)


def spill_folder(connection: duckdb.DuckDBPyConnection) -> Path:
    """Where `connection` puts what does not fit its memory."""
    return Path(connection.execute("SELECT current_setting('temp_directory')").fetchall()[0][0])
