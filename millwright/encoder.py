"""From features to the columns of a model, in training and in the service alike.

The fields of an `Encoder` are part of every release.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from millwright.configuration import Strict
from millwright.fleet import Fleet
from millwright.views import model_features

Matrix = NDArray[np.float32]
Scores = NDArray[np.float64]


class Encoder(Strict):
    """The way from features to columns: numbers as they are, a category as one column a value.

    A missing number stays NaN; a missing or unknown category is 0 in all of its columns.
    """

    features: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, fleet: Fleet) -> "Encoder":
        """The encoder for every feature of `fleet`."""
        kinds = model_features(fleet)
        return cls(
            features=tuple(kinds),
            categories={
                name: fleet.attributes[name].values
                for name, kind in kinds.items()
                if kind == "string"
            },
        )

    @property
    def columns(self) -> list[str]:
        """The names of the matrix's columns, such as `volt_mean_24h` and `model=model3`."""
        names: list[str] = []
        for feature in self.features:
            values = self.categories.get(feature)
            names += [f"{feature}={value}" for value in values] if values else [feature]
        return names

    def encode(self, frame: pd.DataFrame) -> Matrix:
        """A matrix of shape (rows of `frame`, `columns`), float32, in the order of `columns`."""
        matrix = np.empty((len(frame), len(self.columns)), dtype=np.float32)
        column = 0
        for feature in self.features:
            values = self.categories.get(feature)
            if values is None:
                matrix[:, column] = frame[feature].to_numpy(np.float32)
                column += 1
                continue
            for value in values:
                # Text of pandas' own type is neither equal nor unequal where it is missing.
                matrix[:, column] = (frame[feature] == value).to_numpy(np.float32, na_value=0)
                column += 1
        return matrix
