"""The service, as a real process, among clients who mean it ill."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import psutil
import pytest
import uvicorn
from hostile_bodies import BODIES, HIDDEN, Asked, hostile
from service_plant import TELEMETRY, Plant, Server, expected, filled_plant, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from millwright.serving import connection
from millwright.serving.server import listen

ROUNDS = 3
LEAK = 5_000  # bytes a request, that would be found
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with filled_plant(tmp_path_factory, 1) as plant:
        yield plant


@pytest.fixture(scope="module")
def server(plant: Plant) -> Iterator[Server]:
    with serving(plant) as server:
        server.in_use(1)
        yield server


@pytest.fixture(scope="module")
def right(plant: Plant) -> float:
    return expected(plant, 1, *TELEMETRY, "machine_attributes")


def place(server: Server) -> tuple[str, int]:
    return "127.0.0.1", int(server.url.rpartition(":")[2])


def answers_rightly(server: Server, right: float) -> None:
    said = server.predict("whole", "nobody").json()["predictions"]
    assert [each["status"] for each in said] == ["ok", "unknown"]
    assert [each["probability"] for each in said] == [right, None]


def check(asked: Asked, status: int, kind: str, body: bytes) -> None:
    """An answer is a prediction, or one sentence about what is wrong."""
    method, path, sent, _ = asked
    assert status < 500, (asked[:2], sent[:200], body)
    assert kind == "application/json", (path, kind)
    if method == "HEAD":
        return
    told = json.loads(body)
    if status == 200:
        assert {each["status"] for each in told["predictions"]} <= {"unknown", "ok"}
        assert {each["status"] for each in told["predictions"] if each["machine"] != "whole"} <= {
            "unknown"
        }
        return
    assert list(told) == ["error"], told
    assert 0 < len(told["error"]) < 2_000
    for each in (HIDDEN, "Traceback", "site-packages", ".py", "\n"):
        assert each not in told["error"], told


def of_process(server: Server) -> psutil.Process:
    return psutil.Process(server.process.pid)


def connections(server: Server) -> int:
    there = of_process(server).net_connections(kind="tcp")
    return sum(each.status == psutil.CONN_ESTABLISHED for each in there)


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def warm(server: Server, right: float) -> None:
    """Have it import and open what it does late, before anything is counted."""
    answers_rightly(server, right)
    assert server.predict(*["whole"] * 100).status_code == 200  # in the line of large requests
    until(lambda: bool(server.get("/v1/machines/whole/predictions").json()["predictions"]))
    server.get("/v1/fleet")


def test_thousands_of_hostile_bodies_are_refused_and_leave_nothing_behind(
    server: Server, right: float
) -> None:
    warm(server, right)
    process = of_process(server)
    handles, lines = process.num_fds(), connections(server)
    statuses, memory = set[int](), []
    with closing(http.client.HTTPConnection(*place(server), timeout=30)) as line:
        for seed in range(ROUNDS):
            for asked in hostile(seed):
                line.request(*asked)
                said = line.getresponse()
                check(asked, said.status, said.headers.get("content-type", ""), said.read())
                statuses.add(said.status)
            answers_rightly(server, right)
            memory.append(process.memory_info().rss)
    # In the first round the allocator gets what it then uses again.
    assert memory[-1] - memory[0] < LEAK * BODIES * (ROUNDS - 1), memory
    assert {200, 400, 404, 405, 413, 415, 422} <= statuses
    until(lambda: process.num_fds() <= handles and connections(server) <= lines)
    assert not [line for line in server.lines if "internal error" in line or "Traceback" in line]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/9.9\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"CONNECT / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /nowhere?\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /nowhere%0aX HTTP/1.1\r\nHost: [localhost\r\n\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /v1/fleet HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n", 403),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000, 431),
        (b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, 431),
        (b"GET /" + b"a" * 1_000_000, 431),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"\r\n" * 100_000, 431),
        (HEAD + b"Content-Length: -5\r\n\r\n", 400),
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}garbage", 400),
        (HEAD + b"Content-Length: 2\r\n\r\n{}and more", 400),
        (
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            200,
        ),
    ],
)
def test_what_is_hardly_http_is_refused_in_json(
    server: Server, right: float, sent: bytes, status: int
) -> None:
    with socket.create_connection(place(server)) as line:
        line.settimeout(30)
        with suppress(ConnectionError):  # it has heard enough; what it said is there nevertheless
            line.sendall(sent)
        assert refused(line) == status
    answers_rightly(server, right)


def refused(line: socket.socket) -> int:
    """The status of what is answered there."""
    with closing(http.client.HTTPResponse(line)) as said:
        said.begin()
        assert said.headers["content-type"] == "application/json"
        told = json.loads(said.read())
        assert list(told) == (["error"] if said.status >= 400 else ["status"])
        return said.status


def test_slow_and_deaf_clients_hold_nothing_for_long(server: Server, right: float) -> None:
    warm(server, right)
    process = of_process(server)
    handles, lines = process.num_fds(), connections(server)
    many = json.dumps({"machines": ["x" * 200] * 1_000}).encode()
    deaf = HEAD + f"Content-Length: {len(many)}\r\n\r\n".encode() + many
    with ExitStack() as stack:

        def line(sent: bytes, room: int | None = None) -> socket.socket:
            made = stack.enter_context(socket.socket())
            if room:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            made.settimeout(30)
            made.connect(place(server))
            made.sendall(sent)
            return made

        for _ in range(100):
            line(b"")
            line(b"GET /health HTTP/1.1\r\nHost: loc")
            line(b"\r\n")
        late = [line(HEAD + b"Content-Length: 100\r\n\r\n{") for _ in range(50)]
        for _ in range(50):
            line(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
        for _ in range(3):
            threading.Thread(target=sent_until_cut, args=(line(b"", 4_096), deaf)).start()
        dropped = [line(HEAD + b"Content-Length: 100\r\n\r\n{") for _ in range(50)]
        for each in dropped:
            each.close()
        # Every one of them is held open from this side, and the service answers all the same.
        answers_rightly(server, right)
        assert {refused(each) for each in late} == {408}
        for each in late:
            each.close()
        answers_rightly(server, right)
        until(lambda: connections(server) <= lines)
    until(lambda: process.num_fds() <= handles)
    answers_rightly(server, right)
    assert not [line for line in server.lines if "internal error" in line or "Traceback" in line]


def sent_until_cut(line: socket.socket, sent: bytes) -> None:
    """Ask and ask, and never listen."""
    with suppress(OSError):
        while True:
            line.sendall(sent)


def test_requests_in_a_row_are_answered_in_their_order(server: Server) -> None:
    ways = [b"/health", b"/nowhere", b"/v1/fleet?limit=x"] * 100
    sent = b"".join(b"GET " + way + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" for way in ways)
    with socket.create_connection(place(server)) as line, line.makefile("rb") as reader:
        line.settimeout(30)
        line.sendall(sent)
        found = []
        for _ in ways:
            found.append(int(reader.readline().split()[1]))
            reader.read(int(http.client.parse_headers(reader)["content-length"]))
    assert found == [200, 404, 422] * 100


@pytest.mark.parametrize("joined", [b"Upgrade, HTTP2-Settings", b"Upgrade, close"])
@pytest.mark.parametrize("at_once", [True, False])
def test_who_asks_for_another_protocol_is_answered_by_this_one(
    server: Server, right: float, joined: bytes, at_once: bool
) -> None:
    body = json.dumps({"machines": ["whole"]}).encode()
    head = HEAD + b"Connection: %s\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" % joined
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(place(server)) as line, line.makefile("rb") as reader:
        line.settimeout(30)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests = 1 if b"close" in joined else 3
        for part in [(head + body) * requests] if at_once else [head, body] * requests:
            line.sendall(part)
            time.sleep(0.05)  # so that the service reads one part by itself
        for _ in range(requests):
            assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
            length = int(http.client.parse_headers(reader)["content-length"])
            assert json.loads(reader.read(length))["predictions"][0]["probability"] == right
        if requests == 1:
            assert reader.read() == b""


def test_requests_for_another_protocol_may_be_many_at_once() -> None:
    sent = b"GET /health HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with small_service() as running:
        where = running.servers[0].sockets[0].getsockname()
        with socket.create_connection(where) as line, line.makefile("rb") as reader:
            line.settimeout(30)
            line.sendall(sent * 2_000)
            for _ in range(2_000):
                assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
                reader.read(int(http.client.parse_headers(reader)["content-length"]))


def test_a_head_is_refused_by_its_size_in_however_many_parts_it_comes() -> None:
    with small_service() as running:
        where = running.servers[0].sockets[0].getsockname()
        for size, status in ((connection.MOST_HEAD - 100, 200), (connection.MOST_HEAD, 431)):
            sent = b"GET /health HTTP/1.1\r\nX: " + b"x" * size + b"\r\n\r\n"
            for part in (len(sent), len(sent) // 2, len(sent) - 1, 1_000):
                with socket.create_connection(where) as line, suppress(ConnectionError):
                    line.settimeout(30)
                    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for begin in range(0, len(sent), part):
                        line.sendall(sent[begin : begin + part])
                    assert refused(line) == status, (size, part)


@contextmanager
def small_service() -> Iterator[uvicorn.Server]:
    """An application in this process, on a connection as the service has them."""

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    app = Starlette(routes=[Route("/health", health)])
    config = uvicorn.Config(app, http=connection.Connection, ws="none", log_config=None)
    running = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: running.started)
            yield running
        finally:
            running.should_exit = True
            thread.join()


def test_the_connection_that_waits_longest_makes_room_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_most_connections", lambda: 5)
    with small_service() as running, ExitStack() as stack:
        where = running.servers[0].sockets[0].getsockname()
        held = []
        for _ in range(30):
            held.append(stack.enter_context(socket.create_connection(where)))
            held[-1].settimeout(30)
            held[-1].sendall(b"GET /hea")
        held[-1].sendall(b"lth HTTP/1.1\r\n\r\n")
        assert refused(held[-1]) == 200
        until(lambda: len(running.server_state.connections) <= 5)
        for each in held[:25]:
            with suppress(ConnectionError):
                assert each.recv(100) == b""
