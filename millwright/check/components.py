"""The components of a stack as ZenML sees them, without registering any."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from packaging.requirements import Requirement
from pydantic import ValidationError
from zenml.enums import StackComponentType
from zenml.integrations.registry import integration_registry
from zenml.stack.flavor import Flavor
from zenml.stack.flavor_registry import FlavorRegistry
from zenml.utils import secret_utils, source_utils

from millwright.check.report import Finding
from millwright.configuration import nearest
from millwright.stack import FLAVORS
from millwright.stack_file import Component, StackFile

Flavors = dict[str, dict[str, type[Flavor]]]


def check(stack: StackFile, file: str) -> list[Finding]:
    """What ZenML would refuse of a stack whose variables are filled in, or could not load."""
    flavors = known_flavors()
    return [
        finding
        for kind, component in stack.components.items()
        for finding in _component(component, flavors, f"{file}: {kind}")
    ]


def known_flavors() -> Flavors:
    """Every flavor that a component may have, by kind and name: ZenML's own and ours."""
    found: Flavors = {kind.value: {} for kind in StackComponentType}
    registry = FlavorRegistry()
    ours = [source_utils.load(source) for _, _, source in FLAVORS]
    for flavor in [*registry.builtin_flavors, *registry.integration_flavors, *ours]:
        made = flavor()
        found[made.type.value][made.name] = flavor
    return found


def _component(component: Component, flavors: Flavors, place: str) -> list[Finding]:
    names = flavors[component.type]
    if component.flavor not in names:
        wrong = f"'{component.flavor}' is no flavor of a component of type {component.type}"
        return [Finding(f"{place}.flavor", wrong, nearest(component.flavor, sorted(names)))]
    flavor = names[component.flavor]()
    return [*_configuration(component, flavor, place), *_packages(flavor, place)]


def _configuration(component: Component, flavor: Flavor, place: str) -> Iterator[Finding]:
    fields = flavor.config_class.model_fields
    unknown = set(component.configuration) - set(fields)
    for key in sorted(unknown):
        wrong = f"flavor '{component.flavor}' has no such key"
        yield Finding(f"{place}.{key}", wrong, nearest(key, sorted(fields)))
    for key, value in component.configuration.items():
        if key in fields and secret_utils.is_secret_field(fields[key]) and _is_clear(value):
            way_out = f"write {{{{NAME.{key}}}}}, the key of a secret that ZenML keeps"
            yield Finding(f"{place}.{key}", "has a secret in clear", way_out)
    known = {key: value for key, value in component.configuration.items() if key not in unknown}
    try:
        if not flavor.config_class(**known).is_valid:
            yield Finding(place, f"flavor '{component.flavor}' refuses it", "see its documentation")
    except ValidationError as err:
        for fault in err.errors(include_input=False, include_url=False):
            key = ".".join([place, *(str(part) for part in fault["loc"])])
            yield Finding(key, fault["msg"], f"see the flavor '{component.flavor}' of ZenML")
    except (ImportError, ValueError) as err:
        if not isinstance(err, ImportError):  # of a package, which is a finding of its own
            yield Finding(place, f"flavor '{component.flavor}' refuses it: {err}", "correct it")


def _is_clear(value: Any) -> bool:
    return bool(value) and not secret_utils.is_secret_reference(value)


def _packages(flavor: Flavor, place: str) -> list[Finding]:
    """What has to be installed for the class of a component to be imported."""
    try:
        _ = flavor.implementation_class
    except ImportError as err:
        missing = _missing(flavor) or [str(err.name)]
        wrong = f"flavor '{flavor.name}' needs {', '.join(missing)}, which is not installed"
        quoted = " ".join(f"'{each}'" for each in missing)
        return [Finding(f"{place}.flavor", wrong, f"uv pip install {quoted}")]
    return []


def _missing(flavor: Flavor) -> list[str]:
    """The requirements of a flavor's integration that are not there in any version."""
    match = re.match(r"zenml\.integrations\.(\w+)\.", type(flavor).__module__)
    if match is None:
        return []
    integration = integration_registry.integrations[match.group(1)]
    return [each for each in integration.get_requirements() if not _installed(each)]


def _installed(requirement: str) -> bool:
    try:
        distribution(Requirement(requirement).name)
    except PackageNotFoundError:
        return False
    return True
