"""The stacks of `configs/environments/<name>/stack.yaml` in ZenML, and the active one's parts."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from zenml.alerter import BaseAlerter
from zenml.client import Client
from zenml.config import DockerSettings
from zenml.config.global_config import GlobalConfiguration
from zenml.enums import StackComponentType
from zenml.feature_stores import BaseFeatureStore
from zenml.model_deployers import BaseModelDeployer
from zenml.models import ComponentResponse, StackResponse
from zenml.utils import source_utils
from zenml.zen_stores.sql_zen_store import SqlZenStore, SqlZenStoreConfiguration

from millwright import active_stack, integrations, terminal
from millwright.errors import ConfigurationError
from millwright.files import database_written_whole
from millwright.lock import held
from millwright.settings import REPOSITORY, State
from millwright.stack_file import Component, StackFile, read

# Flavors of ours: what kind of component, what it is called, and where its class is.
FLAVORS = (
    (
        StackComponentType.FEATURE_STORE,
        "feast_point_in_time",
        "millwright.flavors.PointInTimeFeatureStoreFlavor",
    ),
    (
        StackComponentType.EXPERIMENT_TRACKER,
        "mlflow_server",
        "millwright.flavors.ServerExperimentTrackerFlavor",
    ),
    (
        StackComponentType.MODEL_REGISTRY,
        "mlflow_server",
        "millwright.flavors.ServerModelRegistryFlavor",
    ),
    (StackComponentType.ALERTER, "console_and_file", "millwright.alerters.FileAlerterFlavor"),
    (StackComponentType.ALERTER, "webhook", "millwright.alerters.WebhookAlerterFlavor"),
    (StackComponentType.MODEL_DEPLOYER, "release", "millwright.deployers.ReleaseDeployerFlavor"),
)
# ZenML's own: the stack that counts in this process alone.
ACTIVE_STACK = "ZENML_ACTIVE_STACK_ID"
# On each component that we registered: what its settings were, to tell changes made by hand.
_MARK = "millwright"


def register(environment: str, state: State) -> str:
    """Register the stack of `environment` as its file says; gives what was done to it.

    What a component of ours has become by hand goes back to what the file says.
    """
    stack = read(environment, state)
    _create_database()
    with held(state.zenml / "stacks.lock", terminal.say):
        return _register(Client(), stack)


def _register(client: Client, stack: StackFile) -> str:
    _register_flavors(client)
    changes = [_register_component(client, part) for part in stack.components.values()]
    wanted = _wanted(stack)
    found = registered(stack.stack_name)
    if found is None:
        client.create_stack(stack.stack_name, wanted)
        return "registered"
    updates = {kind: [name] for kind, name in wanted.items()}
    if _parts(found) != updates:
        client.update_stack(stack.stack_name, component_updates=updates)
        return "updated"
    return "updated" if any(changes) else "unchanged"


def enter(environment: str, state: State) -> None:
    """Have the stack of `environment` be the active one of this process.

    It is registered if it is not, and follows its file where that was changed. What was changed by
    hand in ZenML is refused: nothing may run on parts of two environments.

    Raises:
        ConfigurationError: the registered stack is not what the file says.
    """
    integrations.remember_packages()
    integrations.leave_idle()
    _create_database()
    client = Client()
    stack = read(environment, state)
    refuse_mixture(stack)
    register(environment, state)
    found = registered(stack.stack_name)
    assert found is not None  # noqa: S101 - it was registered a line ago
    if environment == "local" and client.active_stack_model.name == "default":
        client.activate_stack(found.id)  # ZenML's own stack counts as ours: let it show
    os.environ[ACTIVE_STACK] = str(found.id)


def registered(name: str) -> StackResponse | None:
    """The stack of that name as ZenML has it; None where it has none."""
    found = Client().list_stacks(name=name, hydrate=True)
    return found[0] if found else None


def component(kind: StackComponentType, name: str) -> ComponentResponse | None:
    """The component of that name as ZenML has it; None where it has none."""
    found = Client().list_stack_components(type=kind, name=name, hydrate=True)
    return found[0] if found else None


def refuse_mixture(stack: StackFile) -> None:
    """Refuse a stack whose registered parts are not ours, or not as we registered them.

    Raises:
        ConfigurationError: which part that is, and how it is put back.
    """
    found = registered(stack.stack_name)
    if found is None:
        return
    mend = f"python -m millwright stacks --stack {stack.stack_name}"
    parts = _parts(found)
    for kind, name in _wanted(stack).items():
        held = parts.get(kind)
        if held is None:
            continue  # the file has gained a component
        if held != [name]:
            raise ConfigurationError(
                f"stack '{stack.stack_name}' has the {kind.value} '{', '.join(held)}', and "
                f"stack.yaml says '{name}'; parts of two environments never mix: {mend}"
            )
        part = component(kind, name)
        if part is not None and _changed_by_hand(part):
            raise ConfigurationError(
                f"the {kind.value} '{name}' of stack '{stack.stack_name}' was changed in ZenML and "
                f"is not what stack.yaml says; put it back: {mend}"
            )


def behind(stack: StackFile) -> list[str]:
    """The kinds of components that the file says otherwise now than when they were registered."""
    return [
        kind
        for kind, part in stack.components.items()
        if (found := component(StackComponentType(part.type), part.name)) is None
        or _asked(found) != part.configuration
    ]


def entered() -> bool:
    """Whether this process has the stack of an environment."""
    return ACTIVE_STACK in os.environ


def active_environment() -> str:
    """The environment of the stack that was chosen with ZenML.

    Raises:
        ConfigurationError: the active stack is none of ours.
    """
    _create_database()
    return current_environment()


def current_environment() -> str:
    """The environment of the active stack; ZenML's own `default` counts as local.

    Raises:
        ConfigurationError: the active stack is none of ours.
    """
    try:
        name = str(Client().active_stack_model.name)
    except (KeyError, ValueError) as err:
        raise ConfigurationError(
            f"there is no ZenML stack with the id in {ACTIVE_STACK}; unset it, and choose a stack: "
            "zenml stack set local"
        ) from err
    return active_stack.environment_of(name)


def pipeline_options() -> dict[str, Any]:
    """How pipelines are run: their steps in an image that is there already, if one is named.

    On Kubernetes ZenML would build one for each run, and needs an engine for that.
    """
    image = os.environ.get("MILLWRIGHT_PIPELINES_IMAGE")
    if not image:
        return {}
    return {"settings": {"docker": DockerSettings(parent_image=image, skip_build=True)}}


def feature_store() -> BaseFeatureStore:
    """The feature store of the active stack."""
    return _part("feature_store")


def alerters() -> list[BaseAlerter]:
    """The alerters of the active stack; none is none."""
    return list(Client().active_stack.alerters.values())


def model_deployer() -> BaseModelDeployer:
    """The model deployer of the active stack."""
    return _part("model_deployer")


def _part(kind: str) -> Any:
    found = getattr(Client().active_stack, kind)
    if found is None:
        raise ConfigurationError(f"the active ZenML stack has no {kind}; see its stack.yaml")
    return found


def _changed_by_hand(component: ComponentResponse) -> bool:
    mark = (component.labels or {}).get(_MARK)
    return mark is not None and mark != _fingerprint(component.configuration, component.flavor_name)


def _register_flavors(client: Client) -> None:
    # ZenML names a class from the folder of the script that runs, which is not always the same.
    source_utils.set_custom_source_root(str(REPOSITORY))
    for kind, name, source in FLAVORS:
        if not client.list_flavors(type=kind, name=name):
            client.create_flavor(source=source, component_type=kind)


def _register_component(client: Client, part: Component) -> bool:
    """Make sure that a component is registered as its file says; gives whether it was not."""
    kind = StackComponentType(part.type)
    found = component(kind, part.name)
    if found is None:
        found = client.create_stack_component(part.name, part.flavor, kind, part.configuration)
    elif found.flavor_name != part.flavor:
        raise ConfigurationError(
            f"the {kind.value} '{part.name}' is of flavor '{found.flavor_name}', and "
            f"stack.yaml says '{part.flavor}'; give it another name there, or remove it: "
            f"zenml {kind.value.replace('_', '-')} delete {part.name}"
        )
    elif not _changed_by_hand(found) and _asked(found) == part.configuration:
        return False
    else:
        gone = dict.fromkeys(set(found.configuration) - set(part.configuration))
        found = client.update_stack_component(
            part.name, kind, configuration={**gone, **part.configuration}
        )
    labels = {
        _MARK: _fingerprint(found.configuration, part.flavor),
        f"{_MARK}_file": json.dumps(part.configuration, sort_keys=True),
    }
    client.update_stack_component(part.name, kind, labels=labels)
    return True


def _asked(component: ComponentResponse) -> Any:
    """The configuration that the component was registered with; ZenML may have added to it."""
    return json.loads((component.labels or {}).get(f"{_MARK}_file", "null"))


def _fingerprint(configuration: dict[str, Any], flavor: str) -> str:
    text = json.dumps([flavor, configuration], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _wanted(stack: StackFile) -> dict[StackComponentType, str]:
    return {StackComponentType(part.type): part.name for part in stack.components.values()}


def _parts(stack: StackResponse) -> dict[StackComponentType, list[str]]:
    return {kind: [part.name for part in parts] for kind, parts in stack.components.items()}


def _create_database() -> None:
    """Let ZenML's own database appear whole: it cannot go on with one that is half made."""
    config = GlobalConfiguration().store_configuration
    if not isinstance(config, SqlZenStoreConfiguration) or config.driver != "sqlite":
        return
    path = Path(str(config.database))
    if not path.exists():
        with database_written_whole(path) as draft:
            made = config.model_copy(update={"url": f"sqlite:///{draft}", "database": str(draft)})
            SqlZenStore(config=made).engine.dispose()
