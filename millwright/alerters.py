"""Who gets alerts: the flavors `console_and_file` and `webhook` of ZenML's component alerter.

Any other alerter of ZenML's, such as its own `slack`, does as well: `send` asks no more of one than
`post`. An alert that cannot be delivered is a warning. It neither fails a run nor holds it up.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from zenml.alerter.base_alerter import (
    BaseAlerter,
    BaseAlerterConfig,
    BaseAlerterFlavor,
    BaseAlerterStepParameters,
)

from millwright import terminal
from millwright.alert_file import AlertFile, Record
from millwright.alerts import Alert
from millwright.errors import MillwrightError

LIMIT = 10.0  # seconds that an alert may hold up a run
DEADLINE = 5.0  # seconds for all that a webhook is sent at once, retries included
PAUSES = (0.2, 0.8)  # seconds before the second and the third attempt
WORTH_RETRYING = (408, 425, 429)  # and whatever is the server's fault: 500 and more


class AlertParameters(BaseAlerterStepParameters):  # type: ignore[misc]
    """An alert in its parts, for an alerter that can make more of them than of a message."""

    time: datetime
    environment: str
    fleet: str
    pipeline: str
    status: str
    text: str
    details: tuple[str, ...]


def send(alerter: BaseAlerter, alert: Alert) -> None:
    """Give an alert to whichever alerter, which may take `LIMIT` seconds and fail as it likes."""
    parameters = AlertParameters.model_validate(vars(alert))
    posted: list[bool] = []
    failed: list[str] = []

    def post() -> None:
        try:
            posted.append(alerter.post(alert.message, parameters))
        except Exception as err:
            failed.append(type(err).__name__)  # its message may hold an address that is a secret

    if not _done_within(LIMIT, post):
        failed.append(f"it takes longer than {LIMIT:g} s")
    if failed or (not posted[0] and not isinstance(alerter, (FileAlerter, WebhookAlerter))):
        reason = failed[0] if failed else "it says no more"
        terminal.warn(f"alerter '{alerter.name}' did not deliver: {alert.text} ({reason})")


class FileAlerterConfig(BaseAlerterConfig):  # type: ignore[misc]
    """The settings of `console_and_file`: the file that alerts are added to."""

    path: str


class FileAlerter(BaseAlerter):  # type: ignore[misc]
    """Tells an alert on the console and adds it to a file, one JSON object a line."""

    @property
    def config(self) -> FileAlerterConfig:
        """The component's settings."""
        return cast("FileAlerterConfig", self._config)

    def post(self, message: str, params: BaseAlerterStepParameters | None = None) -> bool:
        """Tell an alert; false if the file cannot be written."""
        record = _record(message, params)
        terminal.say(f"alert: {record['text']}")
        try:
            AlertFile(Path(self.config.path)).append(record)
        except OSError as err:
            terminal.warn(f"cannot add the alert to {self.config.path}: {_reason(err)}")
            return False
        return True


class FileAlerterFlavor(BaseAlerterFlavor):  # type: ignore[misc]
    """The flavor `console_and_file`."""

    @property
    def name(self) -> str:
        """The flavor's name."""
        return "console_and_file"

    @property
    def config_class(self) -> type[FileAlerterConfig]:
        """The class of its settings."""
        return FileAlerterConfig

    @property
    def implementation_class(self) -> type[FileAlerter]:
        """The class of the component."""
        return FileAlerter


class WebhookAlerterConfig(BaseAlerterConfig):  # type: ignore[misc]
    """The settings of `webhook`.

    `url_variable` names an environment variable with the URL: whoever has the URL can post, so it
    is a secret. `path` is a file that keeps alerts until they are delivered.
    """

    url_variable: str
    path: str | None = None


class WebhookAlerter(BaseAlerter):  # type: ignore[misc]
    """Posts each alert as a JSON object to a URL.

    With a file an alert is delivered at least once, the oldest first: it is in the file until the
    webhook has taken it. It carries an `id`, the same each time, for the case that this process is
    killed in between, or that the webhook takes it and its answer is lost.
    """

    @property
    def config(self) -> WebhookAlerterConfig:
        """The component's settings."""
        return cast("WebhookAlerterConfig", self._config)

    def post(self, message: str, params: BaseAlerterStepParameters | None = None) -> bool:
        """Send an alert and those that are still waiting; false if any of them stays behind."""
        record = {"id": uuid.uuid4().hex, **_record(message, params)}
        spool = AlertFile(Path(self.config.path)) if self.config.path else None
        try:
            if spool:
                spool.append(record)
        except OSError as err:
            terminal.warn(f"cannot keep alerts in {self.config.path}: {_reason(err)}")
            spool = None
        variable = self.config.url_variable
        url = os.environ.get(variable, "").strip()
        if not url:
            _tell_once(f"{variable} is not set, so no alert is posted")
            terminal.say(f"alert: {record['text']}" + (f" (kept in {spool.path})" if spool else ""))
            return False
        fault = _fault(url) or _delivered(url, record, spool)
        if fault:
            rest = _waiting(spool) if spool else f"this alert is lost: {record['text']}"
            terminal.warn(f"the webhook of {variable} {fault}; {rest}")
        return not fault


