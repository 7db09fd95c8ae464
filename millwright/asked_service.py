"""The service that a deployment asks: where it runs, and how its answer is read."""

import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from millwright import traffic
from millwright.endpoints import without_password
from millwright.errors import ConfigurationError, ReleaseError
from millwright.serving import background

SERVICE = "MILLWRIGHT_SERVICE_URL"  # where the service runs, if it is not started here
NOT_NOW = (0, 429, 503)  # what a service that is well may answer for a moment
PATIENCE = 10.0  # seconds for that to pass
PAUSE = 1.0  # what such an answer says in Retry-After

Predictions = Mapping[str, float | None]


class Prediction(BaseModel):
    """What is read of a prediction; there is more to it."""

    model_config = ConfigDict(strict=True, frozen=True)

    machine: str
    version: int
    probability: float | None


class Answer(BaseModel):
    """What is read of the answer to `/v1/predict`."""

    model_config = ConfigDict(frozen=True)

    predictions: tuple[Prediction, ...]


def elsewhere(variables: Mapping[str, str] = os.environ) -> str | None:
    """The URL that a variable gives of a service; None where it gives none.

    Raises:
        ConfigurationError: it is no URL of a service.
    """
    url = variables.get(SERVICE, "").rstrip("/")
    if not url:
        return None
    try:
        place = urlsplit(url)
        understood = place.scheme in ("http", "https") and place.hostname and place.port != 0
    except ValueError:
        understood = False
    if not understood:
        raise ConfigurationError(
            f"{SERVICE} is {without_password(url)}, and the URL of a service is like "
            "http://HOST:8000; write it so, or unset it where the service runs on this machine"
        )
    return url


def predicted(
    url: str, folder: Path, version: int, machines: Sequence[str], as_of: datetime
) -> Predictions | None:
    """What the service predicts by a release among those in `folder`.

    None where it wants a key that this process has not, or where the canary answers for every
    machine: those of the canary are none of the release's.

    Raises:
        ReleaseError: it does not answer, or not by that release.
    """
    status, said = _asked(url, {"machines": list(machines), "as_of": as_of.isoformat()})
    if status in (401, 403) and not os.environ.get(background.KEY):
        return None
    if status != 200:
        told = said.get("error", "nothing")
        raise ReleaseError(f"the service at {url} answers {status or 'nothing'}: {told}")
    try:
        answered = Answer.model_validate(said).predictions
    except ValidationError as err:
        fault = err.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise ReleaseError(
            f"what answers at {url} is no service of Millwright ({place}: {fault['msg']}); see "
            f"which one {SERVICE} names"
        ) from err
    canary = traffic.read(folder).canary
    expected = {version, canary.version} if canary else {version}
    strange = [each for each in answered if each.version not in expected]
    if strange:
        raise ReleaseError(
            f"the service at {url} answers for machine {strange[0].machine} by "
            f"v{strange[0].version} instead of v{version}"
        )
    if not answered:
        raise ReleaseError(f"the service at {url} predicts none of {len(machines)} machines")
    return {each.machine: each.probability for each in answered if each.version == version} or None


def _asked(url: str, body: Mapping[str, object]) -> tuple[int, dict[str, object]]:
    """The answer to a question, asked again while the service cannot answer for the moment."""
    ending = time.monotonic() + PATIENCE
    while True:
        status, said = background.ask(url, "/v1/predict", body)
        if status not in NOT_NOW or time.monotonic() > ending:
            return status, said
        time.sleep(PAUSE)
