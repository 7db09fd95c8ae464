"""What ZenML has no good component for, as flavors of ours.

ZenML's own Feast component cannot ask for features *as they were known* and knows neither our
environments nor Arrow; ours is on top of it and does. ZenML's own MLflow component refuses a server
without a login that ZenML keeps.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Self, cast

import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from pydantic import model_validator
from zenml.enums import StackComponentType
from zenml.integrations.feast.feature_stores import FeastFeatureStore
from zenml.integrations.feast.flavors import FeastFeatureStoreConfig, FeastFeatureStoreFlavor
from zenml.integrations.mlflow.experiment_trackers import MLFlowExperimentTracker
from zenml.integrations.mlflow.flavors import (
    MLFlowExperimentTrackerConfig,
    MLFlowExperimentTrackerFlavor,
    MLFlowModelRegistryFlavor,
)
from zenml.integrations.mlflow.model_registries import MLFlowModelRegistry
from zenml.stack import StackValidator

from millwright import feast_store, online
from millwright.materialization import Materialized, Progress, materialize
from millwright.settings import State, state


class PointInTimeFeatureStoreConfig(FeastFeatureStoreConfig):  # type: ignore[misc]
    """The component's settings: ZenML's own, and the environment that it belongs to."""

    environment: str


class PointInTimeFeatureStore(FeastFeatureStore):  # type: ignore[misc]
    """The Feast feature store of one environment."""

    @property
    def config(self) -> PointInTimeFeatureStoreConfig:
        """The component's settings."""
        return cast("PointInTimeFeatureStoreConfig", self._config)

    @property
    def state(self) -> State:
        """Where the environment keeps what it has."""
        return state(self.config.environment)

    @cached_property
    def store(self) -> FeatureStore:
        """The store itself, opened once: each opening reads the registry."""
        return feast_store.open_store(self.state)

    def apply(self) -> str:
        """Publish the definitions, and give what Feast says of it."""
        said = feast_store.apply(self.state)
        self.__dict__.pop("store", None)
        return said

    def materialize(
        self, views: Sequence[str], now: datetime, progress: Progress | None = None
    ) -> list[Materialized]:
        """Bring views to the online store, as they are known `now`."""
        return materialize(self.store, views, now, progress)

    def compare(
        self, service: str, machines: Sequence[str], as_of: datetime
    ) -> list[online.Difference]:
        """Where the online store has other features than a historical join at `as_of` gives."""
        return online.compare(self.store, service, machines, as_of)

    def get_historical_features(
        self, entity_df: Any, features: Any, full_feature_names: bool = False
    ) -> pd.DataFrame:
        """Features as they were true *and known* at each row's time, as a frame."""
        found = self.get_features_as_known(entity_df, features, full_feature_names)
        return found.to_pandas()

    def get_features_as_known(
        self, entity_df: pd.DataFrame, features: Any, full_feature_names: bool = False
    ) -> pa.Table:
        """Features as they were true and known at each row's time; as many rows, in their order.

        Raises:
            InputError: `features` names a service that Feast does not know.
        """
        if isinstance(features, str):
            features = online.find_service(self.store, features)
        found: pa.Table = self.store.get_historical_features(
            entity_df=entity_df,
            features=features,
            full_feature_names=full_feature_names,
            filter_by_created_timestamp=True,
        ).to_arrow()
        return found


class PointInTimeFeatureStoreFlavor(FeastFeatureStoreFlavor):  # type: ignore[misc]
    """The flavor `feast_point_in_time`."""

    @property
    def name(self) -> str:
        """The flavor's name."""
        return "feast_point_in_time"

    @property
    def config_class(self) -> type[PointInTimeFeatureStoreConfig]:
        """The class of its settings."""
        return PointInTimeFeatureStoreConfig

    @property
    def implementation_class(self) -> type[PointInTimeFeatureStore]:
        """The class of the component."""
        return PointInTimeFeatureStore


class ServerExperimentTrackerConfig(MLFlowExperimentTrackerConfig):  # type: ignore[misc]
    """The settings of MLflow's component, for a server that is one's own business to log in to.

    A server on this machine has no login; for another one MLflow's client reads
    `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`, itself.
    """

    @model_validator(mode="after")
    def _ensure_exactly_one_authentication_method_if_necessary(self) -> Self:
        return self


class ServerExperimentTrackerFlavor(MLFlowExperimentTrackerFlavor):  # type: ignore[misc]
    """The flavor `mlflow_server`."""

    @property
    def name(self) -> str:
        """The flavor's name."""
        return "mlflow_server"

    @property
    def config_class(self) -> type[ServerExperimentTrackerConfig]:
        """The class of its settings."""
        return ServerExperimentTrackerConfig

    @property
    def implementation_class(self) -> type[MLFlowExperimentTracker]:
        """The class of the component, which is ZenML's."""
        implementation: type[MLFlowExperimentTracker] = MLFlowExperimentTracker
        return implementation


class ServerModelRegistry(MLFlowModelRegistry):  # type: ignore[misc]
    """MLflow's register on the server of the stack's experiment tracker.

    ZenML's own accepts no tracker but that of its own flavor.
    """

    @property
    def validator(self) -> StackValidator:
        """What else the stack must have."""
        return StackValidator(required_components={StackComponentType.EXPERIMENT_TRACKER})


class ServerModelRegistryFlavor(MLFlowModelRegistryFlavor):  # type: ignore[misc]
    """The flavor `mlflow_server` of a model registry."""

    @property
    def name(self) -> str:
        """The flavor's name."""
        return "mlflow_server"

    @property
    def implementation_class(self) -> type[ServerModelRegistry]:
        """The class of the component."""
        return ServerModelRegistry
