"""Who is let in: the keys as the service follows them, and the role of each request."""

import asyncio
import hmac
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from millwright.errors import ConfigurationError
from millwright.keys import file
from millwright.keys.book import Book
from millwright.keys.key import Role
from millwright.serving import keys as following
from millwright.serving.access import Access, needed
from millwright.serving.keys import KeyRing, check_exposure, key_ring
from millwright.serving.load import Load
from millwright.serving.rate import Limit
from millwright.settings import State

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def put(path: Path, book: Book) -> None:
    """The book in the file's place, as the verb puts it there."""
    draft = path.with_suffix(".draft")
    draft.write_text(book.model_dump_json())
    draft.chmod(0o600)
    draft.replace(path)


def added(path: Path, name: str, role: Role = "predict", life: timedelta | None = None) -> str:
    """A further key in the file, and what its client shows."""
    book = Book.model_validate_json(path.read_bytes()) if path.is_file() else Book()
    book, _, shown = book.added(name, role, NOW, life)
    put(path, book)
    return shown


def found(ring: KeyRing, shown: str) -> str | None:
    key = ring.now.find(shown.encode())
    return key and key.name


# The ring


def test_a_ring_knows_each_key_and_nothing_that_resembles_one(path: Path) -> None:
    one, two = added(path, "one"), added(path, "two", "operate")
    ring = KeyRing(path)
    assert [found(ring, one), found(ring, two)] == ["one", "two"]
    for other in ("", "mw_", one[:-1], one + "0", one.upper(), one[:20] + two[20:], f" {one}"):
        assert found(ring, other) is None


@given(st.binary(max_size=120))
def test_no_bytes_that_were_not_given_out_are_a_key(shown: bytes) -> None:
    ring = KeyRing(Path("/nowhere/keys.json"))
    assert ring.now.find(shown) is None


def test_a_known_and_an_unknown_key_are_compared_alike(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = added(path, "one")
    ring = KeyRing(path)
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    class Watched:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(following, "hmac", Watched)
    wrong = shown[:-1] + ("0" if shown[-1] != "0" else "1")
    unknown = "mw_" + "0" * 12 + shown[15:]
    tried = [found(ring, each) for each in (shown, wrong, unknown, "", "nonsense")]
    assert tried == ["one", None, None, None, None]
    assert compared == [(32, 32)] * 5


def test_a_change_of_the_file_is_followed_and_one_that_is_none_is_not_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = added(path, "one")
    ring = KeyRing(path)
    before = ring.now
    ring.look()
    assert ring.now is before
    second = added(path, "two")
    ring.look()
    assert [found(ring, first), found(ring, second)] == ["one", "two"]


def test_a_mounted_secret_that_is_exchanged_by_its_link_is_followed(tmp_path: Path) -> None:
    shown = []
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        shown.append(added(tmp_path / name / "keys.json", "one"))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys.json").symlink_to("..data/keys.json")
    ring = KeyRing(tmp_path / "keys.json", named=True)
    assert [found(ring, each) for each in shown] == ["one", None]
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    ring.look()
    assert [found(ring, each) for each in shown] == [None, "one"]


def test_a_broken_file_leaves_the_keys_that_were_good_and_is_told_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = added(path, "one")
    ring = KeyRing(path)
    path.write_text("{")
    for _ in range(3):
        ring.look()
    assert (ring.now.door, found(ring, shown)) == ("guarded", "one")
    assert "no file of keys" in str(ring.fault)
    assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1
    path.unlink()
    again = added(path, "two")
    ring.look()
    assert (ring.fault, found(ring, shown), found(ring, again)) == (None, None, "two")


def test_a_file_that_is_there_and_cannot_be_read_leaves_the_keys_that_were_good(path: Path) -> None:
    shown = added(path, "one")
    ring = KeyRing(path)
    path.unlink()
    path.symlink_to(path)  # a link to itself: neither gone nor to be read
    ring.look()
    assert (ring.now.door, found(ring, shown)) == ("guarded", "one")
    assert "cannot read" in str(ring.fault)


def test_a_file_that_is_gone_closes_the_door_until_it_is_back(path: Path) -> None:
    shown = added(path, "one")
    ring = KeyRing(path)
    path.rename(path.with_suffix(".away"))
    for _ in range(2):
        ring.look()
        assert (ring.now.door, found(ring, shown)) == ("closed", None)
        assert "is not there" in str(ring.fault)
    path.write_text("{")  # what is broken then brings back no keys
    ring.look()
    assert (ring.now.door, found(ring, shown)) == ("closed", None)
    path.with_suffix(".away").replace(path)
    ring.look()
    assert (ring.now.door, ring.fault, found(ring, shown)) == ("guarded", None, "one")


def test_a_process_that_begins_after_the_file_has_gone_finds_the_door_closed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with file.changing(path, print) as write:
        book, _, shown = Book().added("one", "predict", NOW, None)
        write(book)
    path.rename(path.with_suffix(".away"))
    ring = KeyRing(path)
    assert ring.now.door == "closed"
    told = r"is not there.*make a key: .* keys add .*; to do without keys, remove .*keys.lock and"
    with pytest.raises(ConfigurationError, match=told):
        check_exposure("127.0.0.1", ring)
    check_exposure("127.0.0.1", ring, again=True)
    assert "is not there" in caplog.text
    path.with_suffix(".away").replace(path)
    ring.look()
    assert (ring.now.door, ring.fault, found(ring, shown)) == ("guarded", None, "one")
    path.unlink()
    file.lock(path).unlink()
    assert KeyRing(path).now.door == "open"


def test_the_door_is_open_until_there_is_a_first_key(path: Path) -> None:
    ring = KeyRing(path)
    ring.look()
    assert (ring.now.door, ring.fault) == ("open", None)
    shown = added(path, "one")
    ring.look()
    assert (ring.now.door, found(ring, shown)) == ("guarded", "one")


def test_a_first_file_that_is_broken_closes_the_door(path: Path) -> None:
    path.write_text("")
    assert KeyRing(path).now.door == "closed"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.none(), st.binary(max_size=60), st.just(b'{"keys": []}'))))
