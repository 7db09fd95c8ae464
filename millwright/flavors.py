"""What ZenML has no good component for, as flavors of ours.

ZenML's own Feast component cannot ask for features *as they were known* and knows neither our
environments nor Arrow; this one is on top of it and does.
"""

from functools import cached_property
from typing import Any, cast

import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from zenml.integrations.feast.feature_stores import FeastFeatureStore
from zenml.integrations.feast.flavors import FeastFeatureStoreConfig, FeastFeatureStoreFlavor

from millwright import feast_store
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

    def get_historical_features(
        self, entity_df: Any, features: Any, full_feature_names: bool = False
    ) -> pd.DataFrame:
        """Features as they were true *and known* at each row's time, as a frame."""
        found = self.get_features_as_known(entity_df, features, full_feature_names)
        return found.to_pandas()

    def get_features_as_known(
        self, entity_df: pd.DataFrame, features: Any, full_feature_names: bool = False
    ) -> pa.Table:
        """Features as they were true and known at each row's time; as many rows, in their order."""
        if isinstance(features, str):
            features = self.store.get_feature_service(features)
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
