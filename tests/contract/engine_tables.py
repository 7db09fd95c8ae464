"""The engines that compute features, as the contract tests use them: tables in, SQL, tables out."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from adbc_driver_postgresql import dbapi

from millwright import features
from millwright.fleet import Fleet
from millwright.views import feature_views

# Spark comes where there is a Java to run it; `make test` installs its package there.
ENGINES = ["postgres", *(["pyspark"] if shutil.which("java") and find_spec("pyspark") else [])]


class Engine(Protocol):
    """What runs SQL of its own dialect, which has Ibis' name for it."""

    dialect: str

    def load(self, name: str, rows: pa.Table) -> None:
        """Make a table of `rows`."""

    def keep(self, name: str, sql: str) -> None:
        """Make a table of what `sql` selects."""

    def select(self, sql: str) -> pa.Table:
        """The rows that `sql` selects."""


class DuckDB:
    dialect = "duckdb"

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1")

    def load(self, name: str, rows: pa.Table) -> None:
        self.connection.register(name, rows)

    def keep(self, name: str, sql: str) -> None:
        self.connection.execute(f"CREATE TABLE {name} AS {sql}")

    def select(self, sql: str) -> pa.Table:
        return self.connection.execute(sql).to_arrow_table()


class PostgreSQL:
    dialect = "postgres"

    def __init__(self, connection: dbapi.Connection) -> None:
        self.connection = connection
        # A server may be anywhere: times must not depend on its zone.
        with connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'Asia/Kathmandu'")

    def load(self, name: str, rows: pa.Table) -> None:
        with self.connection.cursor() as cursor:
            cursor.adbc_ingest(name, rows, mode="create")

    def keep(self, name: str, sql: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {name} AS {sql}")
            cursor.execute(f"ANALYZE {name}")

    def select(self, sql: str) -> pa.Table:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table()


class Spark:
    dialect = "pyspark"

    def __init__(self, session: Any) -> None:
        self.session = session

    def load(self, name: str, rows: pa.Table) -> None:
        self.session.createDataFrame(rows).createOrReplaceTempView(name)

    def keep(self, name: str, sql: str) -> None:
        self.session.sql(sql).cache().createOrReplaceTempView(name)

    def select(self, sql: str) -> pa.Table:
        return self.session.sql(sql).toArrow()


@contextmanager
def duckdb_engine() -> Iterator[Engine]:
    with duckdb.connect() as connection:
        yield DuckDB(connection)


@contextmanager
def postgres_engine(url: str) -> Iterator[Engine]:
    with dbapi.connect(url, autocommit=True) as connection:
        yield PostgreSQL(connection)


@contextmanager
def spark_engine(folder: Path) -> Iterator[Engine]:
    """Spark on two threads of a Java of its own, which keeps its files in `folder`."""
    from pyspark.sql import SparkSession

    ibis.pyspark  # noqa: B018 - Ibis knows the options of this dialect once it is asked for
    options = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.local.dir": str(folder),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": str(folder),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # The tables are so small that Spark would compile for minutes what runs in moments.
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.shuffle.partitions": "2",
    }
    session = SparkSession.builder.master("local[2]").config(map=options).getOrCreate()
    try:
        yield Spark(session)
    finally:
        session.stop()


def compute(engine: Engine, fleet: Fleet, raw: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Every view of `fleet` that is an expression, as `engine` computes it from raw tables."""
    for name, rows in raw.items():
        engine.load(name, rows)
    tables = {name: _unbound(name, rows) for name, rows in raw.items()}
    readings = features.step_readings(tables.pop("telemetry"), fleet)
    engine.keep("readings", _sql(engine, readings))
    tables["readings"] = ibis.table(readings.schema(), "readings")
    return {
        view.name: engine.select(_sql(engine, features.build(view, fleet, tables)))
        for view in feature_views(fleet)
        if view.kind != "anomaly"
    }


def _unbound(name: str, rows: pa.Table) -> ir.Table:
    return ibis.table(ibis.Schema.from_pyarrow(rows.schema), name)


def _sql(engine: Engine, table: ir.Table) -> str:
    return str(ibis.to_sql(table, dialect=engine.dialect))