@example([None, b"", None, b"{", b'{"keys": []}', None])
def test_nothing_that_happens_to_the_file_opens_the_door_again(
    tmp_path: Path, contents: list[bytes | None]
) -> None:
    path = tmp_path / "keys.json"
    path.unlink(missing_ok=True)
    added(path, "one")
    ring = KeyRing(path)
    known = set(ring.now.entries)
    for content in contents:
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        ring.look()
        assert (ring.now.door == "closed") if content is None else (ring.now.door != "open")
        assert set(ring.now.entries) <= known
        known &= set(ring.now.entries)


def test_a_file_that_is_named_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLWRIGHT_KEYS", str(tmp_path / "mounted.json"))
    ring = key_ring(State(tmp_path, "local"))
    assert ring.now.door == "closed"
    with pytest.raises(ConfigurationError, match=r"who may ask it: .*mounted.json is not there"):
        check_exposure("127.0.0.1", ring)
    monkeypatch.delenv("MILLWRIGHT_KEYS")
    assert key_ring(State(tmp_path, "local")).now.door == "open"


# What a service that others can reach needs


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_a_service_that_only_this_machine_reaches_needs_no_key(path: Path, address: str) -> None:
    check_exposure(address, KeyRing(path))


EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing listens there


@pytest.mark.parametrize("address", [EVERYWHERE, "::", "", "192.168.1.5", "fe80::1", "plant.test"])
def test_a_service_that_others_reach_needs_a_key_that_may_be_used(path: Path, address: str) -> None:
    told = r"there is no key in .*keys.json .*: python -m millwright keys add NAME --role predict"
    with pytest.raises(ConfigurationError, match=told) as caught:
        check_exposure(address, KeyRing(path))
    assert caught.value.exit_code == 2
    put(path, Book().added("old", "predict", NOW - 2 * DAY, DAY)[0])
    with pytest.raises(ConfigurationError, match=told):
        check_exposure(address, KeyRing(path))
    check_exposure(address, KeyRing(path), again=True)
    added(path, "one")
    check_exposure(address, KeyRing(path))


def test_a_service_that_cannot_tell_who_may_ask_does_not_start(path: Path) -> None:
    path.write_text("{")
    ring = KeyRing(path)
    with pytest.raises(ConfigurationError, match="cannot tell who may ask it"):
        check_exposure("127.0.0.1", ring)
    check_exposure("127.0.0.1", ring, again=True)  # in place of another it says so, and closes
    assert ring.now.door == "closed"
    assert asked(ring).status == 503


