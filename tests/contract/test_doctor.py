"""What the doctor says of an environment that is healthy, damaged and mended; and of real servers.

The environment is made and damaged in a process of its own (`doctor_story.py`), by library calls.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis
import yaml

from millwright.doctor import features, servers
from millwright.doctor.examination import look
from millwright.doctor.findings import Check, Finding, Patient
from millwright.endpoints import SCHEMES, VARIABLES
from millwright.fleet import load_fleet
from millwright.services import schemas
from millwright.settings import REPOSITORY, State, load_settings, process_environment

FOREIGN = ("ZENML_", "MLFLOW_", "FEAST_", "MILLWRIGHT_")
Story = dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one small fleet, empty at first."""
    folder = tmp_path_factory.mktemp("doctor")
    (folder / "fleets").mkdir()
    path = REPOSITORY / "configs" / "fleets" / "simulated.yaml"
    fleet = yaml.safe_load(path.read_text(encoding="utf-8"))
    fleet |= {"name": "small", "test_window": "5d", "anomaly": {"fit_window": "5d"}}
    fleet["simulation"] |= {"machines": 5, "days": 20}
    text = yaml.safe_dump(fleet, sort_keys=False)
    (folder / "fleets" / "small.yaml").write_text(text, encoding="utf-8")
    return folder / "home"


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {
        **kept,
        "MILLWRIGHT_HOME": str(home),
        "MILLWRIGHT_FLEETS": str(home.parent / "fleets"),
        "PYTHONPATH": str(REPOSITORY),
    }


