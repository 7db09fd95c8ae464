"""The bare join by DuckDB and polars: the least that gives the values that Feast's stores give.

They find the newest row by event time, within the time to live. They need not keep the order of the
cut-offs, know nothing of created times, and are told what columns there are.
"""

from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl

from benchmarks import fleets
from benchmarks.benchmark import Begin, Case, Contender

Join = Callable[[Case, pd.DataFrame], object]
RESULT = "plain.parquet"


def duckdb_to_frame() -> Contender:
    """DuckDB's ASOF join to a frame of pandas."""
    return Contender("plain duckdb", _begin(_duckdb_frame))


def duckdb_to_parquet() -> Contender:
    """The same to a parquet file."""
    return Contender("plain duckdb", _begin(_duckdb_parquet))


def polars_to_frame() -> Contender:
    """Polars' `join_asof` to a frame of pandas. It sorts the rows, as `join_asof` asks."""
    return Contender("plain polars", _begin(lambda case, given: _polars(case, given).to_pandas()))


def polars_told_the_order() -> Contender:
    """The same without sorting: it is told that the files are in order of time, which they are."""
    return Contender(
        "polars, told the order",
        _begin(lambda case, given: _polars(case, given, told=True).to_pandas()),
    )


def polars_to_its_frame() -> Contender:
    """That one to a frame of its own."""
    return Contender(
        "polars, to its own frame", _begin(lambda case, given: _polars(case, given, told=True))
    )


def _begin(join: Join) -> Begin:
    def begin(case: Case) -> Callable[[], object]:
        tiny = Case(case.options, case.data / "tiny", case.scratch)
        join(tiny, pd.read_parquet(tiny.data / fleets.CUTOFFS))
        cutoffs = pd.read_parquet(case.data / fleets.CUTOFFS)
        return lambda: join(case, cutoffs)

    return begin


def _duckdb_frame(case: Case, cutoffs: pd.DataFrame) -> pd.DataFrame:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("cutoffs", cutoffs)
        frame: pd.DataFrame = connection.execute(_query(case)).df()
        return frame


def _duckdb_parquet(case: Case, cutoffs: pd.DataFrame) -> Path:
    path = case.scratch / RESULT
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("cutoffs", cutoffs)
        connection.execute(f"COPY ({_query(case)}) TO '{path}' (FORMAT parquet)")
    return path


def _query(case: Case) -> str:
    views = fleets.views(case.options)
    features = ", ".join(
        f"CASE WHEN {view.name}.event_timestamp >= c.event_timestamp "
        f"- INTERVAL {view.hours_to_live} HOUR THEN {column} END AS {column}"
        for view in views
        for column in view.columns
    )
    joins = " ".join(
        f"""
        ASOF LEFT JOIN read_parquet('{case.data / view.name}/*.parquet') AS {view.name}
        ON c.machine = {view.name}.machine AND c.event_timestamp >= {view.name}.event_timestamp
        """
        for view in views
    )
    return f"SELECT c.*, {features} FROM cutoffs AS c {joins}"


def _polars(case: Case, cutoffs: pd.DataFrame, *, told: bool = False) -> pl.DataFrame:
    """The join; `told` in which order the rows are, which no store can know of its files."""
    joined = (
        pl.from_pandas(cutoffs)
        .lazy()
        .with_columns(pl.col("event_timestamp").cast(pl.Datetime("us", "UTC")))
        .sort("event_timestamp")
    )
    for view in fleets.views(case.options):
        rows = pl.scan_parquet(case.data / view.name / "*.parquet").select(
            "machine", "event_timestamp", *view.columns
        )
        joined = joined.join_asof(
            rows.set_sorted("event_timestamp") if told else rows.sort("event_timestamp"),
            on="event_timestamp",
            by="machine",
            strategy="backward",
            tolerance=f"{view.hours_to_live}h",
            check_sortedness=False,
        )
    return joined.collect()