# The role of each request


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        *((method, path, None) for method in ("GET", "HEAD")
          for path in ("/", "/health", "/ready", "/metrics", "/openapi.json")),
        ("POST", "/v1/predict", "predict"),
        ("POST", "/v1/feedback", "predict"),
        ("GET", "/v1/fleet", "predict"),
        ("GET", "/v1/machines/7/history", "predict"),
        ("GET", "/v1/releases", "predict"),
        ("GET", "/nowhere", "predict"),
        *((method, "/v1/releases/v3", "operate") for method in ("POST", "PUT", "PATCH", "DELETE")),
        ("POST", "/v1/releases", "operate"),
        ("POST", "/health", "operate"),
        ("POST", "/v1/predict/", "operate"),
        ("PUT", "/v1/predict", "operate"),
        ("POST", "/v1/what-comes-one-day", "operate"),
        ("OPTIONS", "/v1/predict", "operate"),
    ],
)  # fmt: skip
def test_what_a_request_needs(method: str, path: str, role: Role | None) -> None:
    assert needed(method, path) == role


class Told:
    """What a request came to: a status and its headers, or the application behind."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.scope: dict[str, Any] | None = None

    async def app(self, scope: Any, *_: Any) -> None:
        self.scope = scope

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}


def asked(
    ring: KeyRing,
    *headers: tuple[str, str],
    path: str = "/v1/predict",
    client: tuple[str, int] | None = ("127.0.0.1", 5),
) -> Told:
    told = Told()
    access = Access(told.app, ring, Limit(0, 1), Limit(0, 1))
    scope = {
        "type": "http", "method": "POST", "path": path, "client": client,
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }  # fmt: skip
    asyncio.run(access(scope, None, told.send))  # type: ignore[arg-type]
    return told


def test_a_key_is_taken_from_either_header_and_its_name_goes_on(path: Path) -> None:
    shown = added(path, "one")
    ring = KeyRing(path)
    for headers in (
        [("authorization", f"Bearer {shown}")],
        [("authorization", f"bearer  {shown} ")],
        [("x-api-key", shown)],
        [("authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", shown)],
    ):
        told = asked(ring, *headers)
        assert told.scope is not None
        assert told.scope["state"] == {"key": "one"}
    for headers in ([("authorization", shown)], [("authorization", f"Basic {shown}")], []):
        told = asked(ring, *headers)
        assert (told.status, told.headers["www-authenticate"]) == (401, "Bearer")
        assert told.scope is None


@pytest.mark.parametrize(
    ("client", "host", "status"),
    [
        ("127.0.0.1", "localhost:8000", 0),
        ("127.0.0.1", "127.0.0.1:8000", 0),
        ("127.0.0.1", "LOCALHOST", 0),
        ("::1", "[::1]:8000", 0),
        ("127.0.0.1", None, 0),
        ("127.0.0.1", "plant.example.org", 403),  # a proxy, or a page of the web
        ("127.0.0.1", "localhost.example.org", 403),
        ("127.0.0.1", "[", 403),
        ("10.0.0.9", "localhost:8000", 403),
        ("", "localhost", 403),
    ],
)
def test_without_keys_this_machine_alone_is_answered(
    path: Path, client: str, host: str | None, status: int
) -> None:
    headers = [("host", host)] if host else []
    told = asked(KeyRing(path), *headers, client=(client, 5) if client else None)
    assert (told.status, told.scope is None) == (status, status != 0)


def test_a_web_socket_is_turned_away(path: Path) -> None:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    access = Access(Told().app, KeyRing(path), Limit(0, 1), Limit(0, 1))
    asyncio.run(access({"type": "websocket", "path": "/"}, None, send))  # type: ignore[arg-type]
    assert messages == [{"type": "websocket.close", "code": 1008}]


def test_a_place_is_given_back_even_by_a_request_that_fails() -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        assert load.count == 1
        raise OSError("it broke")

    load, told = Load(fail, 1), Told()
    scope = {"type": "http", "path": "/v1/predict"}
    for _ in range(3):
        with pytest.raises(OSError, match="it broke"):
            asyncio.run(load(scope, None, told.send))  # type: ignore[arg-type]
    assert (load.count, told.status) == (0, 0)
