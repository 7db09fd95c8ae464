"""Features of readings that are sent are those that training would have had.

A fleet is simulated, with late readings and corrections, and its feature tables are made once. Then
the service's engine gets what was known of a machine at some time, as a request, and Feast's
historical join says what training sees of that time.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

import duckdb
import numpy as np
import pandas as pd
import pytest
from sent_plant import HOUR, SentPlant, chunks, new_sent_plant, text

from millwright.recipe import Recipe
from millwright.serving.readings import ReadingsEngine
from millwright.serving.readings_request import ReadingsRequest
from millwright.serving.rows import NEVER, FeatureRows, newest
from millwright.serving.sent import Readings, checked
from millwright.sql import parquet
from millwright.views import feature_views, published

pytestmark = pytest.mark.filterwarnings("ignore:.*is an experimental feature:RuntimeWarning")
NOW = datetime(2025, 6, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
DAYS, MACHINES, PAIRS = 24, 12, 500

Pair = tuple[str, datetime]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentPlant]:
    with pytest.MonkeyPatch.context() as patch:
        yield new_sent_plant(tmp_path_factory.mktemp("sent"), patch, MACHINES, DAYS)


@pytest.fixture(scope="module")
def engine(plant: SentPlant) -> ReadingsEngine:
    return plant.engine()


@pytest.fixture(scope="module")
def pairs(plant: SentPlant) -> list[Pair]:
    """Machines and times: anywhere, at the ends of steps, and around what became known late."""
    random, rows = Random(1), plant.raw["telemetry"]
    late = rows[rows["received"] - rows["timestamp"] > HOUR].to_dict("records")
    start = rows["timestamp"].min().to_pydatetime()
    found = []
    for place in range(PAIRS):
        machine = str(random.randint(1, MACHINES))
        time = start + timedelta(hours=3) + random.random() * (DAYS + 2.9) * 24 * HOUR
        if place % 3 == 1:
            time = time.replace(minute=0, second=0, microsecond=0) - place % 2 * TICK
        elif place % 3 == 2:
            row = random.choice(late)
            machine, known = row["machine_id"], row["received"].to_pydatetime()
            # Known within the step, and from its end on.
            ends = known.replace(minute=0, second=0, microsecond=0) + HOUR
            time = random.choice((known, known - TICK, ends, ends - TICK, ends + HOUR))
        found.append((machine, time))
    return found


def asked(plant: SentPlant, *pairs: Pair) -> Readings:
    """What was known of one machine after another, each at its time, through requests."""
    parts = []
    for machine, as_of in pairs:
        body = json.dumps({"as_of": text(as_of), "machines": [plant.told(machine, as_of)]})
        parts.append(checked(ReadingsRequest.model_validate_json(body), plant.recipe, NOW))
    return joined(parts)


def joined(parts: list[Readings]) -> Readings:
    """Several requests as one: a machine may be asked about at two times."""
    import pyarrow as pa

    def moved(table: pa.Table, place: int) -> pa.Table:
        names = pa.array([str(place)] * table.num_rows, pa.string())
        return table.set_column(table.column_names.index("machine_id"), "machine_id", names)

    return Readings(
        machines=tuple(part.machines[0] for part in parts),
        as_of=np.concatenate([part.as_of for part in parts]),
        first=np.concatenate([part.first for part in parts]),
        tables={
            name: pa.concat_tables([moved(p.tables[name], i) for i, p in enumerate(parts)])
            for name in parts[0].tables
        },
        told={name: np.concatenate([p.told[name] for p in parts]) for name in parts[0].told},
    )


@pytest.fixture(scope="module")
def computed(plant: SentPlant, engine: ReadingsEngine, pairs: list[Pair]) -> FeatureRows:
    parts = [engine.features(asked(plant, *chunk)) for chunk in chunks(pairs, 100)]
    return FeatureRows(
        {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns},
        np.concatenate([part.events for part in parts]),
        np.concatenate([part.states for part in parts]),
        parts[0].views,
    )


def test_every_feature_is_what_training_would_have_had(
    plant: SentPlant, pairs: list[Pair], computed: FeatureRows
) -> None:
    machines, times = zip(*pairs, strict=True)
    trained = plant.history(machines, times)
    assert set(computed.columns) == set(trained.column_names) - {"machine_id", "event_timestamp"}
    nulls = 0
    for name, found in computed.columns.items():
        expected = trained[name].to_pylist()
        if found.dtype == object:
            assert found.tolist() == expected
            continue
        values = np.array([np.nan if v is None else v for v in expected], np.float32)
        assert np.array_equal(np.isnan(found), np.isnan(values)), name
        # A sum in another order differs in the last bit of a double, and hardly ever of a float.
        assert np.allclose(found, values, rtol=1e-6, atol=1e-9, equal_nan=True), name
        assert np.mean((found == values) | np.isnan(values)) > 0.999, name
        nulls += int(np.isnan(values).sum())
    assert nulls  # stale rows, components that were never replaced, times before any score
    assert np.isfinite(computed.columns["anomaly_score"]).sum() > PAIRS / 4


def test_every_event_is_that_of_the_newest_row_known_by_then(
    plant: SentPlant, pairs: list[Pair], computed: FeatureRows
) -> None:
    cutoffs = pd.DataFrame(pairs, columns=["machine_id", "cutoff"])
    cutoffs["place"] = range(len(cutoffs))
    folder = plant.project.state.offline("simulated")
    corrected = 0
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("cutoffs", cutoffs)
        for view in feature_views(plant.project.fleet):
            rows = parquet(sorted((folder / view.name).glob("*.parquet")))
            found = connection.execute(
                "SELECT place, epoch_us(max(event_timestamp)), "
                "bool_or(created_timestamp > event_timestamp) "
                f"FROM cutoffs JOIN {rows} USING (machine_id) "
                "WHERE event_timestamp <= cutoff AND created_timestamp <= cutoff GROUP BY place"
            ).fetchall()
            expected = np.full(len(pairs), NEVER)
            for place, event, late in found:
                expected[place] = event
                corrected += late
            sent = computed.events[
                :, computed.views.index(published(plant.project.fleet, view.name))
            ]
            # What is sent reaches back no further than the time to live.
            if view.time_to_live:
                life = view.time_to_live // TICK
                as_of = np.array([round(time.timestamp() * 1e6) for _, time in pairs])
                old = (expected != NEVER) & (expected < as_of - life)
                assert np.all((sent[old] == NEVER) | (sent[old] == expected[old]))
                sent, expected = sent[~old], expected[~old]
            assert np.array_equal(sent, expected), view.name
    assert corrected


def test_one_machine_alone_is_computed_as_among_others(
    plant: SentPlant, engine: ReadingsEngine, pairs: list[Pair], computed: FeatureRows
) -> None:
    for place in range(0, PAIRS, 41):
        alone = engine.features(asked(plant, pairs[place]))
        assert np.array_equal(alone.events[0], computed.events[place])
        for name, values in alone.columns.items():
            other = computed.columns[name][place]
            assert values[0] == other or (values[0] != values[0] and other != other), name


def test_nothing_of_a_request_is_left_for_the_next(
    plant: SentPlant, engine: ReadingsEngine
) -> None:
    time = datetime(2025, 1, 20, 10, 30, tzinfo=UTC)
    request = {"as_of": text(time), "machines": [plant.told("1", time)]}
    first = features(engine, plant.recipe, request)
    features(engine, plant.recipe, {**request, "machines": [plant.told("2", time)]})
    assert_same(features(engine, plant.recipe, request), first)


def features(engine: ReadingsEngine, recipe: Recipe, request: dict) -> FeatureRows:
    sent = ReadingsRequest.model_validate_json(json.dumps(request))
    return engine.features(checked(sent, recipe, NOW))


def assert_same(found: FeatureRows, expected: FeatureRows) -> None:
    assert np.array_equal(found.events, expected.events)
    for name, values in expected.columns.items():
        if values.dtype == object:
            assert found.columns[name].tolist() == values.tolist()
        else:
            assert np.array_equal(found.columns[name], values, equal_nan=True), name


def test_what_was_not_told_is_missing_and_can_be_had_from_another(
    plant: SentPlant, engine: ReadingsEngine
) -> None:
    time = datetime(2025, 1, 20, 10, 30, tzinfo=UTC)
    told = plant.told("3", time)
    whole = features(engine, plant.recipe, {"as_of": text(time), "machines": [told]})
    little = {name: told[name] for name in ("machine", "telemetry")}
    part = features(engine, plant.recipe, {"as_of": text(time), "machines": [little]})

    gone = [view for view, event in zip(part.views, part.events[0], strict=True) if event == NEVER]
    names = ("error_counts_24h", "component_age", "machine_attributes")
    assert gone == [f"simulated_{name}" for name in names]
    assert np.isnan(part.columns["error1_count_24h"][0])
    assert part.columns["model"][0] is None
    assert_same(newest(part, whole, plant.recipe.features), whole)


def test_that_there_was_no_error_is_something_told(
    plant: SentPlant, engine: ReadingsEngine
) -> None:
    time = datetime(2025, 1, 20, 10, 30, tzinfo=UTC)
    told = {**plant.told("3", time), "errors": []}
    found = features(engine, plant.recipe, {"as_of": text(time), "machines": [told]})
    assert found.columns["error1_count_24h"][0] == 0


def test_a_recipe_is_the_same_after_a_round_through_json(plant: SentPlant) -> None:
    assert Recipe.model_validate_json(plant.recipe.model_dump_json()) == plant.recipe


LOADED = """
import sys
from pathlib import Path
from millwright.recipe import Recipe
from millwright.serving import readings, readings_request, rows, sent
heavy = ("ibis", "pandas", "feast", "zenml", "mlflow", "sklearn", "skops", "scipy")
recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_bytes())
engine = readings.ReadingsEngine(recipe, Path(sys.argv[2]))
print([name for name in heavy if name in sys.modules])
engine.warm()
never = ("ibis", "feast", "zenml", "mlflow")
print([name for name in never if name in sys.modules], "sklearn" in sys.modules)
"""


def test_the_service_loads_no_library_of_training_to_compute_features(
    plant: SentPlant, tmp_path
) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(plant.recipe.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(path), str(plant.detector)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[]", "[] True"], done.stderr
