"""Reading the body of a request, within limits, into what was asked."""

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from millwright.settings import Serving

# What is too long is read and thrown away up to here: who still sends would not hear the answer.
MOST_DISCARDED = 16_000_000
MOST_FAULTS = 5  # that an answer lists
MOST_REPEATED = 200  # characters of what a client has sent, or of a fault in it

Asked = TypeVar("Asked", bound=BaseModel)


async def read(request: Request, model: type[Asked], limits: Serving) -> Asked:
    """The JSON body of `request` as a `model`, within the environment's limits.

    Raises:
        HTTPException: it is of another type or encoded (415), too long (413), too slow (408), no
            JSON (400) or not what the model says (422).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "send JSON, with the header Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HTTPException(415, "send it as it is, without Content-Encoding")
    try:
        async with asyncio.timeout(limits.body_seconds):
            body = await _body(request, limits.most_bytes)
    except TimeoutError:
        raise HTTPException(
            408, f"the body did not arrive within {limits.body_seconds:g} s"
        ) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body ended before its end") from None
    try:
        return model.model_validate_json(body)
    except ValidationError as err:
        raise _refusal(err) from None


async def _body(request: Request, most: int) -> bytes:
    kept, length = bytearray(), 0
    async for part in request.stream():
        length += len(part)
        if length <= most:
            kept += part
        elif length > MOST_DISCARDED:
            break
    if length > most:
        raise HTTPException(413, f"the body is longer than {most:,} bytes; ask in parts")
    return bytes(kept)


def _refusal(err: ValidationError) -> HTTPException:
    """Every fault with its place, up to some; what was sent is not repeated."""
    faults = err.errors(include_url=False, include_input=False, include_context=False)
    faults = [each for each in faults if not _follows(each, faults)]
    if faults[0]["type"] == "json_invalid":
        return HTTPException(400, f"the body is no JSON: {faults[0]['msg']}")
    told = [
        f"{shortened('.'.join(map(str, fault['loc']))) or 'the body'}: {said(fault)}"
        for fault in faults[:MOST_FAULTS]
    ]
    more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
    return HTTPException(422, "; ".join(told + more))


def _follows(fault: ErrorDetails, faults: Sequence[ErrorDetails]) -> bool:
    """Whether a list is too short only because what it has is not taken."""
    place = fault["loc"]
    within = (each["loc"] for each in faults if len(each["loc"]) > len(place))
    return fault["type"] == "too_short" and any(each[: len(place)] == place for each in within)


def said(fault: ErrorDetails) -> str:
    """What is wrong, without what was sent."""
    return shortened(fault["msg"].removeprefix("Value error, "))


def shortened(text: str) -> str:
    """The beginning of a text that somebody sent, on one line, for an answer that tells of it."""
    kept = "".join(each if each.isprintable() else "?" for each in text[:MOST_REPEATED])
    return kept if len(text) <= MOST_REPEATED else f"{kept}..."
