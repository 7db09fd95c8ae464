"""ZenML stacks as files: `configs/environments/<name>/stack.yaml`, registered and made active.

The file is in the form that `zenml stack import` reads, with `${HOME_FOLDER}` and
`${REPOSITORY}` for the two places that differ from machine to machine.
"""

from pathlib import Path
from string import Template
from typing import Any, Literal

import yaml
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.feature_stores import BaseFeatureStore

from millwright.configuration import Strict, load
from millwright.errors import ConfigurationError
from millwright.settings import ENVIRONMENTS, REPOSITORY, State

FLAVORS = {StackComponentType.FEATURE_STORE: "millwright.flavors.PointInTimeFeatureStoreFlavor"}


class Component(Strict):
    """One component of a stack."""

    name: str
    flavor: str
    type: Literal[
        "orchestrator",
        "artifact_store",
        "experiment_tracker",
        "model_registry",
        "feature_store",
        "data_validator",
    ]
    configuration: dict[str, Any]


class StackFile(Strict):
    """`stack.yaml`."""

    stack_name: str
    zenml_version: str
    components: dict[str, Component]


def read(environment: str, state: State) -> StackFile:
    """The stack of an environment, with the places of this machine filled in."""
    stack = load(ENVIRONMENTS / environment / "stack.yaml", StackFile)
    places = {"HOME_FOLDER": str(state.home), "REPOSITORY": str(REPOSITORY)}
    filled = Template(yaml.safe_dump(stack.model_dump())).substitute(places)
    return StackFile.model_validate(yaml.safe_load(filled))


def activate(environment: str, state: State) -> None:
    """Register the stack of `environment` as its file says, and make it the active one.

    What is registered already and has not changed is left alone.
    """
    stack = read(environment, state)
    client = Client()
    for kind, source in FLAVORS.items():
        if not client.list_flavors(type=kind, name="feast_point_in_time"):
            client.create_flavor(source=source, component_type=kind)
    wanted = {
        StackComponentType(component.type): _registered(client, component)
        for component in stack.components.values()
    }
    found = client.list_stacks(name=stack.stack_name)
    if not found:
        client.create_stack(stack.stack_name, wanted)
    elif {kind: parts[0].name for kind, parts in found[0].components.items()} != wanted:
        client.update_stack(stack.stack_name, component_updates={k: [v] for k, v in wanted.items()})
    if client.active_stack_model.name != stack.stack_name:
        client.activate_stack(stack.stack_name)


def current_environment() -> str:
    """The environment of the active stack.

    Raises:
        ConfigurationError: the active stack is none of ours.
    """
    name = str(Client().active_stack_model.name)
    if not Path(ENVIRONMENTS, name, "stack.yaml").is_file():
        names = ", ".join(sorted(path.parent.name for path in ENVIRONMENTS.glob("*/stack.yaml")))
        raise ConfigurationError(
            f"the active ZenML stack is '{name}', which is no environment of this project; choose "
            f"one ({names}): zenml stack set local"
        )
    return name


def feature_store() -> BaseFeatureStore:
    """The feature store of the active stack."""
    found = Client().active_stack.feature_store
    if found is None:
        raise ConfigurationError("the active ZenML stack has no feature store; see stack.yaml")
    return found


def _registered(client: Client, component: Component) -> str:
    """Make sure that a component is registered as its file says; gives its name."""
    kind = StackComponentType(component.type)
    found = client.list_stack_components(type=kind, name=component.name)
    if not found:
        client.create_stack_component(
            component.name, component.flavor, kind, component.configuration
        )
    elif found[0].configuration != component.configuration:
        client.update_stack_component(component.name, kind, configuration=component.configuration)
    return component.name
