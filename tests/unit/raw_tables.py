"""A small plant for the tests of the ingest: its fleet, its raw tables, how to write them."""

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from millwright.fleet import Fleet
from millwright.ingest import IngestResult, ingest
from millwright.raw_store import RawStore
from millwright.settings import Engine
from millwright.sources import open_source

NOW = datetime(2025, 6, 1, tzinfo=UTC)
Rows = list[dict[str, Any]]
Raw = dict[str, Rows]


def plant(
    *, received: bool = False, machines: bool = True, maintenance: bool = False, **changes: Any
) -> Fleet:
    """The fleet; `received` gives telemetry a column of that name."""
    known = {"received": "seen"} if received else {}
    timed = {"machine": "id", "timestamp": "at"}
    tables = {
        "telemetry": {"source": "readings", **timed, **known},
        "failures": {"source": "failures", **timed, "component": "part"},
        "errors": {"source": "errors", **timed, "code": "code"},
    }
    if maintenance:
        tables["maintenance"] = {"source": "repairs", **timed, "component": "part"}
    attributes = {}
    if machines:
        tables["machines"] = {"source": "machines", "machine": "id"}
        attributes = {
            "model": {"type": "category", "values": ["m1", "m2"]},
            "age": {"type": "number", "range": [0, 60]},
        }
    values = {
        "name": "plant",
        "step": "1h",
        "horizon": "24h",
        "lead_time": "4h",
        "test_window": "30d",
        "tables": tables,
        "sensors": {"heat": {"range": [0, 100]}, "noise": {"column": "sound"}},
        "error_codes": ["e1", "e2"],
        "components": ["pump", "fan"],
        "attributes": attributes,
        "features": {"windows": ["3h"], "error_windows": ["24h"], "time_to_live": "48h"},
        "anomaly": {"fit_window": "30d"},
        "costs": {"failure": 20000, "planned_repair": 4000, "inspection": 500},
    }
    return Fleet.model_validate(values | changes)


def reading(machine: Any = 1, at: Any = "2025-01-01T00:00:00Z", **cells: Any) -> dict[str, Any]:
    return {"id": machine, "at": at, "heat": 20.5, "sound": 1.25} | cells


def raw(*readings: dict[str, Any], **tables: Rows) -> Raw:
    """The tables of the plant with these readings; any other may be replaced by name."""
    given: Raw = {
        "readings": list(readings) or [reading()],
        "failures": [{"id": 1, "at": "2025-01-02T00:00:00Z", "part": "pump"}],
        "errors": [{"id": 1, "at": "2025-01-01T12:00:00Z", "code": "e1"}],
        "machines": [{"id": 1, "model": "m1", "age": 3}, {"id": 2, "model": "m2", "age": 7}],
    }
    return given | tables


def write_csv(folder: Path, tables: Raw) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def write_parquet(folder: Path, tables: Raw) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / f"{name}.parquet")
    return folder


def take_in(
    fleet: Fleet, source: str | Path, home: Path, now: datetime = NOW, **options: Any
) -> IngestResult:
    """One ingest into the stores under `home`."""
    engine = Engine(memory_limit="200MB", threads=1)
    store = RawStore(home / "raw", fleet)
    return ingest(
        fleet, open_source(source, fleet), store, home / "quarantine", engine, now, **options
    )


def stored(fleet: Fleet, home: Path, table: str = "telemetry") -> list[tuple[Any, ...]]:
    """The rows of the raw store, sorted, each cell in its canonical form."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        relation = connection.sql(RawStore(home / "raw", fleet).scan(table))
        return sorted(relation.fetchall(), key=lambda row: [str(cell) for cell in row])


def refused(result: IngestResult, table: str = "telemetry") -> Rows:
    """The rows of the quarantine file that `result` names for `table`."""
    path = next(path for path in result.quarantine if path.name.startswith(f"{table}-"))
    rows: Rows = pl.read_parquet(path).to_dicts()
    return rows


def contents(folder: Path) -> Mapping[str, bytes]:
    """Every file below `folder` with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def reasons(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [list(row["reasons"]) for row in rows]
