"""PostgreSQL, Redis and MLflow: whether they answer, and are as the project needs them."""

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import psutil
from redis import Redis, ResponseError
from redis.backoff import NoBackoff
from redis.retry import Retry

from millwright.doctor.findings import Check, Finding, Patient
from millwright.endpoints import VARIABLES, started_here, without_password
from millwright.feast_store import REGISTRY_SCHEMA
from millwright.postgres.connection import connect
from millwright.services.process import running

LEAST = {"postgres": (15, 0), "redis": (6, 2), "mlflow": (3, 0)}
APART = 2.0  # seconds that two clocks may differ
SECONDS = 3.0  # for an answer of Redis
MOMENT = datetime(2025, 3, 30, 1, 30, 0, 123456, tzinfo=UTC)  # a night when clocks change


def answering(patient: Patient) -> Iterator[Finding]:
    """Whether each server answers, and is new enough."""
    for name in VARIABLES if patient.has_servers else ():
        answer, shown = patient.answer(name), ""
        if name in patient.urls:
            shown = f" at {without_password(patient.urls[name])}"
        if answer.version is None:
            yield Finding(name, "fault", f"{name}{shown} {answer.problem}", patient.start(name))
        elif numbers(answer.version) < LEAST[name]:
            least = ".".join(map(str, LEAST[name]))
            said = f"version {answer.version}{shown}, and {least} is needed"
            yield Finding(name, "fault", said, patient.start(name))
        elif name == "mlflow" and numbers(answer.version) != numbers(version("mlflow")):
            said = f"version {answer.version}{shown}, and the client is of {version('mlflow')}"
            yield Finding(name, "warning", said, f"pip install mlflow=={version('mlflow')}")
        else:
            yield Finding(name, "ok", f"version {answer.version}{shown}")


def numbers(text: str) -> tuple[int, int]:
    """The first two numbers of a version."""
    found = [int(number) for number in re.findall(r"\d+", text)[:2]]
    return (found[0] if found else 0, found[1] if len(found) > 1 else 0)


def ports(patient: Patient) -> Iterator[Finding]:
    """Whether the ports that were written down are those of our own processes."""
    if patient.settings.servers != "here":
        return
    started = {k: v for k, v in started_here(patient.state).items() if k in VARIABLES}
    listening = {
        each.laddr.port: each.pid
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.pid
    }
    strange = []
    for name, url in started.items():
        found = re.search(r":(\d+)(?:/|$)", url.rpartition("@")[2])
        pid = listening.get(int(found[1])) if found else None
        process = running(patient.state.services / name)
        ours = (
            {each.pid for each in (process, *process.children(recursive=True))} if process else {}
        )
        if pid and pid not in ours:
            strange.append(f"port {found[1] if found else ''} of {name} is of process {pid}")
    if strange:
        said = f"not of our servers: {', '.join(strange)}"
        yield Finding("ports", "fault", said, patient.command("services up"))
    elif started:
        yield Finding("ports", "ok", f"those of {', '.join(started)} are of nobody else")


def postgres(patient: Patient) -> Iterator[Finding]:
    """PostgreSQL's schemas, times and clock."""
    if not patient.has_servers:
        return
    patient.needs("postgres")
    connection = connect(patient.urls["postgres"])
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT nspname FROM pg_namespace")
        if (REGISTRY_SCHEMA,) in cursor.fetchall():
            yield Finding("schemas", "ok", f"{REGISTRY_SCHEMA} is there")
        else:
            said = f"{without_password(patient.urls['postgres'])} has no schema {REGISTRY_SCHEMA}"
            yield Finding("schemas", "fault", said, patient.command("services up"))
        yield _round_trip(cursor)
        yield _clock("postgres", lambda: _scalar(cursor, "SELECT clock_timestamp()"))
    finally:
        connection.close()


def _round_trip(cursor: Any) -> Finding:
    cursor.execute("SELECT %s::timestamptz, current_setting('TimeZone')", (MOMENT,))
    back, zone = cursor.fetchone()
    if back == MOMENT and back.utcoffset() == MOMENT.utcoffset():
        return Finding("postgres times", "ok", "come back as they went, in UTC")
    said = f"{MOMENT} comes back as {back}, in time zone {zone}"
    mend = 'psql "$MILLWRIGHT_POSTGRES_URL" -c "ALTER ROLE CURRENT_USER SET timezone = \'UTC\'"'
    return Finding("postgres times", "fault", said, mend)


def _scalar(cursor: Any, sql: str) -> Any:
    cursor.execute(sql)
    return cursor.fetchone()[0]


def _clock(server: str, ask: Callable[[], datetime]) -> Finding:
    before = time.time()
    there = ask().timestamp()
    apart = there - (before + time.time()) / 2
    title = f"{server} clock"
    if abs(apart) < APART:
        return Finding(title, "ok", f"{abs(apart) * 1000:.0f} ms from this machine's")
    ahead = "ahead of" if apart > 0 else "behind"
    said = f"{abs(apart):.1f} s {ahead} this machine's, and features are kept by time"
    return Finding(title, "fault", said, "timedatectl set-ntp true  # on both machines")


def redis(patient: Patient) -> Iterator[Finding]:
    """Redis's memory policy, persistence and clock."""
    if not patient.has_servers:
        return
    patient.needs("redis")
    with Redis.from_url(
        patient.urls["redis"],
        socket_timeout=SECONDS,
        socket_connect_timeout=SECONDS,
        retry=Retry(NoBackoff(), 0),
    ) as client:
        yield _policy(patient, client)
        yield _persistence(patient, client)
        yield _clock("redis", lambda: _time(client))


def _set(patient: Patient, words: str) -> str:
    if patient.start("redis").startswith("export"):
        return f'redis-cli -u "${VARIABLES["redis"]}" CONFIG SET {words}'
    return f"{patient.command('services down')} && {patient.command('services up')}"


def _policy(patient: Patient, client: Any) -> Finding:
    policy = client.info("memory").get("maxmemory_policy")
    if policy == "noeviction":
        return Finding("redis memory", "ok", "policy noeviction: no feature is dropped silently")
    said = f"policy {policy}: when memory is short, features are dropped silently"
    mend = _set(patient, "maxmemory-policy noeviction")
    return Finding("redis memory", "fault", said, mend)


def _persistence(patient: Patient, client: Any) -> Finding:
    found = client.info("persistence")
    if found.get("aof_enabled"):
        return Finding("redis persistence", "ok", "each write is logged to a file")
    try:
        saves = client.config_get("save").get("save", "")
    except ResponseError:
        return Finding("redis persistence", "ok", "the service keeps its configuration to itself")
    if saves:
        return Finding("redis persistence", "ok", f"snapshots: {saves}")
    said = "off: after a restart the online store is empty until the next materialization"
    return Finding("redis persistence", "warning", said, _set(patient, "appendonly yes"))


def _time(client: Any) -> datetime:
    seconds, micros = client.time()
    return datetime.fromtimestamp(seconds + micros / 1e6, UTC)


CHECKS = (
    Check("servers", answering, "python -m millwright services status"),
    Check("ports", ports, "python -m millwright services status"),
    Check("postgres settings", postgres, "python -m millwright services status", server="postgres"),
    Check("redis settings", redis, "python -m millwright services status", server="redis"),
)
