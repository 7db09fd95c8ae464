"""Kinds of fields in a fleet file: names, ranges, and lists in which nothing stands twice."""

import re
from typing import Annotated, TypeVar

from pydantic import AfterValidator, FiniteFloat

# What a frame has beside sensors and attributes, or a table while it is worked on.
RESERVED = frozenset((
    "machine_id", "timestamp", "received", "event_timestamp", "created_timestamp", "label", "part",
    "refusals", "fingerprint", "fate", "code", "component", "anomaly_score", "rowid", "period",
    "step", "known", "until", "row_known",
))  # fmt: skip

Item = TypeVar("Item")


def distinct(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Refuse `items` in which one stands twice."""
    for index, item in enumerate(items):
        if item in items[:index]:
            raise ValueError(
                f"entry {index + 1} is the same as entry {items.index(item) + 1}; keep one of them"
            )
    return items


def distinct_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse `names` of which two differ in their case alone: columns are named after them."""
    lower = [name.lower() for name in distinct(names)]
    for index, name in enumerate(lower):
        if name in lower[:index]:
            raise ValueError(
                f"'{names[lower.index(name)]}' and '{names[index]}' differ in their case alone; "
                "keep one of them, and write it in one way in the data"
            )
    return names


def _name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"'{name}' is no name; write lower-case letters, digits and _, a letter first"
        )
    return name


def _free(name: str) -> str:
    if name in RESERVED:
        raise ValueError(
            f"'{name}' is a name of Millwright's own; take another, and say what it is called in "
            "the data by 'column'"
        )
    return name


def _rising(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] >= span[1]:
        raise ValueError(f"[{span[0]:g}, {span[1]:g}] does not rise; write the least value first")
    return span


Name = Annotated[str, AfterValidator(_name)]
ColumnName = Annotated[Name, AfterValidator(_free)]
Range = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_rising)]
