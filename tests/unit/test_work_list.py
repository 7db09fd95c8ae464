"""What the planner gets: a page and a file for a spreadsheet, whatever machines are called."""

import csv
from pathlib import Path
from typing import Any

import inferred
import pyarrow as pa
import pytest
from inferred import AS_OF, FLEET, row

from millwright.inference import outcome, work_list
from millwright.inference.settings import Inference
from millwright.inference.wording import in_words, words_of
from millwright.inference.work_list import WorkList
from millwright.project import Project, Training
from millwright.settings import State, load_settings

QUIET = row("calm", 9, alarm=False, probability=0.01, expected_saving=-300.0, reasons=None)


def work(*rows: dict[str, Any], most: int = 50, left_out: int = 0, **changes: Any) -> WorkList:
    fleet = FLEET.model_copy(update=changes)
    decided = Inference(work_list=most, reasons=3)
    return WorkList(fleet, inferred.manifest(), inferred.table(*rows), decided, left_out)


def cells(made: WorkList, folder: Path) -> list[dict[str, str]]:
    path = folder / "list.csv"
    work_list.write_csv(made, path)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_list_has_the_machines_with_an_alarm_by_rank_and_no_more_than_is_decided() -> None:
    made = work(QUIET, row("b", 2), row("c", 3), row("gone"), row("a", 1), most=2)
    assert [each["machine_id"] for each in made.rows] == ["a", "b"]
    assert len(made.alarms) == 3
    assert made.statuses == {"ok": 4, "stale": 1}
    assert (made.predicted, made.unpredicted, made.saving) == (4, {"stale": 1}, 15_500)
    page = work_list.page(made)
    assert "only in the table of predictions: 1 machine." in page


def test_a_spreadsheet_gets_every_figure_and_reason(tmp_path: Path) -> None:
    (found,) = cells(work(row("7", 1)), tmp_path)
    assert found == {
        "rank": "1", "machine_id": "7", "status": "ok", "probability": "0.5",
        "expected_saving": "7750.0", "expected_cost": "2250.0", "currency": "EUR",
        "readings_at": "2025-12-31T00:00:00+00:00", "feature_age": "5400.0",
        "as_of": "2025-12-31T00:00:00+00:00", "release": "3",
        "reason_1": "raises the risk: age: 18 years", "reason_2": "", "reason_3": "",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["=1+1", "+1", "-2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"])
def test_no_machine_is_a_formula_in_a_spreadsheet(name: str, tmp_path: Path) -> None:
    (found,) = cells(work(row(name, 1)), tmp_path)
    assert found["machine_id"] == f"'{name}"


@pytest.mark.parametrize("name", ['a"b', "a,b", "a\nb", "ü", "a=b", "<b>", "'"])
def test_other_names_stay_as_they_are(name: str, tmp_path: Path) -> None:
    (found,) = cells(work(row(name, 1)), tmp_path)
    assert found["machine_id"] == name


def test_a_loss_is_a_number_and_no_formula(tmp_path: Path) -> None:
    (found,) = cells(work(row("7", 1, expected_saving=-12.5)), tmp_path)
    assert float(found["expected_saving"]) == -12.5


def test_the_header_is_the_same_without_machines(tmp_path: Path) -> None:
    for made in (work(QUIET), work(row("7", 1))):
        work_list.write_csv(made, tmp_path / "list.csv")
        header = (tmp_path / "list.csv").read_text(encoding="utf-8").split("\n")[0].strip()
        assert header.endswith("as_of,release,reason_1,reason_2,reason_3")


def test_the_page_says_what_to_do_and_why() -> None:
    page = work_list.page(work(row("7", 1, status="degraded"), QUIET))
    for said in (
        "1. 7", "EUR 7,750", "Fails within 24 hours with a probability of <b>50.0 %</b>",
        'style="width: 50.0%"', "readings of 2025-12-31 00:00 UTC", "features up to 1.5 hours old",
        "raises the risk: age: 18 years", "simulated_failure v3", "as of 2025-12-31 00:00 UTC",
        "marked as degraded: 1 machine.",
    ):  # fmt: skip
        assert said in page
    assert "calm" not in page


def test_the_page_escapes_names_and_asks_for_nothing_outside_itself() -> None:
    page = work_list.page(work(row("<script>x()</script>", 1), description="<img src=x>"))
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page


def test_the_page_does_not_take_silence_for_health() -> None:
    page = work_list.page(work(row("a"), row("b", status="unknown")))
    assert "Nothing could be predicted" in page
    assert "Nothing is said of 2 of 2 machines" in page
    assert "stale (1), unknown (1)" in page
    assert "No machine needs anybody" not in page
    assert "No machine needs anybody now" in work_list.page(work(QUIET))


def test_of_the_past_the_page_tells_no_age() -> None:
    past = row("7", 1, source="offline", readings_at=None, feature_age=None)
    page = work_list.page(work(past))
    assert "age of readings is not told" in page
    assert " old" not in page