@pytest.fixture(scope="module")
def told(home: Path) -> dict[str, Story]:
    """The whole story; what the libraries take to start is paid for once."""
    path = home.parent / "told.json"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("doctor_story.py")), str(path)],
        env={
            **environment(home),
            **process_environment(State(home, "local")),
            "ZENML_LOGGING_VERBOSITY": "CRITICAL",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    stories: dict[str, Story] = json.loads(path.read_text(encoding="utf-8"))
    return stories


@pytest.fixture(scope="module")
def mended(told: dict[str, Story]) -> Story:
    return told["mended"]


@pytest.fixture(scope="module")
def broken(told: dict[str, Story]) -> Story:
    return told["broken"]


def levels(examined: Story) -> dict[str, str]:
    """The worst that is said of each check but that of the disk, which fills for other reasons."""
    worst: dict[str, str] = {}
    for each in examined["checks"]:
        if each["check"] == "disk":
            continue
        known = worst.get(each["check"], "ok")
        worst[each["check"]] = max(known, each["level"], key=("ok", "warning", "fault").index)
    return worst


def line(examined: Story, check: str) -> dict[str, Any]:
    """The first thing of a check that is not ok."""
    found: dict[str, Any] = next(
        each for each in examined["checks"] if each["check"] == check and each["level"] != "ok"
    )
    return found


def test_a_healthy_environment_is_all_ok_and_left_as_it_is(mended: Story) -> None:
    assert set(levels(mended["healthy"]).values()) == {"ok"}, mended["healthy"]["said"]
    assert mended["healthy"]["code"] == 0
    assert len(mended["healthy"]["checks"]) >= 20
    assert mended["changed"] == []


def test_each_damage_by_hand_or_by_a_kill_is_found_and_nothing_else(mended: Story) -> None:
    found = {name: level for name, level in levels(mended["damaged"]).items() if level != "ok"}
    assert found == {
        "stack": "fault", "runs": "warning", "definitions": "warning", "drafts": "warning",
    }  # fmt: skip
    assert mended["damaged"]["code"] == 1
    assert "alerter 'local'" in line(mended["damaged"], "stack")["found"]
    assert line(mended["damaged"], "stack")["mend"] == "python -m millwright stacks --stack local"
    assert "killed" in line(mended["damaged"], "runs")["found"]
    assert "feast apply" in line(mended["damaged"], "definitions")["mend"]
    for name in (".spill-0", ".v2.draft", ".online.db.unfinished"):
        assert name in line(mended["damaged"], "drafts")["found"]


def test_everything_that_is_not_ok_is_printed_with_its_command(mended: Story) -> None:
    for each in mended["damaged"]["checks"]:
        assert (each["mend"] is None) == (each["level"] == "ok")
        if each["mend"]:
            assert f"mend: {each['mend']}\n" in mended["damaged"]["said"]


def test_what_a_run_at_work_has_open_is_no_leftover(mended: Story) -> None:
    found = levels(mended["at work"])
    assert (found["runs"], found["drafts"]) == ("ok", "ok")


def test_a_repair_gives_way_to_a_run_at_work(mended: Story) -> None:
    assert mended["busy"]["code"] == 1
    assert "run.lock" in mended["busy"]["error"]


def test_a_repair_leaves_nothing_to_repair(mended: Story, broken: Story) -> None:
    assert mended["repaired"]["code"] == 0
    assert mended["repaired"]["repaired"] == [
        "stack local: updated", "1 runs marked as failed", "feature definitions published",
        "3 drafts removed",
    ]  # fmt: skip
    assert set(levels(mended["repaired"]).values()) == {"ok"}, mended["repaired"]["said"]
    assert set(levels(broken["afterwards"]).values()) == {"ok"}, broken["afterwards"]["said"]
    assert broken["runs"] == [["failed", "failed"]]


def test_files_that_are_gone_are_named_with_the_pipeline_that_makes_them(broken: Story) -> None:
    tables = line(broken["data"], "feature tables of small")
    assert "sensor_step" in tables["found"]
    assert tables["mend"] == "python run.py --pipeline features --fleet small --stack local"
    assert "telemetry" in line(broken["data"], "raw store of small")["found"]
    assert "is gone" in line(broken["data"], "raw store of small")["found"]


def test_a_champion_that_is_not_there_can_be_replaced_by_a_release_that_is(
    broken: Story, home: Path
) -> None:
    champion = line(broken["data"], "champion of small")
    assert "v7" in champion["found"]
    pointer = home / "local" / "small" / "releases" / "champion"
    assert champion["mend"] == f"echo v1 > {pointer}"


def test_a_variable_that_leads_elsewhere_is_named_without_its_password(broken: Story) -> None:
    found = line(broken["data"], "variables")
    assert found["level"] == "fault"
    assert found["mend"] == "unset MLFLOW_TRACKING_URI"
    assert "http://user:***@elsewhere:5000" in found["found"]
    assert "sesame" not in json.dumps(broken)


@pytest.mark.parametrize(
    ("check", "file"),
    [
        ("zenml database", "zenml.db"),
        ("mlflow", "mlflow.db"),
        ("feast registry", "registry.db"),
        ("online store", "online.db"),
    ],
)
def test_a_truncated_database_is_named_with_what_is_lost_by_moving_it(
    broken: Story, check: str, file: str
) -> None:
    found = line(broken["databases"], check)
    assert found["level"] == "fault"
    assert file in found["found"]
    assert "lost are then" in found["found"] or "lost is then" in found["found"]
    assert found["mend"].startswith("mv ")
    assert broken["databases"]["code"] == 1


def test_what_depends_on_a_broken_database_is_left_out_and_says_so(broken: Story) -> None:
    for check in ("stack", "runs", "definitions"):
        found = line(broken["databases"], check)
        assert (found["level"], found["found"][:12]) == ("warning", "not examined")


def test_a_file_in_place_of_the_state_folder_is_a_fault(broken: Story) -> None:
    assert line(broken["no folder"], "state folder")["level"] == "fault"
    assert "cannot be examined" not in broken["no folder"]["said"]


def test_zenml_s_database_is_its_server_s_where_the_settings_name_one(broken: Story) -> None:
    assert broken["at a server"] == {
        "production": ["ok", "ZenML's server keeps it, at https://user:***@elsewhere"],
        "local": ["warning", "not examined, because ZENML_STORE_URL is set"],
    }


def test_a_second_alerter_beside_ours_is_refused_and_taken_out_again(broken: Story) -> None:
    refusal, *done = broken["beside"]
    assert "has the alerter 'local, other', and stack.yaml says 'local'" in refusal
    assert refusal.endswith("python -m millwright stacks --stack local")
    assert done == ["updated", "unchanged"]


def test_batches_that_came_after_a_materialization_are_counted(tmp_path: Path) -> None:
    fleet, staging = load_fleet("simulated"), State(tmp_path, "staging")
    folder, noon = staging.raw(fleet.name) / "batches", datetime(2026, 1, 1, 12, tzinfo=UTC)
    folder.mkdir(parents=True)
    for hours in range(3):
        path, moment = folder / f"b{hours}.json", (noon + timedelta(hours=hours)).timestamp()
        path.write_text("{}", encoding="utf-8")
        os.utime(path, (moment, moment))
    patient = Patient(staging, load_settings("staging"), {})
    counts = [features.brought_since(patient, fleet, noon + timedelta(hours=h)) for h in (-1, 0, 2)]
    assert counts == [3, 2, 0]


@pytest.fixture
def staging(
    postgres_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Patient:
    """Staging on real servers, but for MLflow, where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for name, url in zip(VARIABLES.values(), (postgres_url, redis_url, closed), strict=True):
        monkeypatch.setenv(name, url)
    return examined(tmp_path)


def examined(home: Path) -> Patient:
    patient = Patient(State(home, "staging"), load_settings("staging"), dict(os.environ))
    patient.begin_asking()
    return patient


def of_servers(patient: Patient) -> dict[str, Finding]:
    return {each.check: each for check in servers.CHECKS for each in look(check, patient)}


def test_real_servers_are_examined_and_the_one_that_is_away_is_named(
    staging: Patient, postgres_url: str
) -> None:
    schemas.create(postgres_url, ["feast_registry"])
    found = of_servers(staging)
    assert {name: each.level for name, each in found.items()} == {
        "postgres": "ok", "redis": "ok", "mlflow": "fault", "schemas": "ok",
        "postgres times": "ok", "postgres clock": "ok", "redis memory": "ok",
        "redis persistence": "warning", "redis clock": "ok",
    }  # fmt: skip
    assert "refused" in found["mlflow"].found
    assert (found["mlflow"].mend or "").startswith("export MLFLOW_TRACKING_URI=")
    assert "CONFIG SET appendonly yes" in (found["redis persistence"].mend or "")


def test_a_schema_that_is_missing_and_a_redis_that_forgets_are_faults(
    staging: Patient, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            found = of_servers(staging)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert found["schemas"].level == "fault"
    assert found["redis memory"].level == "fault"
    assert "allkeys-lru" in found["redis memory"].found


def test_rows_that_are_missing_in_postgres_are_found(
    staging: Patient, postgres_url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from millwright.doctor import stores

    monkeypatch.setenv("MILLWRIGHT_FLEETS", str(home.parent / "fleets"))
    (staging.state.root / "small").mkdir(parents=True)
    connection = psycopg2.connect(postgres_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE SCHEMA features_small; CREATE TABLE features_small._periods "
            "(view text, period text, rows bigint); "
            "INSERT INTO features_small._periods VALUES ('v', 'a', 2), ('v', 'b', 1), ('w', 'a', 1)"
            "; CREATE TABLE features_small.v AS SELECT generate_series(1, 2)"
        )
    connection.close()
    (found,) = look(Check("feature tables", stores.tables, "", server="postgres"), staging)
    assert found.level == "fault"
    assert "features_small.v has 2 rows and not 3" in found.found
    assert "features_small.w is gone" in found.found


@pytest.fixture
def frozen() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_frozen_servers_cost_seconds_and_their_checks_are_left_out(
    frozen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, schemes in SCHEMES.items():
        monkeypatch.setenv(VARIABLES[name], f"{schemes[0]}://{frozen}/0")
    began = time.monotonic()
    found = of_servers(examined(tmp_path))
    assert time.monotonic() - began < 10
    assert {name: each.level for name, each in found.items()} == {
        **dict.fromkeys(VARIABLES, "fault"),
        "postgres settings": "warning", "redis settings": "warning",
    }  # fmt: skip
