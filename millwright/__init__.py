"""Millwright: predict which machines of a fleet will fail soon."""

from typing import Any

import typeguard

_typechecked = typeguard.typechecked


def _typechecked_but_for_feast(target: Any = None, **options: Any) -> Any:
    """Leave Feast's classes as they are written.

    It has typeguard parse and compile each of their methods anew: three of the four seconds that
    importing Feast takes. What such checks would find in our definitions, mypy finds.
    """
    if getattr(target, "__module__", "").startswith("feast."):
        return target
    return _typechecked(target, **options)


typeguard.typechecked = _typechecked_but_for_feast
