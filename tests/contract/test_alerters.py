"""Alerters as ZenML runs them, against a real HTTP server."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
from zenml.alerter import BaseAlerter
from zenml.enums import StackComponentType
from zenml.integrations.slack.flavors import SlackAlerterFlavor
from zenml.utils import source_utils

from millwright import alerters, delivery
from millwright.alerters import (
    AlertParameters,
    FileAlerter,
    FileAlerterConfig,
    FileAlerterFlavor,
    WebhookAlerter,
    WebhookAlerterConfig,
    WebhookAlerterFlavor,
    send,
)
from millwright.alerts import Alert
from millwright.settings import REPOSITORY

VARIABLE = "MILLWRIGHT_TEST_WEBHOOK"
SECRET = "Tq7secret"  # noqa: S105


def alert(text: str = "training of fleet mill failed: ü", *details: str) -> Alert:
    now = datetime(2025, 3, 30, 12, tzinfo=UTC)
    return Alert(now, "staging", "mill", "training", "failed", text, details)


def component(kind: type[BaseAlerter], config: object) -> BaseAlerter:
    flavor = "console_and_file" if kind is FileAlerter else "webhook"
    now = datetime.now(UTC)
    return kind(
        name="ours", id=uuid4(), config=config, flavor=flavor, type=StackComponentType.ALERTER,
        user=None, created=now, updated=now,
    )  # fmt: skip


def webhook(path: Path | None = None) -> WebhookAlerter:
    place = str(path) if path else None
    return component(WebhookAlerter, WebhookAlerterConfig(url_variable=VARIABLE, path=place))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(records: list[dict[str, object]]) -> list[object]:
    return [record["text"] for record in records]


class Receiver(ThreadingHTTPServer):
    """Takes alerts, with the answers and as slowly as it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.taken: list[dict[str, object]] = []
        self.requests = 0
        self.answer: Callable[[dict[str, object]], int] = lambda _: 200
        self.wait = threading.Event()
        self.wait.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/{SECRET}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == f"/hooks/{SECRET}"
        assert self.headers["Content-Type"] == "application/json"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests += 1
        status = self.server.answer(body)
        if not self.server.wait.is_set():
            self._dawdle()
            return
        if status == 200:
            self.server.taken.append(body)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def _dawdle(self) -> None:
        """Give a byte now and then, so that no single read takes long."""
        try:
            while not self.server.wait.wait(0.1):
                self.wfile.write(b"H")
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv(VARIABLE, server.url)
        yield server
        server.wait.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The webhook is at a port where nobody listens."""
    with Receiver() as server:
        monkeypatch.setenv(VARIABLE, server.url)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PAUSES", (0.01, 0.01))
    alerters._tell_once.cache_clear()


@pytest.mark.filterwarnings("ignore:'crypt' is deprecated:DeprecationWarning")  # in passlib
@pytest.mark.parametrize("flavor", [FileAlerterFlavor, WebhookAlerterFlavor, SlackAlerterFlavor])
def test_a_flavor_is_found_by_its_source(flavor, monkeypatch):
    monkeypatch.setattr(source_utils, "_CUSTOM_SOURCE_ROOT", str(REPOSITORY))
    described = flavor().to_model(is_custom=flavor is not SlackAlerterFlavor)
    assert described.type == StackComponentType.ALERTER
    assert described.source.endswith(flavor.__name__)
    assert "url" not in described.config_schema["properties"]


def test_console_and_file_tells_a_line_and_keeps_a_record(tmp_path, capsys):
    path = tmp_path / "deep" / "alerts.jsonl"
    ours = component(FileAlerter, FileAlerterConfig(path=str(path)))
    send(ours, alert("first [bold]", "one", "two"))
    send(ours, alert("second"))
    assert capsys.readouterr().err == "alert: first [bold]\nalert: second\n"
    first, second = lines(path)
    assert first == {
        "time": "2025-03-30T12:00:00Z", "environment": "staging", "fleet": "mill",
        "pipeline": "training", "status": "failed", "text": "first [bold]",
        "details": ["one", "two"],
    }  # fmt: skip
    assert second["text"] == "second"


def test_what_others_post_is_kept_too(tmp_path):
    path = tmp_path / "alerts.jsonl"
    assert component(FileAlerter, FileAlerterConfig(path=str(path))).post("hello\nworld")
    (record,) = lines(path)
    assert (record["text"], record["details"], record["fleet"]) == ("hello", ["world"], None)


@pytest.mark.parametrize("kind", ["file", "webhook"])
def test_a_file_that_cannot_be_written_is_a_warning(tmp_path, capsys, receiver, kind):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "alerts.jsonl"
    ours = component(FileAlerter, FileAlerterConfig(path=str(path)))
    send(ours if kind == "file" else webhook(path), alert())
    warning = capsys.readouterr().err.splitlines()[-1]
    assert warning.startswith("warning: cannot ")
    assert str(path) in warning
    assert len(receiver.taken) == (kind == "webhook")


def test_a_line_cut_short_by_a_kill_costs_no_other(tmp_path, receiver):
    path = tmp_path / "spool"
    path.write_text('{"id": "1", "text": "half')
    send(webhook(path), alert("whole"))
    assert texts(receiver.taken) == ["whole"]
    assert path.read_text() == '{"id": "1", "text": "half\n'


def test_a_webhook_gets_each_alert_as_json_once(tmp_path, receiver, capsys):
    path = tmp_path / "spool"
    ours = webhook(path)
    send(ours, alert("first", "one"))
    send(ours, alert("second"))
    first, second = receiver.taken
    assert len({first.pop("id"), second.pop("id")}) == 2
    assert first == AlertParameters.model_validate(vars(alert("first", "one"))).model_dump(
        mode="json"
    )
    assert second["text"] == "second"
    assert path.read_text() == ""
    assert capsys.readouterr().err == ""


def test_two_retries_overcome_a_webhook_that_falters(tmp_path, receiver, capsys):
    answers = iter([500, 429, 200])
    receiver.answer = lambda _: next(answers)
    assert webhook(tmp_path / "spool").post("hello")
    assert texts(receiver.taken) == ["hello"]
    assert capsys.readouterr().err == ""


def test_a_dead_webhooks_alerts_go_with_the_next_one_in_order(tmp_path, receiver, capsys):
    path = tmp_path / "spool"
    receiver.answer = lambda _: 503
    for text in ("first", "second"):
        send(webhook(path), alert(text))
    assert receiver.requests == 6
    assert texts(lines(path)) == ["first", "second"]
    waiting = lines(path)
    warnings = capsys.readouterr().err.splitlines()
    assert warnings[1] == (
        f"warning: the webhook of {VARIABLE} answers 503; 2 alerts wait in {path} for the next one"
    )
    receiver.answer = lambda _: 200
    send(webhook(path), alert("third"))
    assert texts(receiver.taken) == ["first", "second", "third"]
    assert receiver.taken[:2] == waiting
    assert path.read_text() == ""


@pytest.mark.parametrize("status", [400, 404, 410])
def test_an_alert_that_is_refused_for_good_is_put_apart_and_stops_no_other(
    tmp_path, receiver, capsys, status
):
    path, apart = tmp_path / "spool", tmp_path / "spool.refused"
    receiver.answer = lambda body: status if body["text"] == "odd" else 200
    for text in ("odd", "even", "odd"):
        send(webhook(path), alert(text))
    assert texts(receiver.taken) == ["even"]
    assert receiver.requests == 3
    assert path.read_text() == ""
    kept = lines(apart)
    assert texts(kept) == ["odd", "odd"]
    assert len({record["id"] for record in kept}) == 2
    told = f"answers {status} to 'odd', which is kept in {apart}; it is not posted again"
    said = capsys.readouterr().err.splitlines()
    assert said == [f"warning: the webhook of {VARIABLE} {told}"] * 2


def test_without_a_file_a_refused_alert_is_lost_and_named(receiver, capsys):
    receiver.answer = lambda _: 413
    assert not webhook().post("odd")
    assert "answers 413 to 'odd', which is lost" in capsys.readouterr().err
    assert receiver.requests == 1


@pytest.mark.parametrize("status", [408, 429, 500])
def test_what_may_pass_keeps_an_alert_waiting(tmp_path, receiver, status):
    receiver.answer = lambda _: status
    assert not webhook(tmp_path / "spool").post("odd")
    assert texts(lines(tmp_path / "spool")) == ["odd"]
    assert not (tmp_path / "spool.refused").exists()


def test_a_redirect_is_no_delivery(tmp_path, receiver, capsys):
    receiver.answer = lambda _: 302
    send(webhook(tmp_path / "spool"), alert())
    assert "answers 302" in capsys.readouterr().err
    assert len(lines(tmp_path / "spool")) == 1


@pytest.mark.usefixtures("closed")
def test_a_closed_webhook_is_a_warning_without_its_url(tmp_path, capsys):
    send(webhook(tmp_path / "spool"), alert())
    send(webhook(), alert("gone"))
    kept, lost = capsys.readouterr().err.splitlines()
    assert f"{VARIABLE} cannot be reached: Connection refused; 1 alert waits" in kept
    assert lost.endswith("this alert is lost: gone")
    assert SECRET not in kept + lost
    assert len(lines(tmp_path / "spool")) == 1


def test_a_webhook_that_dawdles_holds_nobody_up(tmp_path, receiver, monkeypatch, capsys):
    monkeypatch.setattr(delivery, "DEADLINE", 0.6)
    receiver.wait.clear()
    begin = time.monotonic()
    send(webhook(tmp_path / "spool"), alert())
    assert time.monotonic() - begin < 3
    assert "did not take everything within 0.6 s; 1 alert waits" in capsys.readouterr().err
    assert len(lines(tmp_path / "spool")) == 1


def test_the_limits_are_what_is_promised():
    assert delivery.DEADLINE == 5
    assert alerters.LIMIT <= 10


def test_without_the_variable_alerts_are_kept_and_that_is_told_once(
    tmp_path, receiver, monkeypatch, capsys
):
    monkeypatch.delenv(VARIABLE)
    path = tmp_path / "spool"
    for text in ("first", "second"):
        send(webhook(path), alert(text))
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {VARIABLE} is not set, so no alert is posted",
        f"alert: first (kept in {path})",
        f"alert: second (kept in {path})",
    ]
    monkeypatch.setenv(VARIABLE, receiver.url)
    send(webhook(path), alert("third"))
    assert texts(receiver.taken) == ["first", "second", "third"]


@pytest.mark.parametrize(
    "url",
    [f"file:///{SECRET}", SECRET, f"http://me:{SECRET}@host/", f"http://host:{SECRET}/", "http://"],
)
def test_a_url_of_another_kind_is_a_warning_without_it(tmp_path, monkeypatch, capsys, url):
    monkeypatch.setenv(VARIABLE, url)
    send(webhook(tmp_path / "spool"), alert())
    said = capsys.readouterr().err
    assert f"warning: the webhook of {VARIABLE} " in said
    assert "1 alert waits" in said
    assert SECRET not in said


# What a webhook alerter does with each alert, without ZenML, which takes long to import.
MANY = """
import os, sys
from pathlib import Path
from millwright import delivery
from millwright.alert_file import AlertFile

delivery.PAUSES = (0.01, 0.01)
spool = AlertFile(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    record = {"id": f"{sys.argv[2]}-{number}", "text": f"{sys.argv[2]}-{number}"}
    spool.append(record)
    delivery.deliver(os.environ[sys.argv[4]], record, spool)
"""


def test_several_processes_lose_nothing_and_send_nothing_twice(tmp_path, receiver):
    seen = []
    receiver.answer = lambda body: seen.append(body["id"]) or (503 if len(seen) % 3 == 0 else 200)
    path = tmp_path / "spool"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def run(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", MANY, str(path), name, "8", VARIABLE]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor() as pool:
        done = list(pool.map(run, "ab"))
    assert [each.returncode for each in done] == [0, 0], done[0].stderr
    receiver.answer = lambda _: 200
    webhook(path).post("last")
    expected = sorted([f"{name}-{number}" for name in "ab" for number in range(8)] + ["last"])
    assert sorted(texts(receiver.taken)) == expected
    assert path.read_text() == ""


class Theirs(BaseAlerter):
    """Somebody else's alerter, which gets what ZenML's contract says."""

    def __init__(self, behave: Callable[[str, object], bool]) -> None:
        self.behave = behave
        self.name = "theirs"

    def post(self, message, params=None):
        return self.behave(message, params)


def test_an_alerter_of_others_gets_the_whole_message(capsys):
    got = []
    send(Theirs(lambda *words: got.append(words) or True), alert("text", "one", "two"))
    ((message, parameters),) = got
    assert message == "text\n- one\n- two"
    assert parameters.fleet == "mill"
    assert capsys.readouterr().err == ""


def test_an_alerter_of_others_may_fail_as_it_likes(monkeypatch, capsys):
    def breaks(*_: object) -> bool:
        raise ValueError(SECRET)

    hold = threading.Event()
    monkeypatch.setattr(alerters, "LIMIT", 0.1)
    for behave in (breaks, lambda *_: False, lambda *_: hold.wait(5)):
        send(Theirs(behave), alert("text"))
    hold.set()
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "warning: alerter 'theirs' did not deliver: text (ValueError)",
        "warning: alerter 'theirs' did not deliver: text (it says no more)",
        "warning: alerter 'theirs' did not deliver: text (it takes longer than 0.1 s)",
    ]
