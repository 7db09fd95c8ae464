"""Posting alerts to a webhook: each at least once, within seconds, and without telling its URL."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from millwright.alert_file import AlertFile, Record
from millwright.errors import MillwrightError

DEADLINE = 5.0  # seconds for all that a webhook is sent at once, retries included
PAUSES = (0.2, 0.8)  # seconds before the second and the third attempt
WORTH_RETRYING = (408, 425, 429)  # and whatever is not the alert's own fault: all but 4xx


@dataclass
class Delivery:
    """What went wrong: `fault` with the webhook, in a few words, and with each refused alert."""

    fault: str = ""
    refused: list[str] = field(default_factory=list)


class _UndeliveredError(MillwrightError):
    """The webhook has not taken an alert."""


class _RefusedError(MillwrightError):
    """The webhook would not take the alert a second time either."""


class _NoRedirects(HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, without the alert."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Give what the server says as it is."""


def deliver(url: str, record: Record, spool: AlertFile | None) -> Delivery:
    """Post all that waits in `spool`, the oldest first, or `record` alone.

    What the webhook refuses for good goes to a file beside the spool and is not posted again.
    """
    late = f"did not take everything within {DEADLINE:g} s"
    end = time.monotonic() + DEADLINE
    done = Delivery(fault(url))
    if done.fault:
        return done

    def work() -> None:
        try:
            if spool:
                _deliver_spool(url, spool, end, done)
            else:
                _deliver_lone(url, record, end, done)
        except _UndeliveredError as err:
            done.fault = str(err)
        except TimeoutError:
            done.fault = late
        except OSError as err:
            done.fault = f"is not asked, because the alerts cannot be read: {reason(err)}"

    # The times of a socket are for each packet, and names are looked up without any.
    return done if done_within(DEADLINE, work) else Delivery(late, list(done.refused))


def _deliver_spool(url: str, spool: AlertFile, end: float, done: Delivery) -> None:
    apart = refused_of(spool)
    with spool.sending(max(end - time.monotonic(), 0)):
        for record in spool.records():
            if "id" not in record:
                continue
            try:
                _post_patiently(url, record, end)
            except _RefusedError as err:
                apart.append(record)
                done.refused.append(f"{err} to '{record['text']}', which is kept in {apart.path}")
            spool.remove(record["id"])


def _deliver_lone(url: str, record: Record, end: float, done: Delivery) -> None:
    try:
        _post_patiently(url, record, end)
    except _RefusedError as err:
        done.refused.append(f"{err} to '{record['text']}', which is lost")


def refused_of(spool: AlertFile) -> AlertFile:
    """Where alerts go that the webhook has refused for good."""
    return AlertFile(Path(f"{spool.path}.refused"))


def _post_patiently(url: str, record: Record, end: float) -> None:
    for pause in PAUSES:
        try:
            return _post(url, record, end)
        except _UndeliveredError:
            if time.monotonic() + pause >= end:
                raise
            time.sleep(pause)
    return _post(url, record, end)


def _post(url: str, record: Record, end: float) -> None:
    """Post one record. What goes wrong is told without the URL."""
    left = end - time.monotonic()
    if left <= 0:
        raise _UndeliveredError(f"did not take everything within {DEADLINE:g} s")
    request = Request(  # noqa: S310 - `fault` lets http and https pass alone
        url,
        data=json.dumps(record, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "millwright"},
    )
    try:
        build_opener(_NoRedirects).open(request, timeout=left).close()
    except HTTPError as err:
        err.close()
        final = 400 <= err.code < 500 and err.code not in WORTH_RETRYING
        kind = _RefusedError if final else _UndeliveredError
        raise kind(f"answers {err.code}") from None
    except (OSError, HTTPException, ValueError) as err:
        raise _UndeliveredError(f"cannot be reached: {reason(err)}") from None


def fault(url: str) -> str:
    """What is wrong with `url`, in words that do not tell it; empty if nothing is."""
    try:
        parts = urlsplit(url)
        port_is_good = parts.port != 0
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good:
        return "is no http or https URL"
    return "has a user in its URL, which is not supported" if "@" in parts.netloc else ""


def reason(err: Exception) -> str:
    """Why, without what may be a secret in the message."""
    cause = getattr(err, "reason", err)
    return getattr(cause, "strerror", None) or type(cause).__name__


def done_within(seconds: float, work: Callable[[], None]) -> bool:
    """Do `work` in a thread that is left behind when it takes too long, and ends with us."""
    thread = threading.Thread(target=work, name="alert", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()
