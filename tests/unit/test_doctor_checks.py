"""What single checks make of what they are given."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest

from millwright.doctor import examination, machine, predictions, servers, surroundings
from millwright.doctor.databases import damage
from millwright.doctor.findings import Check, Finding, Patient, Unanswered
from millwright.doctor.leftovers import drafts
from millwright.errors import DataError
from millwright.settings import State, load_settings, process_environment
from millwright.sqlite_files import query

GIGABYTE = 1_000_000_000
Room = namedtuple("Room", "f_bavail f_frsize f_favail f_files")  # noqa: PYI024 - as statvfs
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def patient(home: Path, environment: str = "local", **given: str) -> Patient:
    return Patient(State(home, environment), load_settings(environment), given)


def levels(found: Iterable[Finding]) -> list[str]:
    return [each.level for each in found]


@pytest.mark.parametrize(
    ("free", "inodes", "files", "level"),
    [
        (50 * GIGABYTE, 10**6, 10**7, "ok"),
        (4 * GIGABYTE, 10**6, 10**7, "warning"),
        (GIGABYTE // 2, 10**6, 10**7, "fault"),
        (50 * GIGABYTE, 10_000, 10**7, "warning"),
        (50 * GIGABYTE, 100, 10**7, "fault"),
        (50 * GIGABYTE, 0, 0, "ok"),  # a file system that counts none
    ],
)
def test_a_disk_that_fills_is_a_warning_and_a_full_one_a_fault(
    tmp_path: Path, free: int, inodes: int, files: int, level: str
) -> None:
    def measure(place: Path) -> Any:
        assert place == tmp_path
        return Room(free // 1000, 1000, inodes, files)

    assert levels(machine.disk(patient(tmp_path), measure)) == [level]


def test_packages_that_differ_or_are_missing_are_named() -> None:
    have = {"numpy": "2.0.0", "pandas": "2.3.1"}.get
    wanted = {"numpy": "2.0.0", "pandas": "2.3.3", "zenml": "0.98.0"}
    assert machine.differences(wanted, have) == [
        "pandas is 2.3.1 instead of 2.3.3",
        "zenml is missing instead of 0.98.0",
    ]


def test_a_lock_is_read_as_far_as_it_holds_for_this_machine(tmp_path: Path) -> None:
    lock = tmp_path / "dev.txt"
    lock.write_text(
        "# made by a tool\nnumpy==2.0.0 \\\n    --hash=sha256:abc\n"
        "pywin32==311 ; sys_platform == 'win32' \\\n    --hash=sha256:abc\n"
        "uvloop==0.21.0 ; sys_platform != 'win32' \\\n    --hash=sha256:abc\n",
        encoding="utf-8",
    )
    assert machine.locked(lock) == {"numpy": "2.0.0", "uvloop": "0.21.0"}


@pytest.mark.parametrize(("hours", "level"), [(-1, "ok"), (0, "ok"), (1, "fault")])
def test_a_clock_before_what_has_happened_is_a_fault(hours: int, level: str) -> None:
    moments = {"the newest row became known": NOW + timedelta(hours=hours)}
    assert levels(machine.judge_clock(NOW, moments)) == [level]


def test_a_state_folder_that_is_not_there_is_fine_and_is_not_made(tmp_path: Path) -> None:
    assert levels(machine.state_folder(patient(tmp_path / "new"))) == ["ok"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", [".", "local"])
def test_a_file_where_a_state_folder_should_be_is_a_fault(tmp_path: Path, place: str) -> None:
    home = tmp_path / "home"
    (home / place).parent.mkdir(exist_ok=True)
    (home / place).write_text("", encoding="utf-8")
    assert levels(machine.state_folder(patient(home))) == ["fault"]


@pytest.mark.parametrize(
    "name",
    ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "ZENML_STORE_URL", "FEAST_FS_YAML_FILE_PATH",
     "ZENML_CONFIG_PATH", "MILLWRIGHT_ENVIRONMENT", "MILLWRIGHT_REDIS_URL"],
)  # fmt: skip
def test_each_variable_that_leads_elsewhere_is_to_be_unset(tmp_path: Path, name: str) -> None:
    found = list(surroundings.variables(patient(tmp_path, **{name: "redis://:word@elsewhere/x"})))
    assert [each.mend for each in found] == [f"unset {name}"]
    assert "word" not in found[0].found or name in ("ZENML_CONFIG_PATH", "FEAST_FS_YAML_FILE_PATH",
                                                    "MILLWRIGHT_ENVIRONMENT")  # fmt: skip


def test_what_an_activated_environment_exports_leads_nowhere_else(tmp_path: Path) -> None:
    given = process_environment(State(tmp_path, "local"))
    for environment in ("local", "staging"):
        found = surroundings.variables(patient(tmp_path, environment, **given))
        assert levels(found) == ["ok"]


def test_the_variables_that_production_needs_are_asked_for_by_name(tmp_path: Path) -> None:
    found = list(surroundings.needed(patient(tmp_path, "production", SLACK_CHANNEL="C1")))
    assert "export MILLWRIGHT_S3_BUCKET=..." in [each.mend for each in found]
    assert "export SLACK_CHANNEL=..." not in [each.mend for each in found]


def test_where_production_s_zenml_is_leads_nowhere_else(tmp_path: Path) -> None:
    given = {"ZENML_STORE_URL": "https://user:word@zenml.plant.test"}
    assert levels(surroundings.variables(patient(tmp_path, "production", **given))) == ["ok"]
    assert levels(surroundings.variables(patient(tmp_path, "staging", **given))) == ["fault"]


def test_an_empty_or_foreign_file_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"")
    assert damage(path) == "is empty"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    assert "not a database" in (damage(path) or "")
    assert [each.name for each in tmp_path.iterdir()] == ["x.db"]


KILLED = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = " + sys.argv[2])
connection.execute("PRAGMA cache_size = 1")
connection.execute("CREATE TABLE t (x)")
connection.execute("BEGIN")
connection.executemany("INSERT INTO t VALUES (?)", [("x" * 5000,)] * 200)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_whose_writer_was_killed_is_sound_and_left_alone(
    tmp_path: Path, journal: str
) -> None:
    path = tmp_path / "x.db"
    subprocess.run([sys.executable, "-c", KILLED, str(path), journal], check=False)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert len(before) > 1
    assert damage(path) is None
    assert query(path, "SELECT count(*) FROM t") == [(0,)]
    after = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert {k: v for k, v in after.items() if not k.endswith("-shm")} == {
        k: v for k, v in before.items() if not k.endswith("-shm")
    }


@pytest.mark.parametrize(
    ("error", "level", "said"),
    [
        (ValueError("out of order\nand pages more"), "fault", "ValueError: out of order"),
        (DataError("the file f is no table"), "fault", "the file f is no table"),
        (SystemExit(2), "fault", "SystemExit: 2"),
        (Unanswered("not examined, because redis does not answer"), "warning", "redis"),
    ],
)
def test_a_check_that_fails_is_a_line_with_its_name(
    tmp_path: Path, error: BaseException, level: str, said: str
) -> None:
    def fail(patient: Patient) -> NoReturn:
        raise error

    (found,) = examination.look(Check("thing", fail, "mend it"), patient(tmp_path))
    assert (found.check, found.level) == ("thing", level)
    assert said in found.found
    assert "pages" not in found.found
    assert found.mend


def test_a_check_that_hangs_is_left_alone_and_its_server_counts_as_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "WAIT", 0.05)
    whom = patient(tmp_path, "staging")

    def hang(patient: Patient) -> list[Finding]:
        time.sleep(1)
        return []

    (found,) = examination.look(Check("thing", hang, "mend it", server="redis"), whom)
    assert found.level == "fault"
    assert whom.answer("redis").problem == "has stopped to answer"
    with pytest.raises(Unanswered):
        whom.needs("redis")


def test_passwords_are_in_no_line(tmp_path: Path) -> None:
    whom = patient(tmp_path, MILLWRIGHT_POSTGRES_URL="postgresql://me:p%40ss@there/db")
    line = Finding("thing", "fault", "p@ss and p%40ss\nwere refused", "try p@ss")
    found = examination.without_secrets(line, whom)
    assert (found.found, found.mend) == ("*** and *** were refused", "try ***")


@pytest.mark.parametrize(
    ("text", "found"), [("18.1", (18, 1)), ("6.2.14", (6, 2)), ("15beta2", (15, 2)), ("", (0, 0))]
)
def test_a_version_is_its_first_two_numbers(text: str, found: tuple[int, int]) -> None:
    assert servers.numbers(text) == found


def test_looking_for_a_run_at_work_makes_no_lock(tmp_path: Path) -> None:
    (tmp_path / "local" / ".scratch").mkdir(parents=True)
    (found,) = drafts(patient(tmp_path))
    assert found.level == "warning"
    assert [each.name for each in (tmp_path / "local").iterdir()] == [".scratch"]
    assert found.repair is not None
    assert found.repair() == "1 drafts removed"
    assert list((tmp_path / "local").iterdir()) == []


READY = {"ready": True, "reason": None, "refused": None, "release": {"version": 3}}


@pytest.mark.parametrize(
    ("answer", "level", "told", "mend"),
    [
        (READY, "ok", ", by v3", None),
        ({**READY, "refused": "v4 is broken"}, "warning", "v4 is broken", "releases list"),
        ({**READY, "ready": False, "reason": "no store"}, "fault", "no store", "features"),
        (
            {**READY, "ready": False, "reason": "none", "release": None},
            "fault", "none", "--pipeline training --fleet plant --stack local",
        ),
        ([], "fault", "does not answer", "export MILLWRIGHT_SERVICE_URL=..."),
        ({"ready": True}, "fault", "names no release", "training"),
        ({"ready": True, "release": "v3"}, "fault", "is no service of Millwright", "training"),
    ],
)  # fmt: skip
def test_a_service_that_is_named_says_where_it_is_and_what_it_can(
    tmp_path: Path, answer: Any, level: str, told: str, mend: str | None
) -> None:
    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            said = {"/plant/": {"fleet": "plant"}, "/plant/ready": answer}
            self.wfile.write(json.dumps(said[self.path]).encode())

        def log_message(self, *_: Any) -> None:
            """Keep it to ourselves."""

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://user:word@127.0.0.1:{server.server_port}/plant"
        whom = patient(tmp_path, MILLWRIGHT_SERVICE_URL=f"{url}/")
        (found,) = examination.look(predictions.CHECKS[0], whom)
        server.shutdown()
    assert (found.check, found.level) == ("service of plant", level)
    assert told in found.found
    assert (mend or "") in (found.mend or "")
    assert (found.mend is None) == (mend is None)
    shown = examination.without_secrets(found, whom).found
    assert url.replace("word", "***") in shown


def test_a_service_that_is_named_by_no_url_is_a_fault(tmp_path: Path) -> None:
    (found,) = predictions.service(patient(tmp_path, MILLWRIGHT_SERVICE_URL="127.0.0.1:8000"))
    assert (found.level, found.mend) == ("fault", "export MILLWRIGHT_SERVICE_URL=...")
    assert "is like http://HOST:8000" in found.found


def test_a_service_that_does_not_run_is_no_fault_and_nothing_is_made_for_it(tmp_path: Path) -> None:
    whom = patient(tmp_path)
    (whom.state.root / "simulated").mkdir(parents=True)
    (found,) = predictions.service(whom)
    assert (found.check, found.level, found.mend) == ("service of simulated", "ok", None)
    start = "python -m millwright serve --background --fleet simulated --stack local"
    assert found.found == f"none runs here; to start it: {start}"
    assert list((whom.state.root / "simulated").iterdir()) == []


def test_a_port_that_another_program_has_taken_is_a_fault(tmp_path: Path) -> None:
    whom = patient(tmp_path, "staging")
    whom.state.services.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"redis://:word@127.0.0.1:{port}/0"
        whom.state.endpoints.write_text(json.dumps({"redis": url}), encoding="utf-8")
        (found,) = servers.ports(whom)
    assert found.level == "fault"
    assert f"port {port} of redis is of process {os.getpid()}" in found.found
    assert "word" not in found.found
