"""What a release reads of each machine, and how it becomes columns.

A machine's cells are the bytes that Feast has written for it: those of the numbers first, then
those of the texts. All of them are decoded at once, so a thousand machines cost little more than
one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millwright.errors import MillwrightError
from millwright.release import ServedView
from millwright.serving.rows import (
    NEVER,
    PRESENT,
    Block,
    FeatureRows,
    Moments,
    microseconds,
    states,
)
from millwright.stores import online_layout

Cells = list[bytes | None]

_NULL = bytes([online_layout.FLOAT]) + np.array(np.nan, "<f4").tobytes()
_NUMBER = np.dtype([("tag", "u1"), ("value", "<f4")])


class MistypedError(MillwrightError):
    """The store has features of other types than a release needs."""


class Plan:
    """The views of a feature service, and the order of a machine's cells.

    `numbers` and `texts` name each feature with its view. Plans of the same views are equal.
    """

    def __init__(self, views: tuple[ServedView, ...]) -> None:
        self.views = views
        self.names = tuple(view.name for view in views)
        kinds = [
            (place, *each) for place, view in enumerate(views) for each in view.features.items()
        ]
        self.numbers = [(place, name) for place, name, kind in kinds if kind == "float32"]
        self.texts = [(place, name) for place, name, kind in kinds if kind == "string"]
        self.features = [*self.numbers, *self.texts]
        self.places = {name: place for place, (_, name) in enumerate(self.numbers)}
        self._owners = np.array([place for place, _ in self.numbers], np.intp)
        lives = [view.time_to_live for view in views]
        timed = [place for place, life in enumerate(lives) if life is not None]
        self.timed = np.array(timed or range(len(views)), np.intp)  # those that tell of readings
        self.lives = microseconds(lives)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and other.views == self.views

    def __hash__(self) -> int:
        return hash(self.names)

    def rows(
        self, machines: Sequence[str], cells: Sequence[Cells], events: Moments, as_of: Moments
    ) -> FeatureRows:
        """What the cells of n machines are worth at `as_of`, shape (n,), microseconds since 1970.

        Raises:
            MistypedError: a cell is of another type than the release needs.
        """
        found = states(events, self.lives, as_of)
        gone = found != PRESENT
        numbers = self._numbers(machines, cells)
        if gone.any():
            numbers[gone[:, self._owners]] = np.nan
        texts: dict[str, NDArray[Any]] = {}
        for place, (view, name) in enumerate(self.texts, len(self.numbers)):
            told = [
                None if nothing else self._text(machine, row[place], name)
                for machine, row, nothing in zip(machines, cells, gone[:, view], strict=True)
            ]
            texts[name] = np.array([*told, None], dtype=object)[:-1]
        return FeatureRows(Block(numbers, self.places, texts), events, found, self.names)

    def without_features(self) -> "Plan":
        """The same views, to be asked for their event times alone."""
        return Plan(tuple(view.model_copy(update={"features": {}}) for view in self.views))

    def nothing(self) -> tuple[Cells, list[int]]:
        """The cells and the event times of a machine of which nothing is known."""
        return [None] * len(self.features), [NEVER] * len(self.views)

    def _numbers(self, machines: Sequence[str], cells: Sequence[Cells]) -> NDArray[np.float32]:
        width = len(self.numbers)
        try:
            content = b"".join([cell or _NULL for row in cells for cell in row[:width]])
        except TypeError:  # SQLite keeps what it is given
            raise self._mistyped(machines, cells) from None
        if len(content) != len(cells) * width * _NUMBER.itemsize:
            raise self._mistyped(machines, cells)
        numbers = np.frombuffer(content, _NUMBER).reshape(len(cells), width)
        if (numbers["tag"] != online_layout.FLOAT).any():
            raise self._mistyped(machines, cells)
        return numbers["value"].astype(np.float32)

    def _mistyped(self, machines: Sequence[str], cells: Sequence[Cells]) -> MistypedError:
        for machine, row in zip(machines, cells, strict=True):
            for (view, name), cell in zip(self.numbers, row, strict=False):
                if cell and not _is_number(cell):
                    return self._refusal(machine, view, name)
        return MistypedError("the online store has what is no feature; publish and fill it again")

    def _text(self, machine: str, cell: bytes | None, name: str) -> str | None:
        try:
            return online_layout.text(cell or b"")
        except (ValueError, IndexError, TypeError):
            view = next(view for view, text in self.texts if text == name)
            raise self._refusal(machine, view, name) from None

    def _refusal(self, machine: str, view: int, name: str) -> MistypedError:
        return MistypedError(
            f"'{name}' of view '{self.names[view]}' is of another type in the online store than "
            f"the release needs, such as that of machine {machine!r}; publish the views of the "
            "release and materialize them again, or train again"
        )


def _is_number(cell: Any) -> bool:
    whole = isinstance(cell, bytes) and len(cell) == len(_NULL)
    return whole and cell[0] == online_layout.FLOAT
