"""Staging as its users meet it: real PostgreSQL, Redis and MLflow, and the same pipelines."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from answered import assert_predicted_as_answered
from commands import FLEET, Clone, Ended, ForkedClone

from millwright import active_stack
from millwright.settings import State

CANARY = "canary-4f1d9c"


@pytest.fixture(scope="module")
def home(fresh: Ended) -> Path:
    """A home with the trained local environment in it, for servers and staging beside that."""
    return Path(fresh.home)


@pytest.fixture(scope="module")
def servers(clone: Clone, home: Path) -> Iterator[dict[str, str]]:
    """The URLs of the servers of staging."""
    try:
        up = clone.module(home, "services", "up")
        assert up.code == 0, up.stderr
        path = home / "staging" / "services" / "endpoints.json"
        yield json.loads(path.read_text(encoding="utf-8"))
    finally:
        clone.module(home, "services", "down")


@pytest.fixture(scope="module")
def staged(clone: Clone, home: Path, servers: dict[str, str]) -> Ended:
    ended = clone.run(
        home, "--stack", "staging", "--pipeline", "training", "--fleet", FLEET,
        variables={"MILLWRIGHT_ALERT_WEBHOOK": f"http://127.0.0.1:9/{CANARY}"},
    )  # fmt: skip
    assert ended.code == 0, ended.stderr
    return ended


def typed(clone: Clone, home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """A tool typed by hand in the project's virtual environment."""
    tool = Path(sys.executable).with_name(words[0])
    return subprocess.run(
        [str(tool), *words[1:]],
        env={
            **clone.environment(home), "PYTHONPATH": str(clone.folder), "COLUMNS": "300",
            # What the environment's `activate` exports.
            "ZENML_CONFIG_PATH": str(home / "zenml"), "ZENML_ANALYTICS_OPT_IN": "false",
        },
        cwd=clone.folder / "feature_repo", capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_staging_promotes_the_model_that_local_promotes(fresh: Ended, staged: Ended) -> None:
    assert staged.summary["environment"] == "staging"
    assert staged.summary["status"] == fresh.summary["status"] == "promoted"
    for key in ("dataset_version", "rows"):
        assert staged.summary[key] == fresh.summary[key]
    for key in ("scores", "baselines"):
        assert flat(staged.summary[key]) == pytest.approx(flat(fresh.summary[key]), abs=1e-6)


def flat(values: Any) -> dict[str, float]:
    if not isinstance(values, dict):
        return {"": float(values)} if isinstance(values, int | float) else {}
    return {
        f"{key}.{rest}": number
        for key, value in values.items()
        for rest, number in flat(value).items()
    }


def test_training_sets_are_equal_and_online_stores_hold_what_offline_stores_do(
    forked: ForkedClone, home: Path, staged: Ended
) -> None:
    found = forked.ask(home, "compare_environments.py", FLEET, "local", "staging")
    training_set = found["training_set"]
    assert training_set["rows"] > 10_000
    assert training_set["filled"] > 20 * training_set["rows"]
    assert (training_set["columns"], training_set["keys"]) == (True, True)
    assert training_set["nulls"] == 0
    assert training_set["worst"] < 1e-6
    assert found["online"] == {"local": [], "staging": []}
    assert found["read"]["local"] == found["read"]["staging"]
    assert found["read"]["local"][1] > 20 * found["read"]["local"][0]


def test_a_fleet_predicted_at_once_is_in_postgresql_as_the_service_answers_from_redis(
    forked: ForkedClone, home: Path, staged: Ended
) -> None:
    as_of = datetime(2025, 5, 1, tzinfo=UTC)  # the end of the data
    ended = forked.run(
        home, "--stack", "staging", "--pipeline", "inference", "--fleet", FLEET,
        "--as-of", as_of.isoformat(),
    )  # fmt: skip
    assert ended.code == 0, ended.stderr
    assert_predicted_as_answered(State(home, "staging"), FLEET, as_of)


def test_one_run_on_another_stack_does_not_change_the_active_one(
    clone: Clone, home: Path, staged: Ended
) -> None:
    told = typed(clone, home, "zenml", "stack", "get")
    assert told.returncode == 0, told.stderr
    assert "active stack is: 'local'" in told.stdout + told.stderr


def test_what_is_typed_by_hand_follows_the_active_stack(
    clone: Clone,
    forked: ForkedClone,
    home: Path,
    staged: Ended,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in os.environ:
        if name.startswith("ZENML_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(home / "zenml"))
    monkeypatch.chdir(clone.folder)
    seen = {}
    for name in ("staging", "local"):
        chosen = typed(clone, home, "zenml", "stack", "set", name)
        assert chosen.returncode == 0, chosen.stderr
        assert active_stack.name() == name
        applied = typed(clone, home, "feast", "apply")
        assert applied.returncode == 0, applied.stderr
        assert f"environment: {name}" in applied.stderr
        sources = typed(clone, home, "feast", "data-sources", "list").stdout
        assert f"{FLEET}_sensor_step" in sources
        seen[name] = "POSTGRES" in sources.upper()
        if name == "staging":
            ended = forked.run(home, "--pipeline", "features", "--fleet", FLEET)
            assert ended.code == 0, ended.stderr
            assert ended.summary["environment"] == name
        models = typed(clone, home, "mlflow", "experiments", "search")
        assert "training" in models.stdout, models.stderr
        assert "mlruns" not in models.stdout  # which would be a folder outside the home
    assert seen == {"staging": True, "local": False}


def test_parts_of_two_environments_are_refused_with_the_way_to_mend_it(
    forked: ForkedClone, home: Path, staged: Ended
) -> None:
    mixed = typed(forked, home, "zenml", "stack", "update", "staging", "-a", "local")
    assert mixed.returncode == 0, mixed.stderr
    words = ("--stack", "staging", "--pipeline", "features", "--fleet", FLEET)
    ended = forked.run(home, *words)
    assert ended.code == 2
    assert "parts of two environments never mix" in ended.error
    assert "python -m millwright stacks --stack staging" in ended.error
    for done in ("updated", "unchanged"):
        mended = forked.module(home, "stacks", "--stack", "staging")
        assert f"staging  {done}" in mended.stdout


def test_an_mlflow_that_is_not_the_environments_is_refused(forked: ForkedClone, home: Path) -> None:
    ended = forked.run(
        home, "--stack", "local", "--pipeline", "features", "--fleet", FLEET,
        variables={"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"},
    )  # fmt: skip
    assert ended.code == 2
    assert "unset it" in ended.error


SERVERS = ("postgres", "redis")


def test_a_server_that_is_away_is_named_at_once_and_the_rerun_ends_well(
    forked: ForkedClone, home: Path, servers: dict[str, str], staged: Ended
) -> None:
    words = ("--stack", "staging", "--pipeline", "features", "--fleet", FLEET)
    for server in SERVERS:
        kill(server_process(servers[server]))
        began = time.monotonic()
        ended = forked.run(home, *words)
        assert time.monotonic() - began < 10
        assert ended.code == 1
        assert f"{server} at " in ended.error
        assert "services up" in ended.error
        assert forked.module(home, "services", "up").code == 0
    assert forked.run(home, *words).code == 0


def test_a_server_that_goes_away_in_the_middle_ends_the_run_and_the_rerun_ends_well(
    forked: ForkedClone, home: Path, servers: dict[str, str], staged: Ended
) -> None:
    words = ("--stack", "staging", "--pipeline", "training", "--fleet", FLEET)
    for server in SERVERS:
        process = forked.start(home, *words)
        # The check before the run is over once its first step has spoken.
        while process.poll() is None and "features" not in process.said().splitlines():
            time.sleep(0.05)
        kill(server_process(servers[server]))
        began = time.monotonic()
        ended = forked.finish(process, home)
        assert time.monotonic() - began < 15
        assert forked.module(home, "services", "up").code == 0
        assert ended.code == 1, ended.stderr
        place = servers[server].rpartition("@")[2].split("/")[0]
        assert server in ended.error.lower()
        assert place in ended.error
    again = forked.run(home, *words)
    assert again.code == 0, again.stderr
    assert again.summary["scores"] == staged.summary["scores"]


def server_process(url: str) -> psutil.Process:
    """The process that listens where `url` points to."""
    port = int(url.rpartition("@")[2].split("/")[0].rpartition(":")[2])
    listening = [
        psutil.Process(each.pid)
        for each in psutil.net_connections("tcp")
        if each.laddr and each.laddr.port == port and each.status == "LISTEN" and each.pid
    ]
    return listening[0]


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)


def test_four_appliers_and_a_materialization_at_once_lose_nothing(
    clone: Clone, home: Path, staged: Ended, servers: dict[str, str]
) -> None:
    def start(*words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("feast")), *words],
            env={
                **clone.environment(home), "PYTHONPATH": str(clone.folder),
                "MILLWRIGHT_ENVIRONMENT": "staging",
            },
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def objects() -> set[tuple[str, str]]:
        found = set()
        with psycopg2.connect(servers["postgres"]) as connection, connection.cursor() as cursor:
            for table in ("feature_views", "feature_services", "entities", "data_sources"):
                name = table.removesuffix("s") if table != "entities" else "entity"
                cursor.execute(f"SELECT {name}_name FROM feast_registry.{table}")
                found |= {(table, row[0]) for row in cursor.fetchall()}
        return found

    before = objects()
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 60))
    running = [start("apply") for _ in range(4)]
    running.append(start("materialize", "2025-01-01T00:00:00", moment))
    for process in running:
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    assert objects() == before
    assert len(before) > 10


