"""Bodies and paths that mean a service ill, made by chance and always the same."""

import gzip
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

BODIES = 2_000
HIDDEN = "correct-horse-battery-staple"  # in values that no answer may repeat
KIND = {"content-type": "application/json"}
NAMES = (
    "../../../etc/passwd", "/etc/passwd", "..\\..\\boot.ini", "' OR 1=1; --", '"; DROP TABLE x; --',
    "$(reboot)", "{{7*7}}", "%00", "\u202e\u0301", "\U0001f600", "a\nb\r\nSet-Cookie: x", "NaN",
    "\x7f\x1b[2J", "-",
)  # fmt: skip
NUMBERS = ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 400, "1e-400", "0x10", "01")
PLACES = ("/v1/predict", "/v1/feedback")

Asked = tuple[str, str, bytes, dict[str, str]]  # method, path, body, headers
Making = Callable[[random.Random], Asked]


def of_numbers(rng: random.Random) -> Asked:
    number, field = rng.choice(NUMBERS), rng.choice(("explain", "as_of", "machines", "tag"))
    body = f'{{"machines": ["whole"], "{field}": {number}, "note": "{HIDDEN}"}}'
    return "POST", rng.choice(PLACES), body.encode(), KIND


def of_names(rng: random.Random) -> Asked:
    machines = [rng.choice(NAMES) for _ in range(rng.randint(1, 20))]
    return "POST", "/v1/predict", json.dumps({"machines": machines}).encode(), KIND


def of_many(rng: random.Random) -> Asked:
    count = rng.choice((1_000, 1_001, 100_000))
    return "POST", "/v1/predict", json.dumps({"machines": ["m"] * count}).encode(), KIND


def of_faults(rng: random.Random) -> Asked:
    one, name = rng.choice(("{}", "0", "null", "[]")), rng.choice(("machines", "outcomes"))
    body = f'{{"{name}": [{",".join([one] * 100_000)}]}}'
    return "POST", rng.choice(PLACES), body.encode(), KIND


def of_depth(rng: random.Random) -> Asked:
    body = rng.choice(("[", '{"a":', '{"machines":[')) * 100_000
    return "POST", rng.choice(PLACES), body.encode(), KIND


def of_types(rng: random.Random) -> Asked:
    some: list[Any] = [
        None,
        True,
        -1,
        0.5,
        "",
        HIDDEN,
        [],
        {},
        [[]],
        {"a": [HIDDEN]},
        ["\0"],
        10**30,
    ]
    fields = ("machines", "as_of", "tag", "explain", "outcomes", HIDDEN[::-1], "version")
    body = {field: rng.choice(some) for field in rng.sample(fields, rng.randint(0, 5))}
    return "POST", rng.choice(PLACES), json.dumps(body).encode(), KIND


def of_bytes(rng: random.Random) -> Asked:
    body = rng.choice(
        (b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"machines": ["\xff"]}', rng.randbytes(300),
         b'{"machines": ["\\ud800"]}', b'{"machines": ["a"]', b"\x1f\x8b" + rng.randbytes(50))
    )  # fmt: skip
    return "POST", rng.choice(PLACES), body, KIND


def of_encodings(rng: random.Random) -> Asked:
    body = gzip.compress(b'{"machines": ["whole"]}')
    kinds = ({"content-encoding": "gzip"}, {}, {"content-type": "text/plain"}, {"content-type": ""})
    return "POST", rng.choice(PLACES), body, {**KIND, **rng.choice(kinds)}


def of_reports(rng: random.Random) -> Asked:
    when = rng.choice(("2999-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "2025-01-01", 0, "T"))
    text = rng.choice(("\0", "x" * 201, "", 5, None))
    outcome = {"machine": "whole", "observed_at": when, "failed": True, "note": text}
    return "POST", "/v1/feedback", json.dumps({"outcomes": [outcome]}).encode(), KIND


def of_changes(rng: random.Random) -> Asked:
    version = rng.choice((0, -1, True, "1", 1.5, 10**9, 10**300, 99, None))
    path, body = rng.choice(
        (
            ("/v1/releases/champion", {"version": version}),
            ("/v1/releases/traffic", {"shadow": [version]}),
            ("/v1/releases/traffic", {"tags": {"../x": version}}),
            ("/v1/releases/traffic", {"canary": {"version": version, "percent": 1e308}}),
        )
    )
    return "PUT", path, json.dumps(body).encode(), KIND


def of_paths(rng: random.Random) -> Asked:
    part = "".join(f"%{byte:02x}" for byte in rng.randbytes(rng.randint(1, 40)))
    path = rng.choice(
        (f"/{part}", f"/v1/fleet?limit=1e3&{part}", f"/v1/fleet?as_of={part}", f"/v1/fleet//{part}",
         f"/v1/releases?{part}=1", f"/v1/machines/{part}/predictions?limit=0")
    )  # fmt: skip
    return rng.choice(("GET", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE")), path, b"", {}


def of_size(rng: random.Random) -> Asked:
    return "POST", rng.choice(PLACES), b" " * rng.choice((1_000_001, 10_000_000)), KIND


USUAL: tuple[Making, ...] = (
    of_numbers, of_names, of_types, of_bytes, of_encodings, of_reports, of_changes, of_paths,
)  # fmt: skip
LARGE: tuple[Making, ...] = (of_many, of_faults, of_depth, of_size)


def hostile(seed: int) -> Iterator[Asked]:
    """What is asked, a large thing now and then, always the same."""
    rng = random.Random(seed)
    for number in range(BODIES):
        kinds = LARGE if number % 50 == 0 else USUAL
        yield kinds[rng.randrange(len(kinds))](rng)
