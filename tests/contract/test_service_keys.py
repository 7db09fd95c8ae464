"""A real application on a real port behind keys, which the verb changes while it runs."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from millwright.__main__ import main
from millwright.keys import file
from millwright.keys.book import Book
from millwright.serving import server
from millwright.serving.access import Access
from millwright.serving.keys import KeyRing, key_ring
from millwright.serving.load import Load
from millwright.serving.rate import Limit
from millwright.settings import State

LOG = logging.getLogger("millwright.test")
UNLIMITED = Limit(0, 1)


@dataclass
class Guarded:
    """A running application behind its door."""

    ring: KeyRing
    url: str = ""
    answers: list[httpx.Response] = field(default_factory=list)
    may_end: threading.Event = field(default_factory=threading.Event)
    working: int = 0

    def app(self) -> Starlette:
        async def told(request: Request) -> Response:
            name = getattr(request.state, "key", None)
            LOG.info("%s asked for %s", name, request.url.path)
            return JSONResponse({"key": name})

        async def slow(request: Request) -> Response:
            self.working += 1
            await asyncio.to_thread(self.may_end.wait)
            self.working -= 1
            return JSONResponse({})

        return Starlette(
            routes=[
                Route("/health", told),
                Route("/v1/predict", told, methods=["POST"]),
                Route("/v1/releases", told, methods=["GET", "PUT"]),
                Route("/v1/slow", slow),
            ]
        )

    def ask(self, key: str | None, path: str = "/v1/predict", method: str = "POST") -> Any:
        """The status of an answer to a request with that key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.answers.append(
            httpx.request(
                method, self.url + path, headers=headers, timeout=20, trust_env=False
            )
        )  # fmt: skip
        return self.answers[-1].status_code

    @property
    def last(self) -> httpx.Response:
        return self.answers[-1]

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)


