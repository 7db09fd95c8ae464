"""Features of readings that were sent: the SQL of a recipe, run by DuckDB inside the service.

It is the SQL that made what the model learned from, over the raw rows of a request in place of the
raw store's, and the same point-in-time rule: of each machine and view that row counts which was
true last among those true and known by the time asked about.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millwright import detectors
from millwright.errors import InputError, MillwrightError, ReleaseError
from millwright.recipe import Recipe, RecipeView
from millwright.serving.rows import (
    NEVER,
    FeatureRows,
    Moments,
    microseconds,
    present_alone,
    states,
)
from millwright.serving.sent import Readings, nobody
from millwright.sql import quoted

_SECOND = 1_000_000
_MEMORY = "256MB"
# A feature may be called as it likes, but no attribute has a name with a colon.
_AS_OF, _PLACE, _EVENT = "row:as_of", "row:place", "row:event"
_SQL_TYPES = {"float32": "FLOAT", "string": "VARCHAR"}
# Plans are made once, over empty tables. From their statistics DuckDB would conclude too much.
_SETTINGS = (
    "SET TimeZone = 'UTC'",
    "SET disabled_optimizers = 'statistics_propagation'",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


class ReadingsEngine:
    """Computes the features of machines from what was sent of them; threads take turns.

    Every request is a transaction that is rolled back, so nothing of it stays.
    """

    def __init__(self, recipe: Recipe, detector: Path | None) -> None:
        """Prepare every statement of `recipe`; `detector` is the folder of the one it names.

        Raises:
            ReleaseError: the recipe cannot be run, or the detector is another one.
            MillwrightError: the detector is not there, or not whole.
        """
        self.recipe = recipe
        self._lives = microseconds([view.time_to_live for view in recipe.views])
        self._detector = _detector(recipe, detector)
        self._timed = [view for view in recipe.views if view.sql is not None]
        self._turn = threading.Lock()
        self._connection = _connected()
        try:
            for sql in (*_tables(recipe), *_prepared(recipe, self._timed)):
                self._connection.execute(sql)
        except duckdb.Error as err:
            raise ReleaseError(
                f"the recipe of fleet '{recipe.fleet}' cannot be run: {type(err).__name__}; "
                "train again with the libraries of this environment"
            ) from err

    def warm(self) -> None:
        """Load what takes long, before the first request needs it: the detector, and libraries.

        Raises:
            MillwrightError: the detector is not whole.
        """
        self.features(nobody(self.recipe))
        if self._detector:
            nothing = {name: np.full(1, np.nan, np.float32) for name in self._detector.features}
            self._detector.score(nothing)

    def features(self, readings: Readings) -> FeatureRows:
        """The features of each machine at the time that it is asked about.

        What is stale is null, and so is a view of whose sources nothing was told: its event is
        NEVER, so that `rows.newest` can take another's row in its place.

        Raises:
            InputError: a statistic of the readings is too large for a number, or they take more
                memory than a request may have.
            MillwrightError: DuckDB fails otherwise.
        """
        count = len(readings.machines)
        columns: dict[str, NDArray[Any]] = {}
        events: dict[str, Moments] = {}
        with self._turn, self._transaction():
            self._load(readings)
            for place, view in enumerate(self._timed):
                found = self._connection.execute(f"EXECUTE view_{place}").fetchnumpy()
                events[view.name] = self._scatter(view, found, count, columns)
        for view in self._timed:
            told = np.logical_and.reduce([readings.told[table] for table in view.sources])
            events[view.name][~told] = NEVER
        for view in self.recipe.views:
            if view.kind == "anomaly":
                events[view.name] = self._scored(view, columns, events, count)
        views = tuple(view.name for view in self.recipe.views)
        moments = np.stack([events[view] for view in views], axis=1)
        found = states(moments, self._lives, readings.as_of)
        return present_alone(FeatureRows(columns, moments, found, views), self.recipe.features)

    def _load(self, readings: Readings) -> None:
        """Have the tables hold the rows of a request, and what follows from them for all views."""
        moments = pa.table(
            {
                "machine_id": pa.array(map(str, range(len(readings.machines))), pa.string()),
                _AS_OF: pa.array(readings.as_of, pa.int64()),
            }
        )
        for name, rows in {**readings.tables, "moments": moments}.items():
            self._connection.register("sent", rows)
            self._connection.execute(f"INSERT INTO {name} FROM sent")
            self._connection.unregister("sent")
        self._connection.execute("EXECUTE fill_readings")
        self._connection.execute("EXECUTE fill_asked")

    def _scatter(
        self,
        view: RecipeView,
        found: dict[str, Any],
        count: int,
        columns: dict[str, NDArray[Any]],
    ) -> Moments:
        """Put the rows of a view in their machines' places; gives their events."""
        places = np.asarray(found.pop(_PLACE), np.int64)
        events = np.full(count, NEVER, np.int64)
        events[places] = np.asarray(found.pop(_EVENT), np.int64)
        for (name, kind), values in zip(view.features.items(), found.values(), strict=True):
            null: Any = None if kind == "string" else np.nan
            columns[name] = np.full(count, null, object if kind == "string" else np.float32)
            # Of text `np.ma.filled` would make another null than the one that it is given.
            gaps = np.ma.getmaskarray(values)
            columns[name][places] = np.where(gaps, null, np.ma.getdata(values))
        return events

    def _scored(
        self,
        view: RecipeView,
        columns: dict[str, NDArray[Any]],
        events: dict[str, Moments],
        count: int,
    ) -> Moments:
        """The anomaly scores of rows that are true after the detector's fit; gives their events."""
        (name,) = view.features
        scores = columns[name] = np.full(count, np.nan, np.float32)
        found = np.full(count, NEVER, np.int64)
        if self._detector and self.recipe.detector:
            of_windows = events[self.recipe.detector.view]
            scored = of_windows > self._detector.fit_end.timestamp() * _SECOND
            found[scored] = of_windows[scored]
            scores[scored] = self._detector.score(
                {feature: columns[feature][scored] for feature in self._detector.features}
            )
        return found

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Forget whatever is done in the block, and say what DuckDB's errors mean."""
        self._connection.execute("BEGIN")
        try:
            yield
        except (duckdb.OutOfRangeException, duckdb.ConversionException) as err:
            raise InputError(
                "a statistic of the readings is too large for a number; send readings in the "
                "sensors' units"
            ) from err
        except duckdb.OutOfMemoryException as err:
            raise InputError(
                "the readings take more memory than a request may have; send fewer machines at once"
            ) from err
        except duckdb.Error as err:
            raise MillwrightError(
                f"features cannot be computed from the readings: {type(err).__name__}; ask about "
                "machines that are in the store"
            ) from err
        finally:
            self._connection.execute("ROLLBACK")


