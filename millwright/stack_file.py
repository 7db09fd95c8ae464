"""ZenML stacks as files: `configs/environments/<name>/stack.yaml`.

The file is in the form that `zenml stack import` reads, with variables for what differs from
machine to machine: `${HOME_FOLDER}`, `${REPOSITORY}`, `${MLFLOW_TRACKING_URI}`, and those that the
environment's settings name.
"""

import os
from string import Template
from typing import Any, Literal

from millwright.configuration import Strict, load
from millwright.endpoints import mlflow_uri
from millwright.errors import ConfigurationError
from millwright.settings import ENVIRONMENTS, REPOSITORY, State, load_settings


class Component(Strict):
    """One component of a stack."""

    name: str
    flavor: str
    type: Literal[
        "orchestrator",
        "artifact_store",
        "container_registry",
        "image_builder",
        "experiment_tracker",
        "model_registry",
        "feature_store",
        "data_validator",
        "alerter",
        "model_deployer",
    ]
    configuration: dict[str, Any]


class StackFile(Strict):
    """`stack.yaml`."""

    stack_name: str
    zenml_version: str
    components: dict[str, Component]


def read(environment: str, state: State) -> StackFile:
    """The stack of an environment, with the places of this machine filled in.

    Raises:
        ConfigurationError: the file is wrong, or a variable that it needs is not set.
    """
    path = ENVIRONMENTS / environment / "stack.yaml"
    stack = load(path, StackFile)
    if stack.stack_name != environment:
        raise ConfigurationError(
            f"{path}: 'stack_name' is '{stack.stack_name}' and must be '{environment}', as the "
            "folder"
        )
    places = _Places(state)
    components = {
        kind: component.model_copy(update={"configuration": _filled(component, places)})
        for kind, component in stack.components.items()
    }
    return stack.model_copy(update={"components": components})


class _Places(dict[str, str]):
    """What the variables of a stack file stand for, looked up when one of them is met."""

    def __init__(self, state: State) -> None:
        super().__init__(HOME_FOLDER=str(state.home), REPOSITORY=str(REPOSITORY))
        self._state = state

    def __missing__(self, name: str) -> str:
        if name == "MLFLOW_TRACKING_URI":
            return mlflow_uri(self._state)
        environment = self._state.environment
        value = os.environ.get(name)
        if not value:
            meaning = load_settings(environment).variables.get(name, "a variable of its stack.yaml")
            raise ConfigurationError(
                f"environment '{environment}' needs {name}, {meaning}; set it, and see what else "
                f"is missing with python run.py --stack {environment} --check"
            )
        return value


def _filled(component: Component, places: _Places) -> dict[str, Any]:
    return {
        key: Template(value).substitute(places) if isinstance(value, str) else value
        for key, value in component.configuration.items()
    }
