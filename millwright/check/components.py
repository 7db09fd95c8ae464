"""The components of a stack as ZenML sees them, without registering any."""

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from packaging.requirements import Requirement
from pydantic import ValidationError
from zenml.integrations.registry import integration_registry
from zenml.stack.flavor import Flavor
from zenml.stack.flavor_registry import FlavorRegistry
from zenml.utils import secret_utils, source_utils

from millwright.check import pods
from millwright.check.report import Finding
from millwright.check.stacks import in_clear
from millwright.configuration import nearest
from millwright.stack import FLAVORS
from millwright.stack_file import Component, StackFile


def check(stack: StackFile, file: str) -> list[Finding]:
    """What ZenML would refuse of a stack whose variables are filled in, or could not load."""
    return [
        finding
        for kind, component in stack.components.items()
        for finding in _component(component, f"{file}: {kind}")
    ]


def flavor_of(kind: str, name: str) -> Flavor | None:
    """The flavor that a component of this kind would have: ZenML's own or ours."""
    for ours, called, source in FLAVORS:
        if (ours.value, called) == (kind, name):
            flavor: Flavor = source_utils.load(source)()
            return flavor
    # Each integration takes time to import, and most flavors are called as theirs.
    integration = integration_registry.integrations.get(name)
    likely = integration.flavors() if integration else []
    return _among([*likely, *FlavorRegistry().builtin_flavors], kind).get(name)


def _all_flavors(kind: str) -> dict[str, Flavor]:
    registry = FlavorRegistry()
    ours = [source_utils.load(source) for part, _, source in FLAVORS if part.value == kind]
    return _among([*ours, *registry.builtin_flavors, *registry.integration_flavors], kind)


def _among(flavors: Iterable[type[Flavor]], kind: str) -> dict[str, Flavor]:
    made = [flavor() for flavor in flavors]
    return {flavor.name: flavor for flavor in made if flavor.type.value == kind}


def _component(component: Component, place: str) -> list[Finding]:
    flavor = flavor_of(component.type, component.flavor)
    if flavor is None:
        known = _all_flavors(component.type)
        flavor = known.get(component.flavor)
    if flavor is None:
        wrong = f"'{component.flavor}' is no flavor of a component of type {component.type}"
        return [Finding(f"{place}.flavor", wrong, nearest(component.flavor, sorted(known)))]
    found = [*_configuration(component, flavor, place), *_packages(flavor, place)]
    if not found and (component.type, component.flavor) == ("orchestrator", "kubernetes"):
        found += _pods(component, place)
    return found


def _pods(orchestrator: Component, place: str) -> Iterator[Finding]:
    """What the cluster would refuse of the pods that ZenML makes of a step, and of a run."""
    for key in ("pod_settings", "orchestrator_pod_settings"):
        for wrong in pods.refused(pod_of(orchestrator.configuration.get(key) or {})):
            way_out = "say so in its container_security_context, as the namespace demands"
            yield Finding(f"{place}.{key}", f"a pod's {wrong}", way_out)


def pod_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The `spec` of the pod that ZenML asks Kubernetes for with these pod settings."""
    from zenml.integrations.kubernetes.manifest_utils import build_pod_manifest
    from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings
    from zenml.integrations.kubernetes.serialization_utils import serialize_kubernetes_model

    made = build_pod_manifest(
        "check", "image", ["python"], [], privileged=False,
        pod_settings=KubernetesPodSettings(**settings),
    )  # fmt: skip
    spec: dict[str, Any] = serialize_kubernetes_model(made)["spec"]
    return spec


def _configuration(component: Component, flavor: Flavor, place: str) -> Iterator[Finding]:
    fields = flavor.config_class.model_fields
    unknown = set(component.configuration) - set(fields)
    for key in sorted(unknown):
        wrong = f"flavor '{component.flavor}' has no such key"
        yield Finding(f"{place}.{key}", wrong, nearest(key, sorted(fields)))
    known = {key: value for key, value in component.configuration.items() if key not in unknown}
    for key, value in known.items():
        if in_clear(key, str(value)):
            known[key] = "placeholder"  # a finding already, and not to be repeated in a message
        elif secret_utils.is_secret_field(fields[key]) and _is_clear(value):
            known[key] = "placeholder"
            way_out = f"write {{{{NAME.{key}}}}}, the key of a secret that ZenML keeps"
            yield Finding(f"{place}.{key}", "has a secret in clear", way_out)
    try:
        # Not asked whether it `is_valid`: some flavors ask their server then.
        flavor.config_class(**known)
    except ValidationError as err:
        for fault in err.errors(include_input=False, include_url=False):
            key = ".".join([place, *(str(part) for part in fault["loc"])])
            yield Finding(key, fault["msg"], f"see the flavor '{component.flavor}' of ZenML")
    except ImportError:
        return  # of a package, which is a finding of its own
    except Exception as err:  # each flavor raises what it likes
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
