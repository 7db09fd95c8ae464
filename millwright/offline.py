"""The offline store's tables: which periods of which feature view are out of date, and making them.

A period's file follows from the raw store alone, so it can be made again at any time and is the
same. A run makes those periods again that batches reach into which the view has not taken in yet,
those whose file is gone or of another size, and no others. Files are replaced whole, and each
view's manifest last: a killed run leaves at worst some periods that are made again.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from millwright import anomaly, compiled, detectors, features, labels, periods, views, windows
from millwright.detectors import Detector
from millwright.errors import DataError
from millwright.fleet import Fleet
from millwright.raw_store import Piece, RawStore
from millwright.sql import literal, moment, quoted
from millwright.views import View, detector_view, feature_views
from millwright.warehouse import ALWAYS, KEYS, FeatureEngine, Tables, Warehouse

Progress = Callable[[str, int, int], None]

# What of a fleet file the features follow from; costs or an owner may change without them.
_SHAPE = {
    "step", "horizon", "partition", "sensors", "error_codes", "components", "attributes",
    "features", "anomaly", "counts_cycles",
}  # fmt: skip


@dataclass(frozen=True)
class Built:
    """What a run did to one view: the periods that it made, of how many, and the rows by now."""

    view: str
    made: tuple[str, ...]
    periods: int
    rows: int


class OfflineStore:
    """The feature tables of one fleet in `warehouse`, computed from its raw store."""

    def __init__(
        self, warehouse: Warehouse, detectors: Path, fleet: Fleet, raw: RawStore, threads: int
    ) -> None:
        self.warehouse = warehouse
        self.detectors = detectors
        self.fleet = fleet
        self.raw = raw
        self.threads = threads
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
        with self.warehouse.updating():
            return self._update(progress)

    def _update(self, progress: Progress | None) -> list[Built]:
        held = {view.name: self._tables(view) for view in self.computed}
        stale = {view.name: self._stale(view, held[view.name]) for view in self.computed}
        for files in held.values():
            files.begin()
        self._compute(held, stale, progress)
        built = [self._finish(v, held[v.name], stale[v.name]) for v in self.computed]
        return [*built, self._score(progress)]

    def detector_version(self) -> str | None:
        """Which detector made the published scores; None where there are none yet."""
        return self._tables(self.scored).detector

    def observed(self) -> pd.DataFrame:
        """One row per machine: `machine_id`, and the times of its `first` and `last` step (UTC).

        Raises:
            MillwrightError: a feature table is gone or damaged.
        """
        return self._tables(self.computed[0]).observed()

    def known_until(self) -> datetime:
        """When the newest feature became known (UTC): a moment at which all of them count.

        Raises:
            DataError: there are no features yet.
        """
        views = (*self.computed, self.scored)
        known = [moment for view in views if (moment := self._tables(view).known_until())]
        if not known:
            raise DataError(
                f"fleet '{self.fleet.name}' has no features yet; make them: "
                f"python run.py --pipeline features --fleet {self.fleet.name}"
            )
        return max(known)

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
        return self.raw.query(f"{rows} ORDER BY ALL")

    def readings(self, machine: str, start: datetime) -> pd.DataFrame:
        """What the sensors of one machine read from `start` (UTC) on, by time."""
        columns = ", ".join(map(quoted, ["machine_id", "timestamp", *self.fleet.sensors]))
        found = self.raw.query(
            f"SELECT {columns} FROM ({self.raw.scan('telemetry')}) "
            f"WHERE machine_id = {literal(machine)} AND timestamp >= {moment(start)} "
            "ORDER BY timestamp, received"
        )
        return found.drop_duplicates("timestamp", keep="last", ignore_index=True)

    def _compute(
        self, held: dict[str, Tables], stale: dict[str, list[str]], progress: Progress | None
    ) -> None:
        """Make the stale periods of all views that are expressions over raw tables."""
        timed = [view for view in self.computed if view.kind != "attributes"]
        asked = sorted(set().union(*(stale[view.name] for view in timed)))
        with self.warehouse.engines(max(1, min(self.threads, len(asked)))) as engines:
            self._make(asked, engines, held, stale, progress)
            for view in self.computed:
                if view.kind == "attributes" and stale[view.name]:
                    held[view.name].fill(ALWAYS, engines[0].attributes(view))

    def _make(
        self,
        asked: Sequence[str],
        engines: Sequence[FeatureEngine],
        held: dict[str, Tables],
        stale: dict[str, list[str]],
        progress: Progress | None,
    ) -> None:
        """Make the periods `asked`, as many at a time as there are engines."""
        idle: SimpleQueue[FeatureEngine] = SimpleQueue()
        for engine in engines:
            idle.put(engine)

        def make(period: str) -> None:
            engine = idle.get()
            try:
                needed = [v for v in self.computed if period in stale[v.name]]
                for view, rows in engine.compute(period, needed):
                    held[view.name].fill(period, rows)
            finally:
                idle.put(engine)

        if progress and asked:
            progress("features", 0, len(asked))
        with ThreadPoolExecutor(len(engines)) as workers:
            for done, _ in enumerate(workers.map(make, asked), start=1):
                if progress:
                    progress("features", done, len(asked))

    def _score(self, progress: Progress | None) -> Built:
        """Score the windows by the anomaly detector, which is fitted first where it must be."""
        files, windows = self._tables(self.scored), self._tables(detector_view(self.fleet))
        detector = self._detector(files, windows)
        if detector is None or detector.version != files.detector:
            files.begin_anew()
        if detector is None:
            return self._finish(self.scored, files, [])
        files.detector = detector.version
        stale = sorted(set(windows.periods) & set(self._stale(self.scored, files)))
        for done, period in enumerate(stale):
            if progress:
                progress("anomaly scores", done, len(stale))
            rows = windows.read(period)
            rows = rows.filter(pc.field("event_timestamp") > detector.fit_end)
            scores = pa.array(detector.score(rows.to_pandas()))
            files.put(period, rows.select(KEYS).append_column("anomaly_score", scores))
        if progress and stale:
            progress("anomaly scores", len(stale), len(stale))
        return self._finish(self.scored, files, stale)

    def _detector(self, scores: Tables, windows: Tables) -> Detector | None:
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
            detector = detectors.load(self.detectors / scores.detector)
            if detector.fit_end == fit_end:
                return detector
        # One period more shows whether the history goes on behind the end of the fit window.
        early = sum(period <= periods.label(fit_end, self.fleet) for period in made)
        features = list(detector_view(self.fleet).features)
        learnt = windows.frame(made[: early + 1], [*KEYS, *features])
        failures = self.failures(fit_end.to_pydatetime())
        fitted = anomaly.fit(learnt, failures, features, self.fleet)
        if fitted:
            detectors.save(fitted, self.detectors)
        return fitted

    def _new(self, tables: Collection[str], files: Tables) -> list[Piece]:
        """What batches that the view has not taken in yet brought to some raw tables."""
        return [
            piece
            for batch in self.raw.batches()
            if batch.batch not in files.batches
            for piece in batch.files
            if piece.table in tables
        ]

    def _stale(self, view: View, files: Tables) -> list[str]:
        """The periods that new batches reach into, and those whose file is not as it was left."""
        new = self._new(view.sources, files)
        if view.kind == "attributes":
            return [ALWAYS] if new or files.damaged() else []
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

    def _finish(self, view: View, files: Tables, made: list[str]) -> Built:
        files.finish(batch.batch for batch in self.raw.batches())
        return Built(view.name, tuple(made), len(files.periods), files.rows)

    def _tables(self, view: View) -> Tables:
        """The rows of a view that follow from today's definition of it."""
        known = {batch.batch for batch in self.raw.batches()}
        return self.warehouse.tables(view, self._definition(view), known)

    def _definition(self, view: View) -> str:
        """A hash of all that the view's files follow from besides the raw store."""
        shape = self.fleet.model_dump_json(include=_SHAPE)
        text = json.dumps([view.name, shape, *_code(self.warehouse)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _code(warehouse: Warehouse) -> list[str]:
    """What feature tables follow from: our source, as this process first sees it, and libraries."""
    expressions = (features, windows, compiled, views, periods, anomaly, detectors, labels)
    libraries = ("duckdb", "ibis-framework", "scikit-learn")
    return [
        *map(_source, (*expressions, *warehouse.modules)),
        *(version(name) for name in libraries),
    ]


@cache
def _source(module: ModuleType) -> str:
    return inspect.getsource(module)
