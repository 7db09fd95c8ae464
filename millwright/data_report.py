"""A report on the telemetry of a batch that people can look at, drawn by Evidently.

It describes a sample: what is decided about data is decided on all rows, elsewhere.
"""

import warnings
from pathlib import Path

import duckdb
import pandas as pd

from millwright.fleet import Fleet
from millwright.raw_store import RawStore
from millwright.settings import Settings
from millwright.sql import parquet, quoted


def report_on(store: RawStore, batch: str | None, folder: Path, settings: Settings) -> Path | None:
    """Write the report on a committed batch to `folder`; None if it holds no telemetry."""
    frame = sample(store, batch, settings.report_rows)
    if frame.empty:
        return None
    path = folder / f"batch-{batch}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"{store.fleet.name}, batch {batch}"
    path.write_text(describe_batch(frame, store.fleet, title), encoding="utf-8")
    return path


def sample(store: RawStore, batch: str | None, rows: int) -> pd.DataFrame:
    """At most `rows` telemetry rows of a batch in order of time, each time the same ones."""
    names = ["machine_id", "timestamp", *store.fleet.sensors]
    columns = ", ".join(map(quoted, names))
    files = [
        store.folder / piece.file
        for entry in store.batches()
        for piece in entry.files
        if entry.batch == batch and piece.table == "telemetry"
    ]
    if not files:
        return pd.DataFrame(columns=names)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found: pd.DataFrame = connection.execute(
            f"SELECT {columns} FROM (SELECT {columns} FROM {parquet(files)} "
            f"ORDER BY hash(machine_id, timestamp), machine_id, timestamp LIMIT {rows}) "
            "ORDER BY timestamp, machine_id"
        ).df()
    return found


def describe_batch(frame: pd.DataFrame, fleet: Fleet, title: str) -> str:
    """One self-contained HTML page on the readings in `frame`: a column for each sensor.

    Sensors that sent nothing at all are named in the title and left out: Evidently fails on them.
    """
    silent = [name for name in fleet.sensors if frame[name].notna().sum() == 0]
    heard = [name for name in fleet.sensors if name not in silent]
    if silent:
        title = f"{title}; no readings of {', '.join(silent)}"
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
    return html.replace("<head>", f"<head><title>{_escaped(title)}</title>", 1)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
