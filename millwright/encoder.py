"""From features to the columns of a model, in training and in the service alike.

The fields of an `Encoder` are part of every release.
"""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from millwright.configuration import Strict
from millwright.fleet import Fleet
from millwright.views import model_features

if TYPE_CHECKING:
    import pandas as pd

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

    @cached_property
    def columns(self) -> list[str]:
        """The names of the matrix's columns, such as `volt_mean_24h` and `model=model3`."""
        names: list[str] = []
        for feature in self.features:
            values = self.categories.get(feature)
            names += [f"{feature}={value}" for value in values] if values else [feature]
        return names

    def encode(self, frame: "pd.DataFrame") -> Matrix:
        """A matrix of shape (rows of `frame`, `columns`), float32, in the order of `columns`."""

        def column(feature: str) -> NDArray[Any]:
            if feature not in self.categories:
                return frame[feature].to_numpy(np.float32)
            # Text of pandas' own type is neither equal nor unequal where it is missing.
            texts = frame[feature].astype(object)
            return np.asarray(texts.where(texts.notna(), None), dtype=object)

        return self.encode_columns(column, len(frame))

    def encode_columns(self, column: Callable[[str], NDArray[Any]], rows: int) -> Matrix:
        """The same, of what `column` gives for a feature.

        That is of shape (rows,): float32, or objects that are text or None.
        """
        matrix = np.empty((rows, len(self.columns)), dtype=np.float32)
        for feature, place in self.numbers.items():
            matrix[:, place] = column(feature)
        self._encode_categories(column, matrix)
        return matrix

    def encode_block(self, numbers: Matrix, column: Callable[[str], NDArray[Any]]) -> Matrix:
        """The same of all `numbers` at once, shape (rows, features), in the order of ours.

        `column` gives the categories.
        """
        matrix = np.empty((len(numbers), len(self.columns)), dtype=np.float32)
        matrix[:, self._places] = numbers
        self._encode_categories(column, matrix)
        return matrix

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The features that are numbers, and the column of each."""
        places = {name: place for place, name in enumerate(self.columns)}
        return {name: places[name] for name in self.features if name not in self.categories}

    @cached_property
    def _places(self) -> NDArray[np.intp]:
        return np.array([*self.numbers.values()], np.intp)

    @cached_property
    def _values(self) -> list[tuple[str, list[tuple[int, str]]]]:
        """The features that are categories, and the column of each value."""
        places = {name: place for place, name in enumerate(self.columns)}
        return [
            (feature, [(places[f"{feature}={value}"], value) for value in values])
            for feature, values in self.categories.items()
        ]

    def _encode_categories(self, column: Callable[[str], NDArray[Any]], matrix: Matrix) -> None:
        for feature, values in self._values:
            found = column(feature)
            for place, value in values:
                matrix[:, place] = found == value
