"""A whole fleet predicted: the same as one by one, ranked, and null where nothing is known."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import inferred
import numpy as np
import pyarrow as pa
import pytest
from inferred import AS_OF, FLEET

from millwright import run_options
from millwright.errors import ConfigurationError
from millwright.inference import batch, fleets
from millwright.inference.settings import Inference
from millwright.inference.table import PREDICTIONS, of_frame, stamp
from millwright.release import Release
from millwright.serving.answers import expected_cost, reasons
from millwright.serving.plan import MistypedError, Plan
from millwright.serving.policy import Policy, judged
from millwright.serving.predictions import OUTCOMES, micros
from millwright.serving.routes import Loaded
from millwright.serving.rows import MISSING, NEVER, PRESENT, STALE, FeatureRows

HOUR = 3_600_000_000
MACHINES = [f"m{number:02}" for number in range(40)]


class Plant:
    """A fleet in memory: a third of the machines are whole, the others stale, late or unknown."""

    as_of = moment = AS_OF
    policy = Policy()

    def __init__(
        self, release: Release, together: int = 1000, source: fleets.Source = "online"
    ) -> None:
        self.plan, self.together, self.source = Plan(release.manifest.views), together, source
        chance = np.random.default_rng(5)
        self.values = chance.standard_normal((len(MACHINES), len(self.plan.numbers)), np.float32)
        self.odd: Sequence[str] = ()
        self.values[7] = self.values[3]  # of equal machines the first by name comes first

    def machines(self) -> list[str]:
        return MACHINES

    def rows(self, machines: Sequence[str]) -> FeatureRows:
        if odd := [machine for machine in machines if machine in self.odd]:
            raise MistypedError(f"what there is of {odd[0]} is no row")
        places = [MACHINES.index(machine) for machine in machines]
        states = np.full((len(places), len(self.plan.names)), PRESENT, np.int8)
        events = np.full(states.shape, micros(AS_OF) - HOUR)
        events[:, 0] -= HOUR
        for row, place in enumerate(places):
            if place % 5 == 4:
                states[row, self.plan.timed] = STALE
                events[row, self.plan.timed] -= 90 * HOUR
            if place % 10 == 8:
                states[row], events[row] = MISSING, NEVER
        numbers = {name: self.values[places, i] for i, (_, name) in enumerate(self.plan.numbers)}
        texts = {name: np.full(len(places), "model2", object) for _, name in self.plan.texts}
        return FeatureRows({**numbers, **texts}, events, states, self.plan.names)


@pytest.fixture(scope="module")
def release() -> Release:
    return inferred.release()


def predicted(plant: Plant, release: Release, most: int = 4) -> pa.Table:
    decided = Inference(work_list=most, reasons=2)
    found, left_out = batch.predict(release, plant, decided, "run-1", lambda *_: None)
    assert left_out == len(plant.odd)
    return found


@pytest.fixture(scope="module")
def found(release: Release) -> pa.Table:
    return predicted(Plant(release), release)


def test_every_machine_has_one_row_and_the_work_that_saves_most_comes_first(
    found: pa.Table,
) -> None:
    assert sorted(found["machine_id"].to_pylist()) == MACHINES
    ranks, savings = found["rank"].to_pylist(), found["expected_saving"].to_pylist()
    known = [saving for saving in savings if saving is not None]
    assert len(known) == 28
    assert ranks == [*range(1, 29), *[None] * 12]
    assert known == sorted(known, reverse=True)
    order = found["machine_id"].to_pylist()
    assert order.index("m07") == order.index("m03") + 1
    assert order[28:] == sorted(order[28:])


def test_what_could_not_be_predicted_is_null_and_its_status_says_why(found: pa.Table) -> None:
    rows = {row["machine_id"]: row for row in found.to_pylist()}
    assert [rows[each]["status"] for each in ("m00", "m04", "m08")] == ["ok", "stale", "unknown"]
    for machine in ("m04", "m08"):
        row = rows[machine]
        names = ("rank", "probability", "alarm", "expected_cost", "expected_saving", "reasons")
        assert all(row[name] is None for name in names)
    assert rows["m00"]["feature_age"] == 7200
    assert rows["m00"]["readings_at"] == AS_OF - timedelta(hours=1)
    assert rows["m04"]["readings_at"] == AS_OF - timedelta(hours=91)
    assert rows["m08"]["readings_at"] is rows["m08"]["feature_age"] is None


def test_a_saving_is_the_failure_that_is_avoided_less_what_acting_costs(found: pa.Table) -> None:
    costs = FLEET.costs
    for row in found.to_pylist()[:28]:
        probability, alarm = row["probability"], row["alarm"]
        acting = probability * costs.planned_repair + (1 - probability) * costs.inspection
        assert row["expected_saving"] == pytest.approx(probability * costs.failure - acting)
        assert row["alarm"] is (probability >= 0.2)
        assert row["expected_cost"] == expected_cost(probability, alarm, costs)


def test_however_few_machines_are_read_at_once_the_table_is_the_same(
    release: Release, found: pa.Table
) -> None:
    for together in (1, 7):
        again = predicted(Plant(release, together), release)
        assert again.drop(["computed_at"]).equals(found.drop(["computed_at"]))


def test_machines_that_cannot_be_read_are_left_out_and_the_others_stay_as_they_are(
    release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    every = predicted(Plant(release), release, most=40).to_pylist()
    expected = {row["machine_id"]: {**row, "rank": 0, "computed_at": 0} for row in every}
    for together in (1, 7, 1000):
        plant = Plant(release, together)
        plant.odd = ["m03", "m14", "m15"]
        found = predicted(plant, release, most=40).to_pylist()
        assert len(found) == len(MACHINES) - 3
        for row in found:
            assert {**row, "rank": 0, "computed_at": 0} == expected[row["machine_id"]]
    told = "3 of 40 machines are left out, for they cannot be read; of the first: what there is"
    assert [each.getMessage() for each in caplog.records] == [f"{told} of m03 is no row"] * 3


def test_a_fleet_of_which_nothing_can_be_read_is_not_predicted(release: Release) -> None:
    plant = Plant(release, 7)
    plant.odd = MACHINES
    with pytest.raises(MistypedError, match="what there is of m00 is no row"):
        predicted(plant, release)


def test_those_on_the_work_list_have_the_reasons_that_the_service_gives(
    release: Release, found: pa.Table
) -> None:
    plant = Plant(release)
    alarms = found.filter(found["alarm"])
    assert len(alarms) > 4
    assert found["reasons"].null_count == len(found) - 4
    foremost = found.slice(0, 4)
    rows = plant.rows(foremost["machine_id"].to_pylist())
    matrix = release.manifest.encoder.encode_columns(rows.columns.__getitem__, 4)
    expected = reasons(Loaded(release, ""), matrix, 2)
    assert [json.loads(each) for each in foremost["reasons"].to_pylist()] == expected


def test_a_fleet_without_an_alarm_has_no_reasons() -> None:
    calm = inferred.release(threshold=1.0)
    assert predicted(Plant(calm), calm)["reasons"].null_count == len(MACHINES)


def test_of_the_past_no_ages_are_told(release: Release) -> None:
    found = predicted(Plant(release, source="offline"), release)
    assert found["readings_at"].null_count == found["feature_age"].null_count == len(MACHINES)


def test_a_table_survives_being_a_frame(found: pa.Table) -> None:
    assert of_frame(found.to_pandas()).equals(found)
    assert found.schema.equals(PREDICTIONS)


def test_now_is_the_end_of_the_last_full_step() -> None:
    minute = FLEET.model_copy(update={"step": timedelta(minutes=15)})
    now = datetime(2025, 5, 1, 10, 59, 59, 999_999, tzinfo=UTC)
    assert fleets.last_step(FLEET, now) == datetime(2025, 5, 1, 10, tzinfo=UTC)
    assert fleets.last_step(minute, now) == datetime(2025, 5, 1, 10, 45, tzinfo=UTC)
    assert fleets.last_step(FLEET, datetime(2025, 5, 1, 11, tzinfo=UTC)).hour == 11


@pytest.mark.parametrize(
    ("missing", "statuses"),
    [("degrade", ["ok", "degraded", "missing", "unknown"]),
     ("refuse", ["ok", "missing", "missing", "unknown"])],
)  # fmt: skip
def test_a_view_of_which_a_join_gives_nothing_counts_as_missing(
    release: Release, missing: Literal["degrade", "refuse"], statuses: list[str]
) -> None:
    plan = Plan(release.manifest.views)
    columns: dict[str, Any] = {
        name: pa.array([1.0, 1.0, None, None], pa.float32()) for _, name in plan.numbers
    }
    columns["model"] = pa.array(["model1", None, "model1", None])
    columns["age"] = pa.array([None, float("nan"), 18.0, None], pa.float32())
    rows = fleets.joined_rows(pa.table(columns), plan, micros(AS_OF))
    outcomes = judged(rows, plan, Policy(missing=missing))
    assert [OUTCOMES[each] for each in outcomes] == statuses
    assert rows.columns["model"].tolist() == ["model1", None, "model1", None]
    assert np.isnan(rows.columns["age"]).tolist() == [True, True, False, True]


def test_times_in_names_of_files_are_exact_and_can_be_read_again() -> None:
    for time in (AS_OF, AS_OF + timedelta(microseconds=500)):
        assert datetime.fromisoformat(stamp(time)) == time
    assert stamp(AS_OF) == "20251231T000000Z"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pipeline", "inference", "--as-of", "2999-01-01T00:00Z"], "--as-of 2999-01-01T00:00:00"
         "+00:00 lies in the future"),
        (["--pipeline", "training", "--as-of", "2025-01-01T00:00Z"], "--as-of says when to predict "
         "for: --pipeline inference"),
        (["--pipeline", "training", "--release", "v3"], "--pipeline deployment, or inference"),
        (["--pipeline", "inference", "--data", "x"], "inference takes no data; leave --data out"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said.replace("+", r"\+")):
        run_options.check(run_options.parser().parse_args(words), [])


def test_a_time_and_a_release_go_with_inference() -> None:
    words = ["--pipeline", "inference", "--as-of", "2025-01-01T00:00Z", "--release", "v3"]
    run_options.check(run_options.parser().parse_args(words), [])