@contextmanager
def guarded(
    ring: KeyRing, keys: Limit = UNLIMITED, strangers: Limit = UNLIMITED, most: int = 10
) -> Iterator[Guarded]:
    """The application in a thread, as the service is run."""
    made = Guarded(ring)
    app = Access(Load(made.app(), most), ring, keys, strangers)
    running = uvicorn.Server(
        uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, proxy_headers=False
        )
    )
    with server.listen("127.0.0.1", 0) as listening:
        made.url = server.address(listening)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            made.until(lambda: running.started)
            yield made
        finally:
            running.should_exit = True
            thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setenv("MILLWRIGHT_HOME", str(tmp_path))
    for name in ("MILLWRIGHT_KEYS", "MILLWRIGHT_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    return State(tmp_path, "local")


@pytest.fixture
def keys(home: State, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The verb: what it said on stdout, without the end of the line."""

    def do(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["keys", *words, "--stack", "local"]) == code
        said = capsys.readouterr()
        return (said.out if code == 0 else said.err).rstrip("\n")

    return do


def test_each_request_needs_a_key_of_its_role(home: State, keys: Callable[..., str]) -> None:
    predict = keys("add", "dashboard", "--role", "predict")
    operate = keys("add", "plant", "--role", "operate", "--expires", "30")
    with guarded(key_ring(home)) as service:
        assert service.ask(None, "/health", "GET") == 200
        for key in (None, "nonsense", predict[:-1], f"{predict}0", "mw_" + "0" * 77):
            assert service.ask(key) == 401
            assert service.last.headers["www-authenticate"] == "Bearer"
            assert list(service.last.json()) == ["error"]
        assert service.ask(predict) == 200
        assert service.last.json() == {"key": "dashboard"}
        assert service.ask(predict, "/v1/releases", "GET") == 200
        assert service.ask(predict, "/v1/releases", "PUT") == 403
        told = "key 'dashboard' has the role predict, and this needs operate"
        assert service.last.json() == {"error": told}
        assert service.ask(operate, "/v1/releases", "PUT") == 200
        assert service.ask(operate) == 200
        assert service.ask(predict, "/nowhere", "GET") == 404
        assert service.ask(None, "/nowhere", "GET") == 401


def test_a_refusal_is_heard_by_who_still_sends(home: State, keys: Callable[..., str]) -> None:
    keys("add", "dashboard", "--role", "predict")
    with guarded(key_ring(home)) as service, httpx.Client(trust_env=False) as client:
        for _ in range(3):
            said = client.post(service.url + "/v1/predict", content=b" " * 3_000_000)
            assert said.status_code == 401


def test_a_key_that_has_expired_or_was_revoked_is_told_so(
    home: State, keys: Callable[..., str]
) -> None:
    then = datetime.now(UTC) - timedelta(days=2)
    book, _, late = Book().added("late", "predict", then, timedelta(days=1))
    with file.changing(file.place(home), print) as write:
        write(book)
    shown = keys("add", "gone", "--role", "predict")
    with guarded(key_ring(home)) as service:
        assert service.ask(shown) == 200
        keys("revoke", "gone")
        service.ring.look()
        assert service.ask(shown) == 401
        assert service.last.json() == {"error": "key 'gone' was revoked; ask for another"}
        assert service.ask(late) == 401
        assert service.last.json() == {"error": "key 'late' has expired; ask for another"}


def test_no_request_fails_while_a_key_is_rotated(home: State, keys: Callable[..., str]) -> None:
    shown = [keys("add", "dashboard", "--role", "predict")]
    with guarded(key_ring(home)) as service:
        ended, statuses = threading.Event(), set[int]()

        def ask() -> None:
            with httpx.Client(trust_env=False) as client:
                while not ended.is_set():
                    service.ring.look()
                    headers = {"X-API-Key": shown[-1]}
                    statuses.add(
                        client.post(f"{service.url}/v1/predict", headers=headers).status_code
                    )

        thread = threading.Thread(target=ask)
        thread.start()
        for _ in range(5):
            latest = keys("rotate", "dashboard")
            service.until(lambda: service.ring.now.find(latest.encode()) is not None)  # noqa: B023
            shown.append(latest)
        ended.set()
        thread.join()
        assert statuses == {200}
        assert {service.ask(key) for key in shown} == {200}
        last = keys("rotate", "dashboard", "--grace", "0")
        service.ring.look()
        assert [service.ask(key) for key in shown] == [401] * 6
        assert service.ask(last) == 200


def test_the_door_closes_with_the_first_key_and_never_opens_again(
    home: State, keys: Callable[..., str]
) -> None:
    path = file.place(home)
    with guarded(key_ring(home)) as service:
        assert service.ask(None) == 200
        assert service.last.json() == {"key": None}
        shown = keys("add", "dashboard", "--role", "predict")
        service.ring.look()
        assert [service.ask(None), service.ask(shown)] == [401, 200]

        good = path.read_bytes()
        path.write_bytes(good[: len(good) // 2])
        service.ring.look()
        assert [service.ask(None), service.ask(shown)] == [401, 200]
        assert "no file of keys" in str(service.ring.fault)
        assert "no file of keys" in keys("list", code=2)

        path.unlink()
        service.ring.look()
        assert [service.ask(None), service.ask(shown)] == [503, 503]
        assert service.last.headers["retry-after"] == "1"
        assert service.ask(None, "/health", "GET") == 200

        path.write_bytes(good)
        path.chmod(0o600)
        service.ring.look()
        assert [service.ask(None), service.ask(shown)] == [401, 200]


def test_a_client_that_asks_too_often_is_told_when_to_come_again(
    home: State, keys: Callable[..., str]
) -> None:
    first = keys("add", "greedy", "--role", "predict")
    other = keys("add", "modest", "--role", "predict")
    now = [0]
    limits = [Limit(0.5, 3, clock=lambda: now[0]) for _ in range(2)]
    with guarded(key_ring(home), *limits) as service:
        assert [service.ask(first) for _ in range(4)] == [200, 200, 200, 429]
        assert service.last.headers["retry-after"] == "2"
        assert service.last.json()["error"].startswith("that is more than 0.5 requests a second")
        second = keys("rotate", "greedy")
        service.ring.look()
        assert service.ask(second) == 429  # it is the same client
        assert service.ask(other) == 200
        assert [service.ask("guessed") for _ in range(4)] == [401, 401, 401, 429]
        assert service.ask(None) == 429
        assert service.ask(None, "/health", "GET") == 200
        assert service.ask(other) == 200  # though it comes from the same address
        now[0] += 2 * 10**9
        assert [service.ask(second), service.ask("guessed")] == [200, 401]


def test_no_more_requests_are_worked_on_than_fit(home: State) -> None:
    with guarded(key_ring(home), most=2) as service:
        threads = [
            threading.Thread(target=service.ask, args=(None, "/v1/slow", "GET")) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        service.until(lambda: service.working == 2)
        assert service.ask(None) == 503
        assert service.last.headers["retry-after"] == "1"
        assert service.ask(None, "/health", "GET") == 200
        service.may_end.set()
        for thread in threads:
            thread.join()
        assert service.ask(None) == 200


def test_a_key_is_told_once_and_is_in_no_file_log_or_answer(
    home: State, keys: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    summary = tmp_path / "summary.json"
    shown = [keys("add", "dashboard", "--role", "predict", "--json", str(summary))]
    assert json.loads(summary.read_text())["keys"][0]["condition"] == "valid"
    with guarded(key_ring(home)) as service:
        shown.append(keys("rotate", "dashboard", "--json", str(summary)))
        service.ring.look()
        for key in (*shown, shown[0][:-1], shown[0].upper()):
            service.ask(key)
            service.ask(key, "/v1/releases", "PUT")
            service.ask(key, f"/nowhere?key={key}", "GET")
        address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
        with socket.create_connection(address) as connection:
            connection.sendall(f"nonsense {shown[0]}\r\n\r\n".encode())
            assert b"400" in connection.recv(1000)
        file.place(home).write_text("{")
        service.ring.look()
        keys("list", code=2)
    # What this test's own client logs is no business of the service.
    logged = [each.getMessage() for each in caplog.records if not each.name.startswith("http")]
    assert "dashboard asked for /v1/predict" in logged
    told = [*logged, *capsys.readouterr()]
    told += [f"{answer.headers} {answer.text}" for answer in service.answers]
    told += [each.read_text() for each in tmp_path.rglob("*") if each.is_file()]
    for key in shown:
        secret = key.rpartition("_")[2]
        assert not [text for text in told if secret in text.lower()]


def test_keys_are_listed_with_what_became_of_them(keys: Callable[..., str]) -> None:
    assert "make one: python -m millwright keys add" in keys("list")
    keys("add", "one", "--role", "predict")
    keys("add", "two", "--role", "operate", "--expires", "1")
    keys("revoke", "one")
    keys("revoke", "one")
    _, first, second = keys("list").splitlines()
    assert first.startswith("one (")
    assert "  predict, made 2" in first
    assert ", revoked 2" in first
    assert "  operate, made 2" in second
    assert ", expires 2" in second


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["add", "two words", "--role", "predict"], "'two words' is no name of a key"),
        (["add", "one", "--role", "predict", "--expires", "0"], "--expires is 0, and must be 1 to"),
        (["rotate", "one", "--grace", "1441"], "--grace is 1441, and must be 0 to 1440 minutes"),
        (["rotate", "one"], "there is no key 'one'; none is defined"),
        (["revoke", "one"], "there is no key 'one'; none is defined"),
    ],
)
def test_what_cannot_be_done_to_keys_is_told_in_one_line_and_changes_nothing(
    home: State, keys: Callable[..., str], words: list[str], told: str
) -> None:
    said = keys(*words, code=2)
    assert said.startswith(f"error: {told}")
    assert "\n" not in said
    assert not file.place(home).exists()
    assert not file.lock(file.place(home)).exists()  # which would tell that there were keys


def test_two_who_change_keys_at_once_both_have_theirs(home: State) -> None:
    command = [sys.executable, "-m", "millwright", "keys", "add", "--role", "predict"]
    processes = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    shown = [process.communicate()[0].strip() for process in processes]
    ring = key_ring(home)
    names = [key and key.name for key in map(ring.now.find, map(str.encode, shown))]
    assert names == ["one", "two"]
