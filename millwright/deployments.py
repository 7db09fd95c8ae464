"""A deployed release as ZenML sees it: a service that is active while it is the champion."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID

import click
from pydantic import Field
from zenml.client import Client
from zenml.enums import ServiceState
from zenml.models.v2.misc.service import ServiceType
from zenml.services import ServiceConfig, ServiceStatus
from zenml.services.service import BaseDeploymentService

from millwright import release as releases
from millwright.endpoints import without_password
from millwright.errors import ReleaseError
from millwright.settings import state

PATIENCE = 2.0  # seconds that a service has to say whether it is ready


class RefusedDeploymentError(ReleaseError, click.ClickException):
    """What is not done to a release; ZenML's command shows it as one line."""


class ReleaseServiceConfig(ServiceConfig):  # type: ignore[misc]
    """A release as ZenML records it, by where it belongs and not by its path."""

    environment: str
    fleet: str
    service_url: str = ""

    @property
    def folder(self) -> Path:
        """The release on this machine."""
        return state(self.environment).releases(self.fleet) / f"v{self.model_version}"


class ReleaseService(BaseDeploymentService):  # type: ignore[misc]
    """A release as something that is served: active while it is the champion."""

    SERVICE_TYPE: ClassVar[ServiceType] = ServiceType(
        name="release",
        type="model-serving",
        flavor="release",
        description="A release of Millwright that its prediction service follows",
    )
    config: ReleaseServiceConfig
    status: ServiceStatus = Field(default_factory=ServiceStatus)

    @property
    def prediction_url(self) -> str | None:
        """Where predictions are had, if it is known where the service runs."""
        return f"{self.config.service_url}/v1/predict" if self.config.service_url else None

    @property
    def healthcheck_url(self) -> str | None:
        """Where the service says whether it is ready."""
        return f"{self.config.service_url}/ready" if self.config.service_url else None

    def check_status(self) -> tuple[ServiceState, str]:
        """Active if the pointer names this release, it is whole, and the service says it is ready.

        Where no URL of a service is configured, the pointer is all that is known.
        """
        self.status.clear_error()
        folder = self.config.folder
        try:
            if releases.champion(folder.parent) != folder:
                return ServiceState.INACTIVE, ""
            releases.load(folder)
        except (ReleaseError, OSError) as err:
            return ServiceState.ERROR, str(err)
        if self.healthcheck_url is None:
            return ServiceState.ACTIVE, ""
        return _told(self.healthcheck_url, int(self.config.model_version))

    def get_logs(
        self,
        follow: bool = False,  # noqa: ARG002
        tail: int | None = None,  # noqa: ARG002
    ) -> Generator[str, bool, None]:
        """Say where the log is: the service runs elsewhere, and writes to its own stderr."""
        yield "the log of the service is what `python -m millwright serve` writes to stderr"


def of_release(config: ServiceConfig) -> ReleaseServiceConfig:
    """`config` as ours.

    Raises:
        ReleaseError: it is of another kind of service.
    """
    if not isinstance(config, ReleaseServiceConfig):
        raise ReleaseError(
            "a release is deployed by a ReleaseServiceConfig or by deploy_release(folder); "
            f"this is a {type(config).__name__}"
        )
    return config


def service_of(uuid: UUID, config: ReleaseServiceConfig | dict[str, Any]) -> ReleaseService:
    """The service of a record, with its status of this moment."""
    found = ReleaseService(uuid=uuid, config=config, admin_state=ServiceState.ACTIVE)
    found.update_status()
    return found


def updated(found: ReleaseService) -> ReleaseService:
    """Write what is known of a service now to its record."""
    Client().update_service(
        id=found.uuid,
        service_source=found.model_dump()["type"],
        admin_state=found.admin_state,
        status=found.status.model_dump(),
        prediction_url=found.prediction_url,
        health_check_url=found.healthcheck_url,
    )
    return found


@contextmanager
def refused_in_one_line() -> Iterator[None]:
    """Take our reason out of the error that ZenML wraps around it."""
    try:
        yield
    except RuntimeError as err:
        if isinstance(err.__cause__, ReleaseError):
            raise RefusedDeploymentError(str(err.__cause__)) from err
        raise


def _told(url: str, version: int) -> tuple[ServiceState, str]:
    """What the service at `url` says of itself, which is to serve `version`."""
    shown = without_password(url)
    try:
        request = Request(url, headers={"User-Agent": "millwright"})  # noqa: S310
        with urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - the pattern lets http pass
            said = json.load(answer)
    except HTTPError as err:
        return ServiceState.PENDING_STARTUP, f"{shown} answers {err.code}"
    except (OSError, ValueError):
        return ServiceState.ERROR, f"{shown} cannot be reached or is no service of ours"
    there = (said.get("release") or {}).get("version") if isinstance(said, dict) else None
    if there != version:
        return ServiceState.PENDING_STARTUP, f"{shown} still serves version {there}"
    return ServiceState.ACTIVE, ""
