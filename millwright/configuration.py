"""Reading YAML into strict, frozen objects, with errors that name the file, the line and the key.

Every configuration file of the project is read by `load`, so a misspelt key is refused in all of
them in the same words.
"""

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from millwright.errors import ConfigurationError

Location = tuple[int | str, ...]
SEPARATOR = "; and "  # between the faults that a section finds in its keys together
MOST_NAMES = 12  # that an error message lists
_TIME = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Leaves a date as text: the section that reads it says what is wrong with it, and where."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != _TIME]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Strict(BaseModel):
    """A configuration section: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Section = TypeVar("Section", bound=BaseModel)


def load(path: Path, section: type[Section]) -> Section:
    """Read the YAML file at `path` as a `section`.

    Raises:
        ConfigurationError: one message with every fault in the file, each with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigurationError(f"cannot read {path}: {err}") from err
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        values = loader.construct_document(root) if root else None
        lines: dict[Location, int] = {}
        repeated: list[str] = []
        if root:
            _walk(root, (), lines, repeated)
    except yaml.YAMLError as err:
        raise ConfigurationError(_unreadable(path, err)) from err
    except RecursionError as err:
        raise ConfigurationError(f"{path} is nested without end; no key needs that") from err
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} must be a mapping of keys to values, and is not")
    if repeated:
        raise ConfigurationError("\n".join(f"{path}:{fault}" for fault in repeated))
    try:
        return section.model_validate(values)
    except ValidationError as err:
        faults = [_describe(path, fault, lines, section) for fault in err.errors()]
        raise ConfigurationError("\n".join(faults)) from err


def nearest(name: str, names: list[str]) -> str:
    """Say which of `names` was probably meant, as the end of an error message."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    if not names:
        return "none is defined"
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return f"valid names: {', '.join(names[:MOST_NAMES])}{more}"


def _walk(node: Any, place: Location, lines: dict[Location, int], repeated: list[str]) -> None:
    """Record the line of every key below `node`, and every key that stands twice."""
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                repeated.append(
                    f"{line}: '{key.value}' is named twice, first on line {seen[key.value]}; "
                    "keep one of them"
                )
            seen[key.value] = line
            _walk(value, (*place, key.value), lines, repeated)
            lines[(*place, key.value)] = line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*place, index), lines, repeated)


def _unreadable(path: Path, err: yaml.YAMLError) -> str:
    mark = getattr(err, "problem_mark", None)
    if mark is None:
        return f"{path} is not valid YAML: {' '.join(str(err).split())}"
    problem = " ".join(filter(None, (getattr(err, "context", ""), getattr(err, "problem", ""))))
    return f"{path}:{mark.line + 1}: not valid YAML: {problem}"


def _describe(
    path: Path, fault: ErrorDetails, lines: dict[Location, int], section: type[BaseModel]
) -> str:
    place: Location = tuple(part for part in fault["loc"] if part != "[key]")
    known = place
    while known not in lines:
        known = known[:-1]
    key = ".".join(str(part) for part in place)
    where = f"{path}:{lines[known]}"
    if fault["type"] == "extra_forbidden":
        names = _keys_at(section, place[:-1])
        return f"{where}: unknown key '{key}'; {nearest(str(place[-1]), names)}"
    if fault["type"] == "missing":
        return f"{where}: '{key}' is missing; add it"
    message = fault["msg"].removeprefix("Value error, ")
    if key:
        return f"{where}: {key}: {message}"
    # What is wrong with several keys together is said of the whole file, once for each.
    return "\n".join(f"{path}:{_line_of(each, lines)}: {each}" for each in message.split(SEPARATOR))


def _line_of(message: str, lines: dict[Location, int]) -> int:
    """The line of the first key that `message` names, or of the file's beginning."""
    for name in re.findall(r"'([\w.\[\]]+)'", message):
        place: Location = tuple(
            int(part) if part.isdigit() else part for part in re.findall(r"\w+", name)
        )
        while place and place not in lines:
            place = place[:-1]
        if place:
            return lines[place]
    return lines[()]


def _keys_at(section: type[BaseModel], place: Location) -> list[str]:
    """The keys that the section at `place` below `section` may have."""
    current: Any = section
    for part in place:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        else:  # an entry of a mapping or a list: its values are all of one kind
            kinds = [kind for kind in get_args(current) if kind is not Ellipsis]
            current = kinds[-1] if kinds else None
        while not isinstance(current, type) and type(None) in get_args(current):
            current = next(kind for kind in get_args(current) if kind is not type(None))
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []
