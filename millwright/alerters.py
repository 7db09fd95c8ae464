"""Who gets alerts: the flavors `console_and_file` and `webhook` of ZenML's component alerter.

Any other alerter of ZenML's, such as its own `slack`, does as well: `send` asks no more of one than
`post`. An alert that cannot be delivered is a warning. It neither fails a run nor holds it up.
"""

import os
import uuid
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import cast

from zenml.alerter.base_alerter import (
    BaseAlerter,
    BaseAlerterConfig,
    BaseAlerterFlavor,
    BaseAlerterStepParameters,
)

from millwright import terminal
from millwright.alert_file import AlertFile, Record
from millwright.alerts import Alert
from millwright.delivery import deliver, done_within, reason

LIMIT = 10.0  # seconds that an alert may hold up a run


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

    if not done_within(LIMIT, post):
        failed.append(f"it takes longer than {LIMIT:g} s")
    if failed or (not posted[0] and not isinstance(alerter, (FileAlerter, WebhookAlerter))):
        why = failed[0] if failed else "it says no more"
        terminal.warn(f"alerter '{alerter.name}' did not deliver: {alert.text} ({why})")


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
            terminal.warn(f"cannot add the alert to {self.config.path}: {reason(err)}")
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
    killed in between, or that the webhook takes it and its answer is lost. One that the webhook
    refuses for good, with 4xx, goes to a file of the same name with `.refused` at its end.
    """

    @property
    def config(self) -> WebhookAlerterConfig:
        """The component's settings."""
        return cast("WebhookAlerterConfig", self._config)

    def post(self, message: str, params: BaseAlerterStepParameters | None = None) -> bool:
        """Send an alert and those that are still waiting; false if any of them is not taken."""
        record = {"id": uuid.uuid4().hex, **_record(message, params)}
        spool = AlertFile(Path(self.config.path)) if self.config.path else None
        try:
            if spool:
                spool.append(record)
        except OSError as err:
            terminal.warn(f"cannot keep alerts in {self.config.path}: {reason(err)}")
            spool = None
        variable = self.config.url_variable
        url = os.environ.get(variable, "").strip()
        if not url:
            _tell_once(f"{variable} is not set, so no alert is posted")
            terminal.say(f"alert: {record['text']}" + (f" (kept in {spool.path})" if spool else ""))
            return False
        done = deliver(url, record, spool)
        for said in done.refused:
            terminal.warn(f"the webhook of {variable} {said}; it is not posted again")
        if done.fault:
            rest = _waiting(spool) if spool else f"this alert is lost: {record['text']}"
            terminal.warn(f"the webhook of {variable} {done.fault}; {rest}")
        return not done.fault and not done.refused


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


def _record(message: str, params: BaseAlerterStepParameters | None) -> Record:
    """An alert as a JSON object; one that somebody else posts has its message alone."""
    if isinstance(params, AlertParameters):
        record: Record = params.model_dump(mode="json")
        return record
    text, *details = message.splitlines() or [""]
    unknown = dict.fromkeys(("environment", "fleet", "pipeline", "status"))
    now = datetime.now(UTC).isoformat()
    return {"time": now, **unknown, "text": text, "details": details}


def _waiting(spool: AlertFile) -> str:
    try:
        count = len(spool.records())
    except OSError as err:
        return f"alerts wait in {spool.path}, which cannot be read: {reason(err)}"
    alerts = "1 alert waits" if count == 1 else f"{count:,} alerts wait"
    return f"{alerts} in {spool.path} for the next one"


@cache
def _tell_once(text: str) -> None:
    terminal.warn(text)