def test_no_secret_is_anywhere_but_where_it_is_kept(
    clone: Clone, home: Path, staged: Ended, servers: dict[str, str]
) -> None:
    secrets = {url.rpartition("@")[0].rpartition(":")[2] for url in servers.values() if "@" in url}
    assert len(secrets) == 2
    secrets.add(CANARY)
    own = home / "staging" / "services"
    for path in home.rglob("*"):
        kept = path.is_relative_to(own) and path.name in (
            "addresses.json", "endpoints.json", "redis.conf"
        )  # fmt: skip
        if path.is_file() and not kept and not path.is_relative_to(own / "postgres" / "data"):
            assert not hits(path.read_bytes(), secrets), path
    assert (own / "endpoints.json").stat().st_mode & 0o077 == 0
    assert not hits((staged.stdout + staged.stderr).encode(), secrets)
    for process in psutil.process_iter(["cmdline"]):
        assert not hits(" ".join(process.info["cmdline"] or []).encode(), secrets)
    with sqlite3.connect(home / "zenml" / "zenml.db") as connection:
        assert not hits("\n".join(connection.iterdump()).encode(), secrets)
    with psycopg2.connect(servers["postgres"]) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema, table_name FROM information_schema.tables "
            "WHERE table_schema IN ('mlflow', 'feast_registry')"
        )
        for schema, table in cursor.fetchall():
            cursor.execute(f'SELECT t::text FROM {schema}."{table}" AS t')
            assert not hits(repr(cursor.fetchall()).encode(), secrets), table


def hits(content: bytes, secrets: set[str]) -> list[str]:
    return [secret for secret in secrets if secret.encode() in content]
