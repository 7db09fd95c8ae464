"""The stacks of `configs/environments/<name>/stack.yaml`, registered with ZenML and made active."""

from pathlib import Path

from zenml.client import Client
from zenml.config.global_config import GlobalConfiguration
from zenml.enums import StackComponentType
from zenml.feature_stores import BaseFeatureStore
from zenml.zen_stores.sql_zen_store import SqlZenStore, SqlZenStoreConfiguration

from millwright.errors import ConfigurationError
from millwright.files import database_written_whole
from millwright.settings import ENVIRONMENTS, State
from millwright.stack_file import Component, read

FLAVORS = {StackComponentType.FEATURE_STORE: "millwright.flavors.PointInTimeFeatureStoreFlavor"}


def activate(environment: str, state: State) -> None:
    """Register the stack of `environment` as its file says, and make it the active one.

    What is registered already and has not changed is left alone.
    """
    stack = read(environment, state)
    _create_database()
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