def _connected() -> duckdb.DuckDBPyConnection:
    """A database in memory that can reach no file, no network and no extension."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "memory_limit": _MEMORY,
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        },
    )
    for setting in _SETTINGS:
        connection.execute(setting)
    return connection


def _tables(recipe: Recipe) -> Iterator[str]:
    """SQL that makes the empty tables that the statements read."""
    for name, columns in recipe.tables.items():
        typed = ", ".join(f"{quoted(column)} {kind}" for column, kind in columns.items())
        yield f"CREATE TABLE {name} ({typed})"
    yield f"CREATE TABLE moments (machine_id VARCHAR, {quoted(_AS_OF)} BIGINT)"
    for name in ("readings", "asked"):
        yield f"CREATE TABLE {name} AS FROM ({recipe.readings}) LIMIT 0"


def _prepared(recipe: Recipe, views: Sequence[RecipeView]) -> Iterator[str]:
    """SQL that prepares the statements: planning them takes longer than running them.

    Of a machine only the newest step counts that was known by then, and what its windows hold.
    """
    step, as_of = recipe.step * _SECOND, quoted(_AS_OF)
    yield (
        f"PREPARE fill_readings AS INSERT INTO readings WITH made AS MATERIALIZED "
        f"({recipe.readings}), newest AS (SELECT machine_id, max(step) AS newest FROM made "
        f"JOIN moments USING (machine_id) WHERE first_known * {step} <= {as_of} "
        "GROUP BY machine_id) SELECT made.* FROM made JOIN newest USING (machine_id) "
        f"WHERE step <= newest AND step > newest - {recipe.reach} "
        "ORDER BY machine_id, step, known"
    )
    yield (
        "PREPARE fill_asked AS INSERT INTO asked FROM readings "
        "QUALIFY step = max(step) OVER (PARTITION BY machine_id)"
    )
    for place, view in enumerate(views):
        features = ", ".join(
            f"{quoted(name)}::{_SQL_TYPES[kind]} AS {quoted(name)}"
            for name, kind in view.features.items()
        )
        yield (
            f"PREPARE view_{place} AS SELECT machine_id::BIGINT AS {quoted(_PLACE)}, "
            f"epoch_us(event_timestamp) AS {quoted(_EVENT)}, {features} FROM ({view.sql}) "
            "JOIN moments USING (machine_id) "
            f"WHERE greatest(epoch_us(event_timestamp), epoch_us(created_timestamp)) <= {as_of} "
            "QUALIFY row_number() OVER (PARTITION BY machine_id "
            "ORDER BY event_timestamp DESC, created_timestamp DESC) = 1"
        )


def _detector(recipe: Recipe, folder: Path | None) -> detectors.Detector | None:
    """The detector that the recipe names; None where it names none."""
    if recipe.detector is None:
        return None
    version = recipe.detector.version
    found = detectors.load(folder) if folder else None
    if found is None or found.version != version:
        raise ReleaseError(
            f"the recipe of fleet '{recipe.fleet}' scores by anomaly detector {version}, and there "
            f"is {found.version if found else 'none'} in {folder}; train again"
        )
    return found
