"""The offline store's tables: one parquet file for each feature view and period, kept up to date.

    offline/sensor_window_24h/2025-01.parquet
    offline/sensor_window_24h/_manifest.json

A period's file follows from the raw store alone, so it can be made again at any time and is the
same. The manifest says which batches a view has taken in; a run makes those periods again that
later batches reach into, and no others. Files are replaced whole, and the manifest last: a killed
run leaves at worst some periods that are made again.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from millwright import anomaly, engine, features, labels, periods, views
from millwright.engine import KEYS, DuckDBEngine
from millwright.errors import DataError, MillwrightError
from millwright.files import file_written_whole
from millwright.fleet import Fleet
from millwright.raw_store import Piece, RawStore
from millwright.settings import Engine
from millwright.sql import literal, moment
from millwright.views import View, detector_view, feature_views

Progress = Callable[[str, int, int], None]

# What of a fleet file the features follow from; costs or an owner may change without them.
_SHAPE = {
    "step", "horizon", "partition", "sensors", "error_codes", "components", "attributes",
    "features", "anomaly", "counts_cycles",
}  # fmt: skip
_MANIFEST = "_manifest.json"
# The period of rows that carry no time of their own.
_ALWAYS = "always"


@dataclass
class Manifest:
    """What a view's files were made from, and how many rows each has."""

    definition: str
    batches: list[str] = field(default_factory=list)
    periods: dict[str, int] = field(default_factory=dict)
    detector: str | None = None


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
            return self._update(progress)
        except (OSError, duckdb.Error) as err:
            raise MillwrightError(
                f"cannot write the feature tables in {self.folder}: {err}; make room or give "
                "another folder with MILLWRIGHT_HOME, and run again to go on from here"
            ) from err

    def _update(self, progress: Progress | None) -> list[Built]:
        manifests = {view.name: self._manifest(view) for view in self.computed}
        stale = {view.name: self._stale(view, manifests[view.name]) for view in self.computed}
        self._compute(manifests, stale, progress)
        built = [self._finish(v, manifests[v.name], stale[v.name]) for v in self.computed]
        return [*built, self._score(progress)]

    def detector_version(self) -> str | None:
        """Which detector made the published scores; None where there are none yet."""
        return self._manifest(self.scored).detector

    def observed(self) -> pd.DataFrame:
        """One row per machine: `machine_id`, and the times of its `first` and `last` step (UTC)."""
        view = self.computed[0]
        steps = self._read(view, self._manifest(view).periods, columns=KEYS[:2])
        moments = steps.groupby("machine_id", as_index=False)["event_timestamp"]
        return moments.agg(["min", "max"]).rename(columns={"min": "first", "max": "last"})

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
        found: pd.DataFrame = self._engine().query(f"{rows} ORDER BY ALL").to_pandas()
        return found

    def readings(self, machine: str, start: datetime) -> pd.DataFrame:
        """What the sensors of one machine read from `start` (UTC) on, by time."""
        sensors = ", ".join(f'"{sensor}"' for sensor in self.fleet.sensors)
        rows = self._engine().query(
            f"SELECT machine_id, timestamp, {sensors} FROM ({self.raw.scan('telemetry')}) "
            f"WHERE machine_id = {literal(machine)} "
            f"AND timestamp >= TIMESTAMPTZ '{start.isoformat()}' ORDER BY timestamp, received"
        )
        found: pd.DataFrame = rows.to_pandas()
        return found.drop_duplicates("timestamp", keep="last", ignore_index=True)

    def _compute(
        self, manifests: dict[str, Manifest], stale: dict[str, list[str]], progress: Progress | None
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
                    self._write(view, period, manifests[view.name], engine, rows)
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
                self._write(view, _ALWAYS, manifests[view.name], engine, engine.attributes(view))

    def _score(self, progress: Progress | None) -> Built:
        """Score the windows by the anomaly detector, which is fitted first if there is none."""
        manifest = self._manifest(self.scored)
        detector = self._detector(manifest)
        if detector is None:
            return self._finish(self.scored, Manifest(manifest.definition), [])
        if detector.version != manifest.detector:
            manifest = Manifest(manifest.definition, detector=detector.version)
        windows = detector_view(self.fleet)
        made = set(self._manifest(windows).periods)
        stale = sorted(made & set(self._stale(self.scored, manifest)))
        engine = self._engine()
        for done, period in enumerate(stale):
            if progress:
                progress("anomaly scores", done, len(stale))
            rows = pq.read_table(self.folder / windows.name / f"{period}.parquet")
            rows = rows.filter(pc.field("event_timestamp") > detector.fit_end.to_pydatetime())
            scores = pa.array(detector.score(rows.to_pandas()))
            table = rows.select(KEYS).append_column("anomaly_score", scores)
            engine.connection.create_table("scores", table, overwrite=True)
            self._write(self.scored, period, manifest, engine, "FROM scores")
        if progress and stale:
            progress("anomaly scores", len(stale), len(stale))
        return self._finish(self.scored, manifest, stale)

    def _detector(self, manifest: Manifest) -> anomaly.Detector | None:
        """The detector in use, or a new one where the history now fills its fit window."""
        view = detector_view(self.fleet)
        made = sorted(self._manifest(view).periods)
        first = self._read(view, made[:1], columns=["event_timestamp"])
        if first.empty:
            return None
        fit_end = first["event_timestamp"].min() + self.fleet.anomaly.fit_window
        if manifest.detector and (self.detectors / manifest.detector).is_dir():
            detector = anomaly.load(self.detectors, manifest.detector)
            if detector.fit_end == fit_end:
                return detector
        # One period more shows whether the history goes on behind the end of the fit window.
        early = sum(period <= periods.label(fit_end, self.fleet) for period in made)
        windows = self._read(view, made[: early + 1])
        failures = self.failures(fit_end.to_pydatetime())
        fitted = anomaly.fit(windows, failures, list(view.features), self.fleet)
        if fitted:
            anomaly.save(fitted, self.detectors)
        return fitted

    def _stale(self, view: View, manifest: Manifest) -> list[str]:
        """The periods that batches reach into which the view has not taken in yet."""
        pieces = [(batch.batch, piece) for batch in self.raw.batches() for piece in batch.files]
        new = [
            piece
            for batch, piece in pieces
            if batch not in manifest.batches and piece.table in view.sources
        ]
        if view.kind == "attributes":
            return [_ALWAYS] if new else []
        filled = {
            period
            for _, piece in pieces
            if piece.table == "telemetry" and piece.first and piece.last
            for period in periods.between(piece.first, piece.last + self.fleet.step, self.fleet)
        }
        return sorted(
            period for period in filled if any(self._reaches(p, period, view) for p in new)
        )

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
        self, view: View, period: str, manifest: Manifest, engine: DuckDBEngine, rows: str
    ) -> None:
        """Replace the file of `period` by what the SQL `rows` selects."""
        target = self.folder / view.name / f"{period}.parquet"
        with file_written_whole(target) as draft:
            written = engine.write(view, rows, draft)
        # A file without rows is unknown to the manifest, and removed when that is written.
        if written:
            manifest.periods[period] = written
        else:
            manifest.periods.pop(period, None)

    def _read(
        self, view: View, asked: Iterable[str], columns: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """The rows of a view in some periods."""
        names = list(columns) if columns else [*KEYS, *view.features]
        tables = [
            pq.read_table(self.folder / view.name / f"{period}.parquet", columns=names)
            for period in sorted(asked)
        ]
        if not tables:
            return pd.DataFrame(columns=names)
        return pa.concat_tables(tables).to_pandas()

    def _finish(self, view: View, manifest: Manifest, made: list[str]) -> Built:
        """Remove files that the manifest does not know, and commit it."""
        folder = self.folder / view.name
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.parquet"):
            if path.stem not in manifest.periods:
                path.unlink()
        manifest.batches = [batch.batch for batch in self.raw.batches()]
        manifest.periods = dict(sorted(manifest.periods.items()))
        text = json.dumps(asdict(manifest), indent=1) + "\n"
        path = folder / _MANIFEST
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with file_written_whole(path) as draft:
                draft.write_text(text, encoding="utf-8")
        rows = sum(manifest.periods.values())
        return Built(view.name, tuple(made), len(manifest.periods), rows)

    def _manifest(self, view: View) -> Manifest:
        """The manifest of a view, empty where its files do not follow from today's definition."""
        definition = self._definition(view)
        path = self.folder / view.name / _MANIFEST
        if not path.is_file():
            return Manifest(definition)
        try:
            manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            return Manifest(definition)  # whatever was there, all of it can be made again
        taken = {batch.batch for batch in self.raw.batches()}
        files = {file.stem for file in path.parent.glob("*.parquet")}
        whole = set(manifest.batches) <= taken and set(manifest.periods) <= files
        return manifest if whole and manifest.definition == definition else Manifest(definition)

    def _definition(self, view: View) -> str:
        """A hash of all that the view's files follow from besides the raw store."""
        shape = self.fleet.model_dump_json(include=_SHAPE)
        text = json.dumps([view.name, shape, *_code()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

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
