"""The raw store in PostgreSQL: each batch copied once, for the features to be computed from.

The files of the raw store stay what counts. A batch is there from the moment its name stands in
`batches`, which commits together with its rows; so a load that is killed is done again, and none is
done twice. Tables of another shape, or of batches that the raw store does not know, are dropped and
loaded anew.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from millwright.fleet import Fleet
from millwright.raw_store import Batch, Piece, RawStore
from millwright.sql import literal, quoted
from millwright.validation import SQL_TYPES, schema

Progress = Callable[[str, int, int], None]

_COLUMNS = {
    SQL_TYPES["name"]: ("text", pa.string(), "string"),
    SQL_TYPES["time"]: ("timestamptz", pa.timestamp("us", tz="UTC"), "timestamp('UTC', 6)"),
    SQL_TYPES["number"]: ("double precision", pa.float64(), "float64"),
}
_BATCH = "batch"


class RawTables:
    """The raw tables of one fleet, in a schema of their own."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.schema = f"raw_{fleet.name}"

    def load(self, connection: Any, raw: RawStore, progress: Progress | None) -> None:
        """Copy the batches of the raw store that are not there yet, through an ADBC connection."""
        batches = raw.batches()
        with connection.cursor() as cursor:
            loaded = self._loaded(cursor)
            if loaded is None or not self._whole(cursor, loaded, batches):
                loaded = self._create(cursor)
            connection.commit()
            missing = [batch for batch in batches if batch.batch not in loaded]
            for done, batch in enumerate(missing):
                if progress:
                    progress("raw rows to PostgreSQL", done, len(missing))
                with raw.reading():
                    self._copy(cursor, batch, raw)
                connection.commit()
            if missing:
                for table in self.fleet.table_names:
                    cursor.execute(f"ANALYZE {self.name(table)}")
                connection.commit()
        if progress and missing:
            progress("raw rows to PostgreSQL", len(missing), len(missing))

    def name(self, table: str) -> str:
        """What a raw table is called in SQL."""
        return f"{quoted(self.schema)}.{quoted(table)}"

    def expression(self, table: str) -> ibis.Table:
        """A raw table as features are written over it: called `table`, of its canonical columns."""
        types = {name: _COLUMNS[kind][2] for name, kind in schema(self.fleet, table).items()}
        return ibis.table(types, name=table)

    def between(self, table: str, earliest: datetime | None, end: datetime | None) -> str:
        """SQL for the rows of a table from behind `earliest` until before `end`."""
        limits = []
        if end is not None:
            limits.append(f"timestamp < {literal(end.isoformat())}::timestamptz")
        if earliest is not None:
            limits.append(f"timestamp > {literal(earliest.isoformat())}::timestamptz")
        where = f" WHERE {' AND '.join(limits)}" if limits else ""
        columns = ", ".join(map(quoted, schema(self.fleet, table)))
        return f"SELECT {columns} FROM {self.name(table)}{where}"

    def _loaded(self, cursor: Any) -> set[str] | None:
        """The batches that are there; None where the tables are not of today's shape."""
        cursor.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns "
            f"WHERE table_schema = {literal(self.schema)}"
        )
        found: dict[str, dict[str, str]] = {}
        for table, column, kind in cursor.fetchall():
            found.setdefault(table, {})[column] = kind
        names = {"timestamptz": "timestamp with time zone"}
        for table in self.fleet.table_names:
            wanted = {**self._columns(table), _BATCH: "text"}
            if found.get(table) != {name: names.get(k, k) for name, k in wanted.items()}:
                return None
        if "batches" not in found:
            return None
        cursor.execute(f"SELECT batch FROM {self.name('batches')}")
        return {name for (name,) in cursor.fetchall()}

    def _whole(self, cursor: Any, loaded: set[str], batches: Sequence[Batch]) -> bool:
        """Whether the rows that are there are those of known batches, and all of them."""
        if not loaded <= {batch.batch for batch in batches}:
            return False
        wanted: dict[tuple[str, str], int] = {}
        for batch in batches:
            for piece in batch.files if batch.batch in loaded else ():
                place = (piece.table, batch.batch)
                wanted[place] = wanted.get(place, 0) + piece.rows
        found: dict[tuple[str, str], int] = {}
        for table in self.fleet.table_names:
            cursor.execute(f"SELECT {_BATCH}, count(*) FROM {self.name(table)} GROUP BY {_BATCH}")
            found |= {(table, batch): rows for batch, rows in cursor.fetchall()}
        return found == wanted

    def _create(self, cursor: Any) -> set[str]:
        """Make all tables anew, empty."""
        cursor.execute(f"DROP SCHEMA IF EXISTS {quoted(self.schema)} CASCADE")
        cursor.execute(f"CREATE SCHEMA {quoted(self.schema)}")
        cursor.execute(f"CREATE TABLE {self.name('batches')} ({_BATCH} text PRIMARY KEY)")
        for table in self.fleet.table_names:
            columns = [f"{quoted(name)} {kind}" for name, kind in self._columns(table).items()]
            cursor.execute(
                f"CREATE TABLE {self.name(table)} ({', '.join([*columns, f'{_BATCH} text'])})"
            )
            if "timestamp" in self._columns(table):
                cursor.execute(f"CREATE INDEX ON {self.name(table)} (timestamp)")
        return set()

    def _copy(self, cursor: Any, batch: Batch, raw: RawStore) -> None:
        for piece in batch.files:
            cursor.adbc_ingest(
                piece.table,
                self._stream(batch, piece, raw),
                mode="append",
                db_schema_name=self.schema,
            )
        cursor.execute(f"INSERT INTO {self.name('batches')} VALUES ({literal(batch.batch)})")

    def _stream(self, batch: Batch, piece: Piece, raw: RawStore) -> pa.RecordBatchReader:
        """The rows of one file, with columns that it has from a time before another as null."""
        types = schema(self.fleet, piece.table)
        form = pa.schema([pa.field(name, _COLUMNS[kind][1]) for name, kind in types.items()])

        def rows() -> Iterator[pa.RecordBatch]:
            with pq.ParquetFile(raw.folder / piece.file) as file:
                for part in file.iter_batches():
                    columns = [
                        part.column(field.name).cast(field.type)
                        if field.name in part.schema.names
                        else pa.nulls(len(part), field.type)
                        for field in form
                    ]
                    columns.append(pa.array([batch.batch] * len(part)))
                    yield pa.record_batch(columns, names=[*form.names, _BATCH])

        return pa.RecordBatchReader.from_batches(form.append(pa.field(_BATCH, pa.string())), rows())

    def _columns(self, table: str) -> dict[str, str]:
        return {name: _COLUMNS[kind][0] for name, kind in schema(self.fleet, table).items()}
