"""Reading what stands in the URL of a request, as strictly as a body is read."""

from datetime import UTC, datetime

from pydantic import TypeAdapter, ValidationError
from starlette.convertors import Convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request

from millwright.serving.bodies import said, shortened
from millwright.serving.predictions import Machine, Moment

MOST_SHOWN = 1_000
SHOWN = 20

_MACHINE: TypeAdapter[str] = TypeAdapter(Machine)
_MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)


class Anything(Convertor[str]):
    """A part of a path with whatever is in it, slashes and line breaks too: machines have names."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        """The text that stands for it, which is itself."""
        return value

    def to_string(self, value: str) -> str:
        """The same."""
        return value


def read(request: Request, *names: str) -> dict[str, str]:
    """The parameters of a request, each at most once and of these names.

    Raises:
        HTTPException: there is another, or one twice (422).
    """
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in names:
            known = ", ".join(names) or "none"
            raise HTTPException(
                422, f"there is no parameter '{shortened(name)}'; there are: {known}"
            )
        if name in found:
            raise HTTPException(422, f"{name} is given twice; give it once")
        found[name] = value
    return found


def limit(found: dict[str, str]) -> int:
    """How many are to be shown.

    Raises:
        HTTPException: that is no such number (422).
    """
    text = found.get("limit", str(SHOWN))
    whole = text.isascii() and text.isdecimal() and len(text) < 10
    if not (whole and 1 <= int(text) <= MOST_SHOWN):
        raise HTTPException(422, f"limit is a whole number from 1 to {MOST_SHOWN:,}")
    return int(text)


def as_of(found: dict[str, str]) -> datetime | None:
    """The time that is asked about, in UTC; None for now.

    Raises:
        HTTPException: it is no time, or none that has been (422).
    """
    if "as_of" not in found:
        return None
    try:
        moment = _MOMENT.validate_python(found["as_of"])
    except ValidationError:
        moment = None
    if moment is None or moment > datetime.now(UTC):
        raise HTTPException(
            422, "as_of is an ISO time with its zone, such as 2025-01-31T12:00:00Z, up to now"
        )
    return moment.astimezone(UTC)


def machine(request: Request) -> str:
    """The machine that a path names.

    Raises:
        HTTPException: no machine can be called so (422).
    """
    try:
        return _MACHINE.validate_python(request.path_params["machine"])
    except ValidationError as err:
        raise HTTPException(422, f"machine: {said(err.errors()[0])}") from None
