"""A report on the telemetry of a batch that people can look at, drawn by Evidently.

It describes a sample: what is decided about data is decided on all rows, elsewhere.
"""

import warnings
from html import escape

import duckdb
import pandas as pd

from millwright.fleet import Fleet
from millwright.raw_store import Batch, RawStore
from millwright.settings import Settings
from millwright.sql import parquet, quoted


def report_on(store: RawStore, name: str | None, settings: Settings) -> str | None:
    """One self-contained HTML page on a committed batch; None if it holds no telemetry."""
    batch = next((each for each in store.batches() if each.batch == name), None)
    if batch is None or not any(piece.table == "telemetry" for piece in batch.files):
        return None
    frame = sample(store, batch, settings.report_rows)
    rows: dict[str, int] = {}
    for piece in batch.files:
        rows[piece.table] = rows.get(piece.table, 0) + piece.rows
    taken = ", ".join(f"{count:,} of {table}" for table, count in rows.items())
    return describe_batch(
        frame,
        store.fleet,
        title=f"Batch {batch.batch} of fleet {store.fleet.name}",
        text=f"Rows taken in from {batch.source}: {taken}; {batch.refused:,} were refused. "
        f"Below, {len(frame):,} rows of telemetry.",
    )


def sample(store: RawStore, batch: Batch, rows: int) -> pd.DataFrame:
    """At most `rows` telemetry rows of a batch in order of time, each time the same ones."""
    columns = ", ".join(map(quoted, ["machine_id", "timestamp", *store.fleet.sensors]))
    files = [store.folder / piece.file for piece in batch.files if piece.table == "telemetry"]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found: pd.DataFrame = connection.execute(
            f"SELECT {columns} FROM (SELECT {columns} FROM {parquet(files)} "
            f"ORDER BY hash(machine_id, timestamp), machine_id, timestamp LIMIT {rows}) "
            "ORDER BY timestamp, machine_id"
        ).df()
    return found


def describe_batch(frame: pd.DataFrame, fleet: Fleet, title: str, text: str) -> str:
    """One self-contained HTML page on the readings in `frame`: a column for each sensor.

    Sensors that sent nothing at all are named in the text and left out: Evidently fails on them.
    """
    silent = [name for name in fleet.sensors if frame[name].notna().sum() == 0]
    heard = [name for name in fleet.sensors if name not in silent]
    if silent:
        text = f"{text} There are no readings of {', '.join(silent)}."
    with warnings.catch_warnings():
        # Evidently's imports and pandas calls warn of what its own next version will mend.
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataSummaryPreset

        definition = DataDefinition(
            numerical_columns=heard,
            categorical_columns=["machine_id"],
            datetime_columns=["timestamp"],
        )
        shown = frame[["machine_id", "timestamp", *heard]]
        dataset = Dataset.from_pandas(shown, data_definition=definition)
        page = Report([DataSummaryPreset()]).run(dataset, None, name=title)
        html: str = page.get_html_str(as_iframe=False)
    heading = (
        '<header style="font-family: system-ui, sans-serif; margin: 24px 32px">'
        f"<h1>{escape(title)}</h1><p>{escape(text)}</p></header>"
    )
    titled = html.replace("<head>", f"<head><title>{escape(title)}</title>", 1)
    return titled.replace("<body>", f"<body>{heading}", 1)
