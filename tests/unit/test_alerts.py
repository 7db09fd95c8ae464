from datetime import UTC, datetime

import pytest

from millwright.alerts import Alert, of_run

NOW = datetime(2025, 3, 30, 12, tzinfo=UTC)
RUN = {"pipeline": "training", "environment": "staging", "fleet": "mill", "status": "done"}
INGESTED = {
    "refused": 1_203,
    "reasons": {"no machine": 1_200, "future": 3},
    "quarantine": ["/q/telemetry-1.parquet", "/q/errors-2.parquet"],
}
TRAINED = {
    "scores": {"failures": 130, "failures_caught": 116, "false_alarms_per_machine_month": 0.5219},
    "gate": {"passed": True, "failures": []},
    "model": {"name": "mill_failure", "version": 3, "alias": "champion"},
    "release": "/r/3",
    "report": "/r/model-v3.html",
}


def alert(**changes: object) -> Alert:
    (only,) = of_run(RUN | changes, NOW)
    return only


def test_a_promoted_model_is_told_with_its_figures():
    said = alert(status="promoted", **TRAINED)
    assert (said.time, said.environment, said.fleet) == (NOW, "staging", "mill")
    assert (said.pipeline, said.status) == ("training", "promoted")
    assert said.text == (
        "training of fleet mill: mill_failure version 3 is released; 116 of 130 failures caught, "
        "0.52 false alarms a machine and month"
    )
    assert said.details == ("release: /r/3", "report: /r/model-v3.html")


def test_a_refused_model_is_told_with_every_reason_of_the_gate():
    gate = {"passed": False, "failures": ["failures is 3 and must be at least 10", "cost is high"]}
    said = alert(status="refused", **TRAINED | {"gate": gate, "release": None})
    assert said.status == "refused"
    assert said.text == "training of fleet mill: mill_failure version 3 did not pass the gate"
    assert said.details == (*gate["failures"], "report: /r/model-v3.html")


def test_a_failure_is_told_in_one_line_with_the_rest_as_details():
    said = alert(pipeline="features", status="failed", error="no disk\n\n left on a\nleft on b")
    assert said.text == "features of fleet mill failed: no disk"
    assert said.details == (" left on a", "left on b")
    assert said.message == "features of fleet mill failed: no disk\n-  left on a\n- left on b"


@pytest.mark.parametrize("nothing", [{}, {"error": ""}, {"error": "\n"}])
def test_a_failure_without_words_is_still_told(nothing):
    assert alert(status="failed", **nothing).text.startswith("training of fleet mill failed: ")


def test_passwords_of_urls_are_left_out():
    error = "postgresql://me:s3:cr@t@host/a\nredis://:s3:cr@t@host:6379\nhttps://s3cr@host"
    said = alert(status="failed", error=error)
    assert said.text.endswith("failed: postgresql://me:***@host/a")
    assert said.details == ("redis://:***@host:6379", "https://***@host")


def test_rows_in_quarantine_are_told_with_their_reasons_and_places():
    said = alert(pipeline="ingest", status="refused", **INGESTED)
    assert said.status == "refused"
    assert said.text == "ingest of fleet mill: 1,203 rows are in quarantine"
    assert said.details == (
        "1,200 no machine",
        "3 future",
        "see /q/telemetry-1.parquet",
        "see /q/errors-2.parquet",
    )


@pytest.mark.parametrize("rest", [{"status": "promoted", **TRAINED}, {"status": "failed"}])
def test_a_run_that_took_in_bad_rows_on_its_way_tells_of_both(rest):
    rows, end = of_run(RUN | INGESTED | rest, NOW)
    assert (rows.pipeline, rows.status) == ("ingest", "refused")
    assert (end.pipeline, end.status) == ("training", rest["status"])


def test_a_fleet_of_which_nothing_could_be_predicted_is_told_with_the_way_out():
    said = alert(pipeline="inference", status="refused", reason="all stale; bring newer data")
    assert said.text == "inference of fleet mill: no machine could be predicted"
    assert (said.pipeline, said.details) == ("inference", ("all stale; bring newer data",))


@pytest.mark.parametrize("pipeline", ["ingest", "features", "inference"])
def test_a_run_that_only_did_its_work_gives_no_alert(pipeline):
    assert of_run(RUN | {"pipeline": pipeline, "refused": 0}, NOW) == ()
