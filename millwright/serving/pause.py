"""What is answered to who may come again in a moment."""

from starlette.exceptions import HTTPException

PAUSE = {"Retry-After": "1"}


def unavailable(detail: str) -> HTTPException:
    """That something cannot be had now: 503, and why."""
    return HTTPException(503, detail, headers=PAUSE)