def test_writing_again_makes_the_same_files(tmp_path: Path) -> None:
    state = State(tmp_path, "local")
    made = work(row("7", 1))
    paths = work_list.write(made, state)
    before = {form: path.read_bytes() for form, path in paths.items()}
    assert work_list.write(made, state) == paths
    assert {form: path.read_bytes() for form, path in paths.items()} == before
    folder = state.reports("simulated")
    assert sorted(path.name for path in folder.iterdir()) == [
        "worklist-20251231T000000Z.csv", "worklist-20251231T000000Z.html",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("feature", "value", "said"),
    [
        ("vibration_mean_24h", 52.34567, "vibration, mean of 24 hours: 52.35 mm/s"),
        ("volt_slope_3h", -0.5, "volt, slope of 3 hours: -0.5"),
        ("error3_count_24h", 2.0, "error3, messages in 24 hours: 2"),
        ("comp2_age", 1234.0, "comp2, since it was replaced: 1,234 hours"),
        ("anomaly_score", 0.5, "unlikeness to healthy readings of 24 hours: 0.5"),
        ("age", None, "age: not known"),
        ("model=model3", 1.0, "model is model3"),
        ("model=model3", 0.0, "model is not model3"),
        ("torque_mean_24h", 3.0, "torque_mean_24h 3"),
    ],
)
def test_a_reason_is_told_in_words(feature: str, value: float | None, said: str) -> None:
    words = words_of(FLEET)
    reason = {"feature": feature, "value": value, "contribution": 0.3}
    assert in_words(reason, words) == f"raises the risk: {said}"
    assert in_words(reason | {"contribution": -0.3}, words) == f"lowers the risk: {said}"


def test_every_column_of_a_model_has_words() -> None:
    columns = set(inferred.manifest().encoder.columns)
    assert {each for each in columns if "=" not in each} <= words_of(FLEET).keys()


def project(folder: Path) -> Project:
    return Project(FLEET, load_settings("local"), State(folder, "local"), Training())


def test_a_run_that_predicts_no_machine_is_refused_with_the_way_out(tmp_path: Path) -> None:
    found = outcome.summarise(work(row("a"), row("b")), project(tmp_path), "there", {})
    assert found["status"] == "refused"
    assert (found["machines"], found["statuses"], found["alarms"]) == (2, {"stale": 2}, 0)
    command = "python run.py --fleet simulated --stack local --pipeline"
    assert found["reason"] == (
        "not one of 2 machines could be predicted (2 stale): the newest features are of "
        f"2025-12-31T00:00:00+00:00; bring newer data: {command} features --data PLACE, or ask "
        f"about that time: {command} inference --as-of 2025-12-31T00:00:00+00:00"
    )
    unknown = outcome.summarise(
        work(row("a", status="unknown", readings_at=None)), project(tmp_path), "there", {}
    )
    assert unknown["reason"].endswith(f"bring new data: {command} features --data PLACE")


def test_machines_and_people_are_told_what_came_out(tmp_path: Path) -> None:
    paths = {form: tmp_path / f"list.{form}" for form in ("csv", "html")}
    found = outcome.summarise(work(row("7", 1), QUIET), project(tmp_path), "there", paths)
    assert found == {
        "status": "done", "reason": "", "as_of": AS_OF.isoformat(), "source": "online",
        "release": str(tmp_path / "local/simulated/releases/v3"), "machines": 2,
        "left_out": 0, "statuses": {"ok": 2}, "alarms": 1, "predictions": "there",
        "worklist": {
            "machines": 1, "expected_saving": 7750.0,
            "csv": str(paths["csv"]), "html": str(paths["html"]),
        },
    }  # fmt: skip
    told = outcome.table(found | {"seconds": 1.5, "peak_memory_mb": 500}, project(tmp_path))
    assert told["machines"] == "2: 2 ok"
    assert told["work list"].startswith("1 machine, EUR 7,750 expected to be saved\n")


def test_machines_that_cannot_be_read_are_told_of_everywhere(tmp_path: Path) -> None:
    made = work(row("7", 1), left_out=2)
    assert "Nothing is said of 2 more machines</b>" in work_list.page(made)
    found = outcome.summarise(made, project(tmp_path), "there", {"csv": tmp_path, "html": tmp_path})
    assert (found["machines"], found["left_out"]) == (1, 2)
    told = outcome.table(found | {"seconds": 1.5, "peak_memory_mb": 500}, project(tmp_path))
    assert told["machines"] == "1: 1 ok; 2 machines left out that cannot be read"


def test_the_order_of_a_table_makes_no_difference() -> None:
    rows = [row(name, rank) for rank, name in enumerate("abcde", start=1)]
    made: list[pa.Table] = [work(*rows).alarms, work(*reversed(rows)).alarms]
    assert made[0].equals(made[1])
