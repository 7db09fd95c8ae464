"""A simulated fleet with its feature store, and requests that tell what was known of its machines.

A reading here and there is corrected hours later, in the same tables.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from millwright import detectors, feast_store
from millwright.fleet import FLEETS
from millwright.ingest import ingest
from millwright.project import Project, open_project
from millwright.recipe import Recipe
from millwright.serving.readings import ReadingsEngine
from millwright.simulator import simulate
from millwright.sources import FolderSource

HOUR = timedelta(hours=1)
# What reaches into the windows of the newest row that may count, and no further.
ENOUGH = timedelta(hours=24 + 48 + 1)
TIMED = {"telemetry": (), "errors": ("code",), "maintenance": ("component",)}


@dataclass(frozen=True)
class SentPlant:
    """The fleet, its raw tables as they are in the raw store, and what a release would carry."""

    project: Project
    raw: dict[str, pd.DataFrame]
    recipe: Recipe
    detector: Path

    def of(self, table: str, machine: str) -> pd.DataFrame:
        return self.raw[table].loc[machine:machine]

    def engine(self) -> ReadingsEngine:
        return ReadingsEngine(self.recipe, self.detector)

    def told(self, machine: str, as_of: datetime, back: timedelta = ENOUGH) -> dict[str, Any]:
        """What was known of a machine at a time: all of it, but telemetry and errors of so long."""
        found: dict[str, Any] = {"machine": machine}
        for table, about in TIMED.items():
            rows = self.of(table, machine)
            rows = rows[rows["received"] <= as_of]
            if table != "maintenance":
                rows = rows[rows["timestamp"] > as_of - back]
            cells = about or tuple(self.recipe.sensors)
            found[table] = [_row(row, cells) for row in rows.to_dict("records")]
        for row in self.of("machines", machine).to_dict("records"):
            said = _said(row, [*self.recipe.attributes])
            found["attributes"] = {**said, "received": text(row["received"])}
        return found

    def history(self, machines: Sequence[str], times: Sequence[datetime]) -> pa.Table:
        """What training would have been given, and when each view's row was true."""
        store = feast_store.open_store(self.project.state)
        cutoffs = pd.DataFrame({"machine_id": machines, "event_timestamp": times})
        return store.get_historical_features(
            cutoffs,
            store.get_feature_service(self.project.service),
            filter_by_created_timestamp=True,
        ).to_arrow()


def _row(row: dict[str, Any], cells: Sequence[str]) -> dict[str, Any]:
    times = {name: text(row[name]) for name in ("timestamp", "received")}
    return {**_said(row, cells), **times}


def _said(row: dict[str, Any], cells: Sequence[str]) -> dict[str, Any]:
    return {name: None if row[name] != row[name] else row[name] for name in cells}


def text(time: pd.Timestamp) -> str:
    return time.isoformat()


def new_sent_plant(
    home: Path,
    patch: pytest.MonkeyPatch,
    machines: int,
    days: int,
    fit_window: str = "10d",
    spoil: Callable[[Path], None] = lambda _: None,
) -> SentPlant:
    """The plant; `spoil` may change its data before anything is made of it."""
    fleets = home / "fleets"
    fleets.mkdir(parents=True)
    values = yaml.safe_load((FLEETS / "simulated.yaml").read_text())
    values["anomaly"] = {"fit_window": fit_window}
    values["simulation"] |= {"machines": machines, "days": days, "late_share": 0.05}
    (fleets / "simulated.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    patch.setenv("MILLWRIGHT_HOME", str(home / "state"))
    patch.setenv("MILLWRIGHT_FLEETS", str(fleets))
    project = open_project("simulated", "local")
    project.state.root.mkdir(parents=True)
    assert project.fleet.simulation
    simulate(project.fleet, project.fleet.simulation, home / "data")
    _correct(home / "data" / "telemetry.parquet")
    spoil(home / "data")
    end = project.fleet.simulation.start + timedelta(days=days + 30)
    done = ingest(
        project.fleet, FolderSource(home / "data", project.fleet), project.raw,
        home / "quarantine", project.settings.engine, end,
    )  # fmt: skip
    assert not done.refused, done.refused
    project.offline.update()
    feast_store.apply(project.state)
    version = project.offline.detector_version()
    assert version
    folder = project.state.detectors(project.fleet.name) / version
    recipe = Recipe.of(project.fleet, detectors.load(folder))
    raw = {
        name: project.raw.query(project.raw.scan(name))
        .set_index("machine_id", drop=False)
        .sort_index(kind="stable")
        for name in ("machines", "telemetry", "errors", "maintenance")
    }
    return SentPlant(project, raw, recipe, folder)


def _correct(path: Path) -> None:
    """Have every hundredth reading say something else from some hours later on."""
    table = pq.read_table(path)
    rows = table.to_pandas().iloc[7::100].copy()
    late = pd.to_timedelta(np.arange(len(rows)) % 40 * 37 + 11, unit="min")
    rows["received_at"] = (rows["received_at"] + late).astype(rows["received_at"].dtype)
    rows["volt"] = rows["volt"].fillna(200.0) * 0.75 + 13
    corrected = pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False)
    pq.write_table(pa.concat_tables([table, corrected]), path)


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
