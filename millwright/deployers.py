"""ZenML's way to put a release into service: the model deployer flavor `release`.

A service follows the champion pointer of its fleet's releases. So to deploy is to prove the release
in a fresh process and to set the pointer, and the pointer alone decides. What ZenML records of it
is a mirror: one record for each release that was deployed, made good whenever somebody looks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast
from uuid import UUID

from pydantic import Field
from zenml.client import Client
from zenml.enums import ServiceState
from zenml.model_deployers import BaseModelDeployer, BaseModelDeployerFlavor
from zenml.model_deployers.base_model_deployer import BaseModelDeployerConfig
from zenml.models import ServiceResponse
from zenml.models.v2.misc.service import ServiceType
from zenml.services import BaseService, ServiceConfig
from zenml.utils.pagination_utils import depaginate

from millwright import release as releases
from millwright import terminal, traffic, verification
from millwright.deployments import (
    ReleaseService,
    ReleaseServiceConfig,
    of_release,
    refused_in_one_line,
    service_of,
    updated,
)
from millwright.errors import ReleaseError
from millwright.lock import held
from millwright.settings import State, state

TIMEOUT = 300  # seconds; ZenML's own, for arguments that nothing here waits by


class ReleaseDeployerConfig(BaseModelDeployerConfig):  # type: ignore[misc]
    """The component's settings: its environment, and where its service answers, if one is known."""

    environment: str
    service_url: str | None = Field(default=None, pattern=r"^https?://[^/\s]+(/\S*)?$")