class WebhookAlerterFlavor(BaseAlerterFlavor):  # type: ignore[misc]
    """The flavor `webhook`."""

    @property
    def name(self) -> str:
        """The flavor's name."""
        return "webhook"

    @property
    def config_class(self) -> type[WebhookAlerterConfig]:
        """The class of its settings."""
        return WebhookAlerterConfig

    @property
    def implementation_class(self) -> type[WebhookAlerter]:
        """The class of the component."""
        return WebhookAlerter


class _RefusedError(MillwrightError):
    """The webhook does not take an alert. `final` if it would not take it a second time either."""

    def __init__(self, words: str, *, final: bool = False) -> None:
        super().__init__(words)
        self.final = final


class _NoRedirects(HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, without the alert."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Give what the server says as it is."""


def _delivered(url: str, record: Record, spool: AlertFile | None) -> str:
    """Deliver what waits in `spool`, or `record` alone; gives what went wrong, in a few words."""
    late = f"did not take everything within {DEADLINE:g} s"
    end = time.monotonic() + DEADLINE
    said: list[str] = []

    def deliver() -> None:
        try:
            said.append(_deliver_spool(url, spool, end) if spool else _deliver(url, [record], end))
        except TimeoutError:
            said.append(late)
        except OSError as err:
            said.append(f"is not asked, because the alerts cannot be read: {_reason(err)}")

    # The times of a socket are for each packet, and names are looked up without any.
    return said[0] if _done_within(DEADLINE, deliver) else late


def _deliver_spool(url: str, spool: AlertFile, end: float) -> str:
    with spool.sending(max(end - time.monotonic(), 0)):
        waiting = [record for record in spool.records() if "id" in record]
        return _deliver(url, waiting, end, lambda record: spool.remove(record["id"]))


def _deliver(
    url: str,
    records: Iterable[Record],
    end: float,
    taken: Callable[[Record], None] = lambda _: None,
) -> str:
    """Post `records` in turn, and tell `taken` of each that the webhook has taken.

    One that it refuses for good does not stop the others.
    """
    fault = ""
    for record in records:
        try:
            _post_patiently(url, record, end)
        except _RefusedError as err:
            fault = str(err)
            if not err.final:
                break
        else:
            taken(record)
    return fault


def _post_patiently(url: str, record: Record, end: float) -> None:
    for pause in PAUSES:
        try:
            return _post(url, record, end)
        except _RefusedError as err:
            if err.final or time.monotonic() + pause >= end:
                raise
            time.sleep(pause)
    return _post(url, record, end)


def _post(url: str, record: Record, end: float) -> None:
    """Post one record. What goes wrong is told without the URL."""
    left = end - time.monotonic()
    if left <= 0:
        raise _RefusedError(f"did not take everything within {DEADLINE:g} s")
    request = Request(  # noqa: S310 - `_fault` lets http and https pass alone
        url,
        data=json.dumps(record, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "millwright"},
    )
    try:
        build_opener(_NoRedirects).open(request, timeout=left).close()
    except HTTPError as err:
        err.close()
        passing = err.code >= 500 or err.code in WORTH_RETRYING
        raise _RefusedError(f"answers {err.code}", final=not passing) from None
    except (OSError, HTTPException, ValueError) as err:
        raise _RefusedError(f"cannot be reached: {_reason(err)}") from None


def _waiting(spool: AlertFile) -> str:
    try:
        count = len(spool.records())
    except OSError as err:
        return f"alerts wait in {spool.path}, which cannot be read: {_reason(err)}"
    alerts = "1 alert waits" if count == 1 else f"{count:,} alerts wait"
    return f"{alerts} in {spool.path} for the next one"


def _fault(url: str) -> str:
    """What is wrong with `url`, in words that do not tell it."""
    try:
        parts = urlsplit(url)
        port_is_good = parts.port != 0
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good:
        return "is no http or https URL"
    return "has a user in its URL, which is not supported" if "@" in parts.netloc else ""


def _reason(err: Exception) -> str:
    """Why, without what may be a secret in the message."""
    reason = getattr(err, "reason", err)
    return getattr(reason, "strerror", None) or type(reason).__name__


def _record(message: str, params: BaseAlerterStepParameters | None) -> Record:
    """An alert as a JSON object; one that somebody else posts has its message alone."""
    if isinstance(params, AlertParameters):
        record: Record = params.model_dump(mode="json")
        return record
    text, *details = message.splitlines() or [""]
    unknown = dict.fromkeys(("environment", "fleet", "pipeline", "status"))
    now = datetime.now(UTC).isoformat()
    return {"time": now, **unknown, "text": text, "details": details}


def _done_within(seconds: float, work: Callable[[], None]) -> bool:
    """Do `work` in a thread that is left behind when it takes too long, and ends with us."""
    thread = threading.Thread(target=work, name="alert", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


@cache
def _tell_once(text: str) -> None:
    terminal.warn(text)
