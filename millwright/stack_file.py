"""ZenML stacks as files: `configs/environments/<name>/stack.yaml`.

The file is in the form that `zenml stack import` reads, with `${HOME_FOLDER}` and
`${REPOSITORY}` for the two places that differ from machine to machine.
"""

from string import Template
from typing import Any, Literal

import yaml

from millwright.configuration import Strict, load
from millwright.settings import ENVIRONMENTS, REPOSITORY, State


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