class ReleaseDeployer(BaseModelDeployer):  # type: ignore[misc]
    """Puts releases of one environment into service."""

    NAME: ClassVar[str] = "release"

    @property
    def config(self) -> ReleaseDeployerConfig:
        """The component's settings."""
        return cast("ReleaseDeployerConfig", self._config)

    @property
    def state(self) -> State:
        """Where the environment keeps what it has."""
        return state(self.config.environment)

    def deploy_release(self, folder: Path, *, proven: bool = False) -> ReleaseService:
        """Prove a release in a fresh process and make it the champion; again changes nothing.

        One that was `proven` just now is taken as it is.

        Raises:
            ReleaseError: it is broken, or not of this environment; the former champion stays.
        """
        config = self._configured(folder)
        self._point_to(config.folder, proven=proven)
        return self._record(config)

    def deploy_model(
        self,
        config: ServiceConfig,
        service_type: ServiceType = ReleaseService.SERVICE_TYPE,  # noqa: ARG002
        replace: bool = False,  # noqa: ARG002
        continuous_deployment_mode: bool = False,  # noqa: ARG002
        timeout: int = TIMEOUT,  # noqa: ARG002
    ) -> BaseService:
        """Do what ZenML asks for by `deploy_release`.

        ZenML's own would leave the pointer alone where it finds a record of the release, and so
        could not bring an earlier one back.
        """
        return self.deploy_release(of_release(config).folder)

    def perform_deploy_model(
        self,
        id: UUID,  # noqa: A002
        config: ServiceConfig,
        timeout: int = TIMEOUT,  # noqa: ARG002
    ) -> BaseService:
        """The deployment without its record."""
        self._point_to(self._configured(of_release(config).folder).folder)
        return service_of(id, of_release(config))

    def perform_start_model(
        self,
        service: BaseService,
        timeout: int = TIMEOUT,  # noqa: ARG002
    ) -> BaseService:
        """Deploy the release again: this is how one goes back to an earlier release."""
        return self.deploy_release(of_release(service.config).folder)

    def perform_stop_model(
        self,
        service: BaseService,
        timeout: int = TIMEOUT,  # noqa: ARG002
        force: bool = False,  # noqa: ARG002
    ) -> BaseService:
        """Leave alone what is not in use.

        Raises:
            ReleaseError: it is in use.
        """
        self._refuse_in_use(of_release(service.config), "stopped")
        return service

    def perform_delete_model(
        self,
        service: BaseService,
        timeout: int = TIMEOUT,  # noqa: ARG002
        force: bool = False,  # noqa: ARG002
    ) -> None:
        """Let the record of what is not in use be deleted; the release itself stays.

        Raises:
            ReleaseError: it is in use.
        """
        self._refuse_in_use(of_release(service.config), "deleted")

    def start_model_server(self, uuid: UUID, timeout: int = TIMEOUT) -> None:
        """Deploy the release of a record again."""
        with refused_in_one_line():
            super().start_model_server(uuid, timeout)

    def stop_model_server(self, uuid: UUID, timeout: int = TIMEOUT, force: bool = False) -> None:
        """Refuse for what is in use."""
        with refused_in_one_line():
            super().stop_model_server(uuid, timeout, force)

    def delete_model_server(self, uuid: UUID, timeout: int = TIMEOUT, force: bool = False) -> None:
        """Delete the record of what is not in use."""
        with refused_in_one_line():
            super().delete_model_server(uuid, timeout, force)

    def find_model_server(
        self,
        config: dict[str, Any] | None = None,
        running: bool | None = None,
        service_uuid: UUID | None = None,
        pipeline_name: str | None = None,
        pipeline_step_name: str | None = None,
        service_name: str | None = None,
        model_name: str | None = None,
        model_version: str | None = None,
        service_type: ServiceType | None = None,
        type: str | None = None,  # noqa: A002
        flavor: str | None = None,
        pipeline_run_id: str | None = None,
    ) -> list[BaseService]:
        """The releases of this environment that were deployed, the newest record first.

        What the pointers say is brought into the record before, whoever has set them. ZenML's own
        finds everything where it does not know the model that is asked for.
        """
        self._mirror()
        wanted = {
            **(config or {}),
            "pipeline_name": pipeline_name, "pipeline_step_name": pipeline_step_name,
            "service_name": service_name, "model_name": model_name,
            "model_version": model_version,
        }  # fmt: skip
        kind = ReleaseService.SERVICE_TYPE
        if {type, service_type and service_type.type} - {None, kind.type} or pipeline_run_id:
            return []
        if {flavor, service_type and service_type.flavor} - {None, kind.flavor}:
            return []
        found = [updated(service_of(each.id, each.config)) for each in self._records(service_uuid)]
        return [
            service
            for service in found
            if all(
                value in (None, service.config.model_dump().get(key))
                for key, value in wanted.items()
            )
            and (not running or service.status.state == ServiceState.ACTIVE)
        ]

    @staticmethod
    def get_model_server_info(service: BaseService) -> dict[str, str | None]:
        """What `zenml model-deployer models describe` shows."""
        config = of_release(service.config)
        return {
            "PREDICTION_URL": service.get_prediction_url(),
            "MODEL_NAME": config.model_name,
            "MODEL_VERSION": config.model_version,
            "ENVIRONMENT": config.environment,
            "FLEET": config.fleet,
            "RELEASE": str(config.folder),
        }

    def _configured(self, folder: Path) -> ReleaseServiceConfig:
        """How ZenML is to record the release in `folder`."""
        manifest = releases.load(folder).manifest
        name = f"{manifest.name}-v{manifest.version}"
        config = ReleaseServiceConfig(
            name=name,
            service_name=name,
            model_name=manifest.name,
            model_version=str(manifest.version),
            environment=self.config.environment,
            fleet=manifest.fleet,
            service_url=(self.config.service_url or "").rstrip("/"),
        )
        if config.folder != folder.resolve() or manifest.environment != config.environment:
            raise ReleaseError(
                f"{folder} is a release of environment '{manifest.environment}' and no "
                f"{config.folder}, where '{config.environment}' has it; deploy it with its own "
                "environment's stack: zenml stack set"
            )
        return config

    def _point_to(self, folder: Path, *, proven: bool = False) -> None:
        if not proven:
            verification.verify_in_fresh_process(folder)
        with self._alone():
            if releases.champion(folder.parent) != folder:
                traffic.promote(folder.parent, int(folder.name[1:]))

    def _mirror(self) -> None:
        """Record every champion of the environment."""
        for pointer in sorted(self.state.root.glob(f"*/releases/{releases.POINTER}")):
            try:
                folder = releases.champion(pointer.parent)
                if folder is not None:
                    self._record(self._configured(folder))
            except ReleaseError as err:
                terminal.warn(str(err))

    def _record(self, config: ReleaseServiceConfig) -> ReleaseService:
        """Have ZenML know a release, once and as it is now."""
        client = Client()
        with self._alone():
            same = [each for each in self._records() if each.name == config.service_name]
            kept = [each for each in same if each.config == config.model_dump()]
            for each in same:
                if each not in kept[-1:]:  # the oldest that says what is true now
                    client.delete_service(each.id)
            found = kept[-1] if kept else client.create_service(config, ReleaseService.SERVICE_TYPE)
            return updated(service_of(found.id, config))

    def _records(self, service: UUID | None = None) -> list[ServiceResponse]:
        """ZenML's records of this environment's releases, the newest first."""
        kind = ReleaseService.SERVICE_TYPE
        found = depaginate(
            Client().list_services, sort_by="desc:created", id=service, type=kind.type,
            flavor=kind.flavor, hydrate=True,
        )  # fmt: skip
        return [e for e in found if e.config.get("environment") == self.config.environment]

    def _refuse_in_use(self, config: ReleaseServiceConfig, what: str) -> None:
        if releases.champion(config.folder.parent) == config.folder:
            raise ReleaseError(
                f"release v{config.model_version} of fleet '{config.fleet}' is in use and cannot "
                f"be {what}; deploy another first (zenml model-deployer models start), or end the "
                "service itself"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with held(self.state.root / "deployments.lock", terminal.say):
            yield


class ReleaseDeployerFlavor(BaseModelDeployerFlavor):  # type: ignore[misc]
    """The flavor `release`."""

    @property
    def name(self) -> str:
        """The flavor's name."""
        return ReleaseDeployer.NAME

    @property
    def config_class(self) -> type[ReleaseDeployerConfig]:
        """The class of its settings."""
        return ReleaseDeployerConfig

    @property
    def implementation_class(self) -> type[ReleaseDeployer]:
        """The class of the component."""
        return ReleaseDeployer


ReleaseDeployer.FLAVOR = ReleaseDeployerFlavor
