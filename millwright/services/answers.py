"""Whether servers answer: asked for real, with the password, and within seconds.

What a library does while a server is away is no guide: some wait for ever, some give reasons that
name neither the server nor the way out. So a pipeline asks here first.
"""

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from millwright.endpoints import (
    VARIABLES,
    Endpoints,
    started_here,
    without_password,
    without_secrets,
)
from millwright.errors import MillwrightError
from millwright.settings import State

SECONDS = 5.0
LONGEST = 200  # characters that a library says about its trouble


@dataclass(frozen=True)
class Answer:
    """What a server said: its version, or why there is none."""

    version: str | None = None
    problem: str | None = None


def postgres_version(url: str, seconds: float) -> str:
    """The version of the PostgreSQL at `url`, which has executed a query."""
    import psycopg2

    connection = psycopg2.connect(url, connect_timeout=max(2, int(seconds)))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('server_version')")
            row = cursor.fetchone()
    finally:
        connection.close()
    return str(row[0]).split()[0] if row else ""


def redis_version(url: str, seconds: float) -> str:
    """The version of the Redis at `url`, which has answered a PING."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    with redis.Redis.from_url(
        url,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
    ) as client:
        client.ping()
        return str(client.info("server")["redis_version"])


def mlflow_version(url: str, seconds: float) -> str:
    """The version of the MLflow server at `url`, which has said that it is well."""
    import requests  # as MLflow's own client does, with the same variables for certificates

    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    login = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    health = requests.get(f"{url.rstrip('/')}/health", timeout=seconds, auth=login)
    if health.status_code != requests.codes.ok or health.text.strip() != "OK":
        raise ConnectionError(f"HTTP {health.status_code}, and no MLflow server says that")
    return requests.get(f"{url.rstrip('/')}/version", timeout=seconds, auth=login).text.strip()


ASKING: Mapping[str, Callable[[str, float], str]] = {
    "postgres": postgres_version,
    "redis": redis_version,
    "mlflow": mlflow_version,
}


def ask(urls: Mapping[str, str], seconds: float = SECONDS) -> dict[str, Answer]:
    """Ask the servers at `urls`, by name and all at once; takes little more than `seconds`."""
    answers: queue.SimpleQueue[tuple[str, Answer]] = queue.SimpleQueue()

    def one(name: str) -> None:
        try:
            answers.put((name, Answer(version=ASKING[name](urls[name], seconds))))
        except Exception as err:  # whatever it is, it is why there is no answer
            answers.put((name, Answer(problem=_reason(urls[name], err))))

    # Daemons, and not a pool: one that hangs must not keep the command from ending.
    for name in urls:
        threading.Thread(target=one, args=(name,), daemon=True).start()
    found: dict[str, Answer] = {}
    try:
        while len(found) < len(urls):
            name, answer = answers.get(timeout=seconds + 1)
            found[name] = answer
    except queue.Empty:
        pass
    silent = Answer(problem=f"does not answer within {seconds:.0f} s")
    return {name: found.get(name, silent) for name in urls}


def unreachable(endpoints: Endpoints, *, seconds: float = SECONDS) -> dict[str, str]:
    """Why each server that does not answer does not; empty if all do."""
    answers = ask(vars(endpoints), seconds)
    return {name: answer.problem for name, answer in answers.items() if answer.problem}


def check(endpoints: Endpoints, state: State, *, seconds: float = SECONDS) -> None:
    """Make sure that every server of an environment answers.

    Raises:
        MillwrightError: names each one that does not, where it should be, and the way out.
    """
    problems = unreachable(endpoints, seconds=seconds)
    if problems:
        started = started_here(state)
        theirs = [name for name in problems if started.get(name) != getattr(endpoints, name)]
        ways = []
        if len(theirs) < len(problems):
            up = f"python -m millwright services up --stack {state.environment}"
            ways.append(f"start what runs here with: {up}")
        if theirs:
            variables = ", ".join(VARIABLES[name] for name in theirs)
            ways.append(f"mend what {variables} names, or unset it")
        said = describe(vars(endpoints), problems)
        raise MillwrightError(
            f"environment '{state.environment}' cannot be used: {said}; {'; '.join(ways)}"
        )


def describe(urls: Mapping[str, str], problems: Mapping[str, str]) -> str:
    """One sentence about servers that do not answer."""
    said = [f"{name} at {without_password(urls[name])} {why}" for name, why in problems.items()]
    return "; ".join(said)


def _reason(url: str, err: Exception) -> str:
    """Why there was no answer, in a line of ours if the cause is known."""
    said = " ".join(str(err).split()) or type(err).__name__
    if _speaks_of(said, ("password", "wrongpass", "noauth", "authentication", "no pg_hba")):
        return f"refuses the user or password ({clean(said, url)})"
    if _speaks_of(said, ("refused",)):
        return "does not run there: the connection is refused"
    if _speaks_of(said, ("timeout", "timed out")):
        return "does not answer in time"
    if _speaks_of(said, ("name or service not known", "could not translate", "resolve")):
        return "has a host name that nobody knows"
    return f"does not answer: {clean(said, url)}"


def _speaks_of(said: str, words: Sequence[str]) -> bool:
    return any(word in said.lower() for word in words)


def clean(said: str, url: str) -> str:
    """`said` without the password of `url`, shortened."""
    said = without_secrets(said, url)
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."
