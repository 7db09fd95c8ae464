"""The offline store's tables: which periods of which feature view are out of date, and making them.

A period's file follows from the raw store alone, so it can be made again at any time and is the
same. A run makes those periods again that batches reach into which the view has not taken in yet,
those whose file is gone or of another size, and no others. Files are replaced whole, and each
view's manifest last: a killed run leaves at worst some periods that are made again.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from millwright import anomaly, engine, features, labels, periods, views
from millwright.engine import KEYS, DuckDBEngine
from millwright.errors import DataError, MillwrightError
from millwright.files import file_written_whole
from millwright.fleet import Fleet
from millwright.raw_store import Piece, RawStore, first_line
from millwright.settings import Engine
from millwright.sql import literal, moment, parquet, quoted
from millwright.view_files import ViewFiles
from millwright.views import View, detector_view, feature_views

Progress = Callable[[str, int, int], None]

# What of a fleet file the features follow from; costs or an owner may change without them.
_SHAPE = {
    "step", "horizon", "partition", "sensors", "error_codes", "components", "attributes",
    "features", "anomaly", "counts_cycles",
}  # fmt: skip
# The period of rows that carry no time of their own.
_ALWAYS = "always"


@dataclass(frozen=True)
class Built:
    """What a run did to one view: the periods that it made, of how many, and the rows by now."""

    view: str
    made: tuple[str, ...]
    periods: int
    rows: int


class OfflineStore:
    """The feature tables of one fleet under `folder`, computed from its raw store."""

    def __init__(
        self, folder: Path, detectors: Path, fleet: Fleet, raw: RawStore, settings: Engine
    ) -> None:
        self.folder = folder
        self.detectors = detectors
        self.fleet = fleet
        self.raw = raw
        self.settings = settings
        *self.computed, self.scored = feature_views(fleet)

    def update(self, progress: Progress | None = None) -> list[Built]:
        """Bring every view up to date with the raw store.

        Args:
            progress: called with what is being made, periods done and periods to do.

        Raises:
            DataError: the raw store has no telemetry.
        """
        if not self.raw.files("telemetry"):
            raise DataError(
                f"fleet '{self.fleet.name}' has no telemetry yet; ingest some: "
                f"python run.py --pipeline ingest --fleet {self.fleet.name} --data FOLDER"
            )
        try:
            with self.raw.reading():
                return self._update(progress)
        except (OSError, duckdb.Error) as err:
            raise MillwrightError(
                f"cannot write the feature tables in {self.folder}: {first_line(err)}; make room "
                "or give another folder with MILLWRIGHT_HOME, and run again to go on from here"
            ) from err

    def _update(self, progress: Progress | None) -> list[Built]:
        held = {view.name: self._files(view) for view in self.computed}
        stale = {view.name: self._stale(view, held[view.name]) for view in self.computed}
        for files in held.values():
            files.begin()
        self._compute(held, stale, progress)
        built = [self._finish(v, held[v.name], stale[v.name]) for v in self.computed]
        return [*built, self._score(progress)]

    def detector_version(self) -> str | None:
        """Which detector made the published scores; None where there are none yet."""
        return self._files(self.scored).detector

    def observed(self) -> pd.DataFrame:
        """One row per machine: `machine_id`, and the times of its `first` and `last` step (UTC).

        Raises:
            MillwrightError: a feature table is gone or damaged.
        """
        steps = self._files(self.computed[0])
        if not steps.periods:
            return pd.DataFrame(columns=["machine_id", "first", "last"])
        rows = parquet(map(steps.path, steps.periods))
        try:
            return self._query(
                "SELECT machine_id, min(event_timestamp) AS first, max(event_timestamp) AS last "
                f"FROM {rows} GROUP BY machine_id ORDER BY machine_id"
            )
        except duckdb.Error as err:
            raise steps.unreadable(err) from err

    def failures(self, known: datetime | None = None) -> pd.DataFrame:
        """All failures by now, or those `known` by then (UTC).

        `machine_id`, `timestamp` (UTC) and `component`, null in a fleet without, by machine.
        """
        component = "component" if self.fleet.tables.failures.component else "NULL::VARCHAR"
        rows = (
            f"SELECT DISTINCT machine_id, timestamp, {component} AS component "
            f"FROM ({self.raw.scan('failures')})"
        )
        if known is not None:
            rows += f" WHERE received <= {moment(known)}"
        with self.raw.reading():
            return self._query(f"{rows} ORDER BY ALL")

    def readings(self, machine: str, start: datetime) -> pd.DataFrame:
        """What the sensors of one machine read from `start` (UTC) on, by time."""
        columns = ", ".join(map(quoted, ["machine_id", "timestamp", *self.fleet.sensors]))
        with self.raw.reading():
            found = self._query(
                f"SELECT {columns} FROM ({self.raw.scan('telemetry')}) "
                f"WHERE machine_id = {literal(machine)} AND timestamp >= {moment(start)} "
                "ORDER BY timestamp, received"
            )
        return found.drop_duplicates("timestamp", keep="last", ignore_index=True)

    def _compute(
        self, held: dict[str, ViewFiles], stale: dict[str, list[str]], progress: Progress | None
    ) -> None:
        """Make the stale periods of all views that are expressions over raw tables."""
        timed = [view for view in self.computed if view.kind != "attributes"]
        asked = sorted(set().union(*(stale[view.name] for view in timed)))
        engines = max(1, min(self.settings.threads, len(asked)))
        idle: SimpleQueue[DuckDBEngine] = SimpleQueue()
        for number in range(engines):
            idle.put(self._engine(number, engines))

        def make(period: str) -> None:
            engine = idle.get()
            try:
                needed = [view for view in timed if period in stale[view.name]]
                for view, rows in engine.compute(period, needed):
                    self._write(view, period, held[view.name], engine, rows)
            finally:
                idle.put(engine)

        if progress and asked:
            progress("features", 0, len(asked))
        with ThreadPoolExecutor(engines) as workers:
            for done, _ in enumerate(workers.map(make, asked), start=1):
                if progress:
                    progress("features", done, len(asked))
        engine = idle.get()
        for view in self.computed:
            if view.kind == "attributes" and stale[view.name]:
                self._write(view, _ALWAYS, held[view.name], engine, engine.attributes(view))

    def _score(self, progress: Progress | None) -> Built:
        """Score the windows by the anomaly detector, which is fitted first where it must be."""
        files, windows = self._files(self.scored), self._files(detector_view(self.fleet))
        detector = self._detector(files, windows)
        if detector is None or detector.version != files.detector:
            files.begin_anew()
        if detector is None:
            return self._finish(self.scored, files, [])
        files.detector = detector.version
        stale = sorted(set(windows.periods) & set(self._stale(self.scored, files)))
        engine = self._engine()
        for done, period in enumerate(stale):
            if progress:
                progress("anomaly scores", done, len(stale))
            rows = windows.read(period)
            rows = rows.filter(pc.field("event_timestamp") > detector.fit_end.to_pydatetime())
            scores = pa.array(detector.score(rows.to_pandas()))
            table = rows.select(KEYS).append_column("anomaly_score", scores)
            engine.connection.create_table("scores", table, overwrite=True)
            self._write(self.scored, period, files, engine, "FROM scores")
        if progress and stale:
            progress("anomaly scores", len(stale), len(stale))
        return self._finish(self.scored, files, stale)

    def _detector(self, scores: ViewFiles, windows: ViewFiles) -> anomaly.Detector | None:
        """The detector in use, or another where there is more to learn from than it has seen."""
        made = sorted(windows.periods)
        first = windows.frame(made[:1], ["event_timestamp"])
        if first.empty:
            return None
        fit_end = first["event_timestamp"].min() + self.fleet.anomaly.fit_window
        # Rows that were known in time may come late, as all do in a fleet without `received`.
        # Whether they are that, the fit decides: it makes the same detector of the same rows.
        new = self._new({"telemetry", "failures"}, scores)
        grown = any(piece.first is None or piece.first <= fit_end for piece in new)
        if scores.detector and (self.detectors / scores.detector).is_dir() and not grown:
            detector = anomaly.load(self.detectors, scores.detector)
            if detector.fit_end == fit_end:
                return detector
        # One period more shows whether the history goes on behind the end of the fit window.
        early = sum(period <= periods.label(fit_end, self.fleet) for period in made)
        features = list(detector_view(self.fleet).features)
        learnt = windows.frame(made[: early + 1], [*KEYS, *features])
        failures = self.failures(fit_end.to_pydatetime())
        fitted = anomaly.fit(learnt, failures, features, self.fleet)
        if fitted:
            anomaly.save(fitted, self.detectors)
        return fitted

    def _new(self, tables: Collection[str], files: ViewFiles) -> list[Piece]:
        """What batches that the view has not taken in yet brought to some raw tables."""
        return [
            piece
            for batch in self.raw.batches()
            if batch.batch not in files.batches
            for piece in batch.files
            if piece.table in tables
        ]

    def _stale(self, view: View, files: ViewFiles) -> list[str]:
        """The periods that new batches reach into, and those whose file is not as it was left."""
        new = self._new(view.sources, files)
        if view.kind == "attributes":
            return [_ALWAYS] if new or files.damaged() else []
        filled = {
            period
            for batch in self.raw.batches()
            for piece in batch.files
            if piece.table == "telemetry" and piece.first and piece.last
            for period in periods.between(piece.first, piece.last + self.fleet.step, self.fleet)
        }
        reached = {period for period in filled if any(self._reaches(p, period, view) for p in new)}
        return sorted(reached | files.damaged())

    def _reaches(self, piece: Piece, period: str, view: View) -> bool:
        """Whether rows of `piece` bear on the steps of `period`."""
        if piece.first is None or piece.last is None:
            return True
        if period < periods.label(piece.first, self.fleet):
            return False
        if view.reach is None:
            # New readings add steps of their own; only what the view is about reaches on.
            reach = self.fleet.step if piece.table == "telemetry" else None
        else:
            reach = view.reach + self.fleet.step
        return reach is None or period <= periods.label(piece.last + reach, self.fleet)

    def _write(
        self, view: View, period: str, files: ViewFiles, engine: DuckDBEngine, rows: str
    ) -> None:
        """Replace the file of `period` by what the SQL `rows` selects."""
        with file_written_whole(files.path(period)) as draft:
            written = engine.write(view, rows, draft)
        files.replaced(period, written)

    def _finish(self, view: View, files: ViewFiles, made: list[str]) -> Built:
        files.finish(batch.batch for batch in self.raw.batches())
        return Built(view.name, tuple(made), len(files.periods), files.rows)

    def _files(self, view: View) -> ViewFiles:
        """The files of a view that follow from today's definition of it."""
        known = {batch.batch for batch in self.raw.batches()}
        return ViewFiles(self.folder / view.name, self._definition(view), known)

    def _definition(self, view: View) -> str:
        """A hash of all that the view's files follow from besides the raw store."""
        shape = self.fleet.model_dump_json(include=_SHAPE)
        text = json.dumps([view.name, shape, *_code()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _query(self, sql: str) -> pd.DataFrame:
        found: pd.DataFrame = self._engine().query(sql).to_pandas()
        return found

    def _engine(self, number: int = 0, of: int = 1) -> DuckDBEngine:
        """One of several engines, which share the memory that is theirs."""
        size, unit = self.settings.memory_limit[:-2], self.settings.memory_limit[-2:]
        limit = f"{float(size) / of:g}{unit}"
        return DuckDBEngine(self.fleet, self.raw, limit, self.folder / f".spill-{number}")


@cache
def _code() -> list[str]:
    """What feature tables follow from: our source, as this process first sees it, and libraries."""
    modules = (features, views, engine, periods, anomaly, labels)
    libraries = ("duckdb", "ibis-framework", "scikit-learn")
    return [inspect.getsource(module) for module in modules] + [version(name) for name in libraries]
