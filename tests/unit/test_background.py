"""What the service in the background refuses, and how it mends what was spoilt."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from millwright import release_commands
from millwright.__main__ import main
from millwright.services.process import Server, alive, running
from millwright.serving import background
from millwright.settings import State

SERVE = ["serve", "--background", "--stack", "local", "--fleet", "simulated"]
SPOILT = (b"", b"\xff", b"garbage", b"http://[::1", b"http://127.0.0.1:99999", b"http://x:abc")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """A state folder of its own."""
    monkeypatch.setenv("MILLWRIGHT_HOME", str(tmp_path))
    return State(tmp_path, "local")


@pytest.fixture
def sleeper(here: State, monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """Something that only sleeps where the service would run."""

    def server(state: State, fleet: str, port: int) -> Server:
        command = (sys.executable, "-S", "-c", "import time; time.sleep(60)", str(port))
        return Server("service", state.service(fleet), command, Path(sys.executable))

    monkeypatch.setattr(background, "_server", server)
    monkeypatch.setattr(background, "_await", lambda *_: None)
    background.ensure(here, "simulated", print)
    found = running(here.service("simulated"))
    assert found
    yield found
    assert background.stop(here, "simulated", print)


def test_a_spoilt_address_counts_as_none_and_is_mended(
    here: State, sleeper: psutil.Process
) -> None:
    place = here.service("simulated") / "address"
    assert background.address(here, "simulated") == place.read_text().strip()
    for spoilt in SPOILT:
        place.write_bytes(spoilt)
        assert background.address(here, "simulated") is None
        assert not release_commands._follow(here, "simulated", lambda _: False)
    assert background.ensure(here, "simulated", print) == place.read_text().strip()
    assert background.address(here, "simulated") == place.read_text().strip()
    assert not alive(sleeper)  # nobody knew where it answered


# Listens on the port that it is given and says that it is of this code; ends where it cannot.
SERVICE = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Service(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(sys.argv[2].encode())
HTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
"""


def test_what_another_service_of_the_same_code_answers_is_not_taken_for_one_s_own(
    here: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = json.dumps({"code": background.code_version()})

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said.encode())

    def server(state: State, fleet: str, port: int) -> Server:
        command = (sys.executable, "-S", "-c", SERVICE, str(port), said)
        return Server("service", state.service(fleet), command, Path(sys.executable))

    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    told: list[str] = []
    with HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        ports = [other.server_port, free]  # the first was free when it was looked at
        monkeypatch.setattr(background, "_port", lambda _: ports.pop(0))
        monkeypatch.setattr(background, "_server", server)
        try:
            found = background.ensure(here, "simulated", told.append)
            assert found == f"http://127.0.0.1:{free}" == background.address(here, "simulated")
            assert f"port {other.server_port} was taken meanwhile" in " ".join(told)
        finally:
            other.shutdown()
            assert background.stop(here, "simulated", print)


class Stranger(BaseHTTPRequestHandler):
    """Answers with JSON that is no object."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")


def test_a_stranger_gives_no_answer() -> None:
    with HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.handle_request).start()
        assert background.ask(f"http://127.0.0.1:{stranger.server_port}", "/ready") == (0, {})


@pytest.mark.parametrize(
    "beginning",
    [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b""],
    ids=["to its end", "by its length", "headers"],
)
def test_a_stranger_who_never_ends_gives_no_answer(
    monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(background, "ANSWER", 0.2)

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(beginning)
            with suppress(OSError):  # who asked is gone
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.02)

    with HTTPServer(("127.0.0.1", 0), Endless) as stranger:
        threading.Thread(target=stranger.handle_request).start()
        assert background.ask(f"http://127.0.0.1:{stranger.server_port}", "/ready") == (0, {})


def test_an_answer_that_is_longer_than_any_of_ours_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Long(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"ready": true}')

    with HTTPServer(("127.0.0.1", 0), Long) as stranger:
        threading.Thread(target=stranger.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{stranger.server_port}"
        assert background.ask(url, "/ready") == (200, {"ready": True})
        monkeypatch.setattr(background, "MOST_BYTES", 14)
        assert background.ask(url, "/ready") == (0, {})
        stranger.shutdown()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:abc", "http://[::1", "http://127.0.0.1:99999", "garbage:x"]
)
def test_what_is_no_url_gives_no_answer(url: str) -> None:
    assert background.ask(url, "/ready") == (0, {})


@pytest.mark.parametrize("made", ["local/simulated", "local/simulated/service/address/folder"])
def test_a_folder_that_cannot_be_written_is_told_with_the_way_out(
    here: State, capsys: pytest.CaptureFixture[str], made: str
) -> None:
    (here.home / made).parent.mkdir(parents=True)
    (here.home / made).touch()  # in the way of a folder, or of a file that would be replaced
    assert main(SERVE) == 2
    said = capsys.readouterr().err
    assert f"cannot keep the service in {here.service('simulated')}: " in said
    assert "give a folder that may be written, with MILLWRIGHT_HOME" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--port", "9123", "--host", "127.0.0.2"], "--host and --port"),
        (["--port", "8000"], "--port"),
        (["--release", "nowhere"], "--release"),
    ],
)
def test_what_would_not_be_done_in_the_background_is_refused(
    here: State, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main([*SERVE, *words]) == 2
    assert f"--background does not go with {told}: " in capsys.readouterr().err
    assert not here.service("simulated").exists()


@pytest.mark.parametrize(
    ("words", "told"), [(["--fleet", "plants"], "fleet plants in "), ([], "")]
)  # fmt: skip
def test_what_is_said_not_to_run_is_what_was_to_be_stopped(
    here: State, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["serve", "--stop", "--stack", "local", *words]) == 0
    assert f"no service of {told}environment local runs here" in capsys.readouterr().err
