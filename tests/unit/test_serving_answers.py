"""What was scored, as it is answered."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
import xgboost
from serving_parts import ENCODER, HOUR, LIFE, NOW, ROW, VIEWS, Memory, loaded, whole

from millwright.fleet import Costs
from millwright.serving.answers import expected_cost, iso, written
from millwright.serving.policy import Policy
from millwright.serving.predictions import PredictionAnswer, micros
from millwright.serving.routes import Loaded, Routes
from millwright.serving.scoring import Question, Scoring
from millwright.traffic import Canary, Traffic

COSTS = Costs(failure=20_000, planned_repair=4_000, inspection=500)
STORE = Memory({
    "whole": whole(),
    "hot": ({**ROW, "heat": float("inf"), "age": -float("inf")}, whole()[1]),
    "gap": (ROW, {"step": NOW - HOUR, "window": NOW - LIFE - 1, "attributes": 0}),
    "future": (ROW, {"step": NOW - 1, "window": NOW + 1_500_000, "attributes": NOW}),
})  # fmt: skip
CANARY = Canary(version=2, percent=50)
SOME = [f"m{number}" for number in range(10)]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Loaded]:
    folder = tmp_path_factory.mktemp("releases")
    return {version: loaded(folder, version, threshold=version / 10) for version in (1, 2, 3)}


def answered(routes: Routes, *machines: str, explain: int = 0, tag: str | None = None) -> Any:
    class Used:
        pass

    used: Any = Used()
    used.routes = routes
    scoring = Scoring(used, STORE, Policy(), lambda _: None)
    (parts,) = scoring.score([Question(machines, NOW, tag=tag)])
    content = written(parts, NOW, explain)
    said = json.loads(content)
    assert PredictionAnswer.model_validate_json(content).model_dump(mode="json") == said
    return said


@pytest.mark.parametrize(
    ("probability", "alarm", "cost"),
    [
        (0.0, False, 0), (0.0, True, 500), (1.0, True, 4_000), (1.0, False, 20_000),
        (0.25, False, 5_000), (0.25, True, 1_375), (0.5, True, 2_250), (0.1, False, 2_000),
    ],
)  # fmt: skip
def test_what_a_decision_costs_on_average(probability: float, alarm: bool, cost: float) -> None:
    """An alarm: p 4,000 + (1 - p) 500. None: p 20,000."""
    assert expected_cost(probability, alarm, COSTS) == pytest.approx(cost)


def test_an_answer_has_what_each_machine_was_told(releases: dict[int, Loaded]) -> None:
    said = answered(Routes(releases[1]), "gap", "nobody", "whole")
    assert (said["model"], said["currency"]) == ("plant_failure", "EUR")
    assert said["as_of"] == "2025-10-09T08:53:20Z"
    assert said["releases"] == [
        {"version": 1, "feature_service": "plant_failure_v1", "threshold": 0.1}
    ]
    gap, nobody, full = said["predictions"]
    assert [each["machine"] for each in said["predictions"]] == ["gap", "nobody", "whole"]
    assert [each["status"] for each in said["predictions"]] == ["degraded", "unknown", "ok"]
    for each in (gap, full):
        assert each["alarm"] == (each["probability"] >= 0.1)
        cost = expected_cost(each["probability"], each["alarm"], COSTS)
        assert each["expected_cost"] == cost
    assert {nobody[name] for name in ("probability", "alarm", "expected_cost")} == {None}
    assert gap["views"] == {
        "step": {"status": "present", "event_time": "2025-10-09T07:53:20Z", "age": 3600.0},
        "window": {
            "status": "stale", "event_time": "2025-10-07T08:53:19.999999Z", "age": 172800.000001,
        },
        "attributes": {"status": "present", "event_time": "1970-01-01T00:00:00Z", "age": NOW / 1e6},
    }  # fmt: skip
    missing = {"status": "missing", "event_time": None, "age": None}
    assert nobody["views"] == {view["name"]: missing for view in VIEWS}


def test_a_row_of_the_future_is_missing_and_has_a_negative_age(
    releases: dict[int, Loaded],
) -> None:
    (future,) = answered(Routes(releases[1]), "future")["predictions"]
    assert future["views"]["window"] == {
        "status": "missing", "event_time": "2025-10-09T08:53:21.500000Z", "age": -1.5,
    }  # fmt: skip


def test_releases_are_told_in_the_order_in_which_they_first_answer(
    releases: dict[int, Loaded],
) -> None:
    routes = Routes(
        releases[1], releases[2], tags={"b": releases[2]}, shares=Traffic(canary=CANARY)
    )
    said = answered(routes, *SOME)
    versions = [2 if CANARY.takes(machine) else 1 for machine in SOME]
    assert [each["version"] for each in said["predictions"]] == versions
    assert [each["role"] for each in said["predictions"]] == [
        "canary" if version == 2 else "champion" for version in versions
    ]
    assert [each["version"] for each in said["releases"]] == list(dict.fromkeys(versions))
    assert [each["threshold"] for each in said["releases"]] == [
        version / 10 for version in dict.fromkeys(versions)
    ]
    tagged = answered(routes, *SOME, tag="b")
    assert {(each["version"], each["role"]) for each in tagged["predictions"]} == {(2, "b")}
    assert len(tagged["releases"]) == 1


def test_reasons_are_xgboosts_shap_values_in_log_odds(releases: dict[int, Loaded]) -> None:
    booster, columns = releases[1].release.booster, ENCODER.columns
    values = {**ROW, "model=m1": 0.0, "model=m2": 1.0}
    matrix = np.array([[values[column] for column in columns]], np.float32)
    shap = booster.predict(xgboost.DMatrix(matrix), pred_contribs=True)[0]
    (full,) = answered(Routes(releases[1]), "whole", explain=20)["predictions"]
    found = {each["feature"]: each for each in full["contributions"]}
    assert {*found} == {*columns}
    for place, column in enumerate(columns):
        assert found[column]["value"] == pytest.approx(values[column])
        assert found[column]["contribution"] == pytest.approx(float(shap[place]), abs=1e-7)
    moved = sum(each["contribution"] for each in full["contributions"]) + float(shap[-1])
    assert 1 / (1 + np.exp(-moved)) == pytest.approx(full["probability"], abs=1e-6)


def test_reasons_are_the_largest_ones_first_and_as_many_as_were_asked_for(
    releases: dict[int, Loaded],
) -> None:
    routes = Routes(releases[1], releases[2], shares=Traffic(canary=CANARY))
    every = answered(routes, "whole", "gap", "nobody", explain=20)["predictions"]
    few = answered(routes, "whole", "gap", "nobody", explain=2)["predictions"]
    for all_of_it, some in zip(every[:2], few[:2], strict=True):
        sizes = [abs(each["contribution"]) for each in all_of_it["contributions"]]
        assert sizes == sorted(sizes, reverse=True)
        assert some["contributions"] == all_of_it["contributions"][:2]
    assert every[2]["contributions"] is None
    stale = {each["feature"]: each["value"] for each in every[1]["contributions"]}
    assert stale["heat_mean"] is None
    assert stale["heat"] == ROW["heat"]


def test_what_is_infinite_is_predicted_and_explained_and_no_number_in_json(
    releases: dict[int, Loaded],
) -> None:
    (found,) = answered(Routes(releases[1]), "hot", explain=20)["predictions"]
    values = {each["feature"]: each["value"] for each in found["contributions"]}
    assert 0 < found["probability"] < 1
    assert (values["heat"], values["noise"]) == (None, ROW["noise"])


def test_without_a_wish_for_reasons_there_are_none(releases: dict[int, Loaded]) -> None:
    (full,) = answered(Routes(releases[1]), "whole")["predictions"]
    assert full["contributions"] is None


def test_times_are_written_in_utc_to_the_microsecond() -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    moment = datetime(2025, 10, 9, 14, 23, 20, 7, tzinfo=east)
    assert iso(micros(moment)) == "2025-10-09T08:53:20.000007Z"
    assert iso(-1) == "1969-12-31T23:59:59.999999Z"
    assert micros(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1


def test_a_name_of_any_signs_is_written_as_it_was_asked(releases: dict[int, Loaded]) -> None:
    names = ['"quoted"', "größe\n", "新しい\x00", "</script>"]
    said = answered(Routes(releases[1]), *names)
    assert [each["machine"] for each in said["predictions"]] == names
