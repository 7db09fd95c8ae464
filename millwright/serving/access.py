"""Who may ask the service for what, decided before a request reaches it.

A client shows its key as `Authorization: Bearer mw_...` or as `X-API-Key: mw_...`. Open to all are
the paths that only read how the service is: probes and Prometheus show no key, and there is nothing
secret in them, though /metrics and /ready tell of the plant, so what stands before the service is
not to pass them on (docs/deployment.md). Whatever is not named here changes something, until
somebody says otherwise, and takes the role `operate`.

Without keys the service answers this machine alone: a client of an address here that also calls it
by a name of here. A page of the web, also one whose own name leads to 127.0.0.1, or a proxy, does
not.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from millwright.keys.key import Key, Role
from millwright.serving.keys import WAY_OUT, KeyRing, is_here
from millwright.serving.pause import unavailable
from millwright.serving.rate import Limit

OPEN = frozenset(("/", "/health", "/ready", "/metrics", "/openapi.json"))
ASKING = frozenset(("/v1/predict", "/v1/predict/readings", "/v1/feedback"))
READING = frozenset(("GET", "HEAD"))
CHALLENGE = {"WWW-Authenticate": "Bearer"}

Rules = Callable[[str, str], Role | None]


def needed(method: str, path: str) -> Role | None:
    """The role that a request needs; None if it needs no key."""
    if method in READING:
        return None if path in OPEN else "predict"
    return "predict" if method == "POST" and path in ASKING else "operate"


class Access:
    """Lets requests through to `app` that may be made, and answers the others in one sentence.

    The name of the key is in `scope["state"]["key"]` afterwards, for logs; the key itself goes
    nowhere. Keys and addresses are limited each by `keys` and `strangers`. What is refused because
    of its key counts for its address, so that nobody tries keys at full speed.
    """

    def __init__(
        self,
        app: ASGIApp,
        ring: KeyRing,
        keys: Limit,
        strangers: Limit,
        rules: Rules = needed,
    ) -> None:
        self.app = app
        self.ring = ring
        self.keys = keys
        self.strangers = strangers
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except HTTPException as err:
                refusal = JSONResponse({"error": err.detail}, err.status_code, headers=err.headers)
                await refusal(scope, receive, send)
                return
        elif scope["type"] != "lifespan":  # a WebSocket, which nobody here speaks
            await send({"type": "websocket.close", "code": 1008})
            return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        role = self.rules(scope["method"], scope["path"])
        if role is None:
            return
        keys = self.ring.now
        if keys.door == "guarded":
            try:
                key = _valid(keys.find(_shown(scope)))
            except HTTPException:
                _limit(self.strangers, _address(scope))
                raise
            # By name: the two keys of a rotation are one client.
            _limit(self.keys, key.name)
            if not key.may(role):
                raise HTTPException(
                    403, f"key '{key.name}' has the role {key.role}, and this needs {role}"
                )
            scope.setdefault("state", {})["key"] = key.name
        elif keys.door == "open":
            _refuse_elsewhere(scope)
            _limit(self.strangers, _address(scope))
        else:
            raise unavailable("keys cannot be checked now; the log of the service says why")


def _shown(scope: Scope) -> bytes:
    """What a request shows as its key; nothing if it shows none.

    An `Authorization` of another kind is that of a proxy, which has its own users.
    """
    shown = b""
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:].strip())
        if name == b"x-api-key":
            shown = value
    if not shown:
        raise HTTPException(
            401, "a key is needed: send it as Authorization: Bearer mw_...", headers=CHALLENGE
        )
    return shown


def _valid(key: Key | None) -> Key:
    """The key that was found, if it may be used."""
    if key is None:
        raise HTTPException(401, "the key is none of this service", headers=CHALLENGE)
    condition = key.condition(datetime.now(UTC))
    if condition != "valid":
        ended = "was revoked" if condition == "revoked" else "has expired"
        raise HTTPException(401, f"key '{key.name}' {ended}; ask for another", headers=CHALLENGE)
    return key


def _refuse_elsewhere(scope: Scope) -> None:
    headers = dict(scope["headers"])
    host, origin = headers.get(b"host", b"localhost"), headers.get(b"origin")
    # What a browser sends for a page names where the page is from.
    page = origin is not None and not _is_here(_name(origin.partition(b"://")[2]))
    if page or not (_is_here(_address(scope)) and _is_here(_name(host))):
        raise HTTPException(
            403, f"without keys this machine alone is answered, as localhost; make one: {WAY_OUT}"
        )


def _limit(limit: Limit, client: str) -> None:
    """Refuse a client that has asked more often than it may."""
    if wait := limit.wait(client):
        raise HTTPException(
            429,
            f"that is more than {limit.rate:g} requests a second; wait as Retry-After says",
            headers={"Retry-After": str(math.ceil(wait))},
        )


def _address(scope: Scope) -> str:
    """Where a request comes from; what a proxy says of it is not believed."""
    return scope["client"][0] if scope.get("client") else ""


@lru_cache(maxsize=1024)
def _name(host: bytes) -> str:
    """The name or address in a `Host` header, without its port."""
    text = host.decode("latin-1")
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].lower()


_is_here = lru_cache(maxsize=1024)(is_here)
