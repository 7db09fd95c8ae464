"""What a fleet has: raw rows and feature tables."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from millwright.doctor.findings import Check, Finding, Patient, moved
from millwright.errors import MillwrightError
from millwright.fleet import Fleet
from millwright.postgres.connection import connect
from millwright.postgres.view_tables import schema_of, table_of
from millwright.raw_store import Piece, RawStore
from millwright.sql import literal, quoted
from millwright.view_files import MANIFEST, Manifest, ViewFiles
from millwright.views import feature_views

NAMED = 3  # files that a line names


def raw(patient: Patient) -> Iterator[Finding]:
    """The manifests of the raw stores, and the files that they name."""
    for fleet in patient.fleets():
        store, title = RawStore(patient.state.raw(fleet.name), fleet), f"raw store of {fleet.name}"
        mend = f"{moved(store.folder)} && {patient.run('ingest', fleet.name)} --data PLACE"
        try:
            batches = store.batches()
        except MillwrightError as err:
            yield Finding(title, "fault", str(err), mend)
            continue
        pieces = [piece for batch in batches for piece in batch.files]
        bad = [why for piece in pieces if (why := _problem(store.folder / piece.file, piece))]
        if bad:
            said = f"{', '.join(bad[:NAMED])}{_more(bad)}; restore from a backup, or ingest again"
            yield Finding(title, "fault", said, mend)
        else:
            rows = sum(piece.rows for piece in pieces)
            yield Finding(title, "ok", f"{rows:,} rows in {len(batches)} batches")


def _problem(path: Path, piece: Piece) -> str | None:
    try:
        with pq.ParquetFile(path) as file:
            rows = file.metadata.num_rows
    except FileNotFoundError:
        return f"{path} is gone"
    except (OSError, pa.ArrowException):
        return f"{path} is damaged"
    return None if rows == piece.rows else f"{path} has {rows:,} rows and not {piece.rows:,}"


def _more(found: list[str]) -> str:
    return f" and {len(found) - NAMED} more" if len(found) > NAMED else ""


def tables(patient: Patient) -> Iterator[Finding]:
    """The files of the feature tables, or their rows in PostgreSQL."""
    for fleet in patient.fleets():
        title = f"feature tables of {fleet.name}"
        if patient.settings.engine.kind == "postgres":
            patient.needs("postgres")
            bad, count = _in_postgres(patient, fleet)
        else:
            bad, count = _in_files(patient, fleet)
        if bad:
            said = f"not as they were left: {', '.join(bad[:NAMED])}{_more(bad)}"
            yield Finding(title, "fault", said, patient.run("features", fleet.name))
        else:
            said = f"{count} tables are as they were left" if count else "none yet"
            yield Finding(title, "ok", said)


def _in_files(patient: Patient, fleet: Fleet) -> tuple[list[str], int]:
    bad, count = [], 0
    for view in feature_views(fleet):
        folder = patient.state.offline(fleet.name) / view.name
        try:
            held = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValidationError):
            bad.append(f"{folder / MANIFEST} cannot be read")
            continue
        files = ViewFiles(folder, view, held.definition, held.batches)
        bad += [f"{files.path(period)}" for period in sorted(files.damaged())]
        count += 1
    return bad, count


def _in_postgres(patient: Patient, fleet: Fleet) -> tuple[list[str], int]:
    connection = connect(patient.urls["postgres"])
    try:
        cursor = connection.cursor()
        cursor.execute("SET statement_timeout = '5s'")
        lines = f"{quoted(schema_of(fleet))}._periods"
        cursor.execute(f"SELECT to_regclass({literal(lines)})")
        if cursor.fetchone()[0] is None:
            return [], 0
        cursor.execute(f"SELECT view, sum(rows)::bigint FROM {lines} GROUP BY view ORDER BY view")
        bad = []
        expected = dict(cursor.fetchall())
        for view, rows in expected.items():
            name = f"{quoted(schema_of(fleet))}.{quoted(view)}"
            cursor.execute(f"SELECT to_regclass({literal(name)})")
            if cursor.fetchone()[0] is None:
                bad.append(f"{table_of(fleet, view)} is gone")
                continue
            cursor.execute(f"SELECT count(*) FROM {name}")
            if (found := cursor.fetchone()[0]) != rows:
                bad.append(f"{table_of(fleet, view)} has {found:,} rows and not {rows:,}")
        return bad, len(expected)
    finally:
        connection.close()


CHECKS = (
    Check("raw store", raw, "python run.py --pipeline ingest --data PLACE"),
    Check("feature tables", tables, "python run.py --pipeline features", server="postgres"),
)
