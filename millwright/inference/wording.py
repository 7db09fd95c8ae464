"""Why a machine is on the work list, in words: what of it moved the prediction, and which way."""

from collections.abc import Iterator, Mapping
from typing import Any

from millwright.fleet import Fleet, Statistic
from millwright.pages import length
from millwright.views import View, feature_views

STATISTICS: dict[Statistic, str] = {
    "mean": "mean", "std": "deviation", "min": "least", "max": "greatest", "slope": "slope",
}  # fmt: skip

# What is said of a feature: the words before its value, and the unit behind it.
Words = Mapping[str, tuple[str, str]]


def words_of(fleet: Fleet) -> Words:
    """What is said of each column of a model of this fleet, categories apart."""
    return dict(_words(fleet))


def in_words(reason: Mapping[str, Any], words: Words) -> str:
    """A reason, as `serving.answers.reasons` gives it, as `raises the risk: volt, ... 182 V`.

    A column that the fleet file has no more is called by its name.
    """
    direction = "raises" if reason["contribution"] > 0 else "lowers"
    return f"{direction} the risk: {_said(reason['feature'], reason['value'], words)}"


def _said(column: str, value: float | None, words: Words) -> str:
    attribute, is_category, category = column.partition("=")
    if is_category:
        return f"{attribute} is {'' if value else 'not '}{category}"
    before, unit = words.get(column, (column, ""))
    number = "not known" if value is None else f"{value:,.4g}"
    return f"{before} {number}{f' {unit}' if unit and value is not None else ''}"


def _words(fleet: Fleet) -> Iterator[tuple[str, tuple[str, str]]]:
    for view in feature_views(fleet):
        if view.kind in ("step", "window"):
            yield from _of_sensors(view, fleet)
        else:
            yield from zip(view.features, _of_others(view, fleet), strict=True)


def _of_sensors(view: View, fleet: Fleet) -> Iterator[tuple[str, tuple[str, str]]]:
    span = view.window or fleet.step
    for sensor, each in fleet.sensors.items():
        for statistic, name in STATISTICS.items():
            unit = "" if statistic == "slope" else each.unit
            words = f"{sensor}, {name} of {length(span, fleet)}:"
            yield f"{sensor}_{statistic}_{fleet.label(span)}", (words, unit)


def _of_others(view: View, fleet: Fleet) -> list[tuple[str, str]]:
    """In the order of the features of a view."""
    span = length(view.window or fleet.step, fleet)
    if view.kind == "errors":
        return [(f"{code}, messages in {span}:", "") for code in fleet.error_codes]
    if view.kind == "maintenance":
        unit = "cycles" if fleet.counts_cycles else "hours"
        return [(f"{component}, since it was replaced:", unit) for component in fleet.components]
    if view.kind == "attributes":
        return [(f"{name}:", attribute.unit) for name, attribute in fleet.attributes.items()]
    return [(f"unlikeness to healthy readings of {span}:", "")]
