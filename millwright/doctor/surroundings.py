"""The variables of the process, and the files of configuration that an environment stands on."""

from collections.abc import Iterator

from millwright import stack_file
from millwright.doctor.findings import Check, Finding, Level, Patient, fleet_names
from millwright.endpoints import VARIABLES, usual_mlflow, without_password
from millwright.errors import MillwrightError
from millwright.fleet import load_fleet
from millwright.settings import ENVIRONMENTS, FEAST_FILE, HOME, State, process_environment
from millwright.views import feature_views

MLFLOW = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_BACKEND_STORE_URI")
PLACES = ("ZENML_CONFIG_PATH", "ZENML_LOCAL_STORES_PATH")
STORE = "ZENML_STORE_URL"


def variables(patient: Patient) -> Iterator[Finding]:
    """Variables that lead elsewhere than the environment that is examined."""
    found = list(_elsewhere(patient))
    yield from found
    if not found:
        yield Finding("variables", "ok", "none leads elsewhere than this environment")


def _elsewhere(patient: Patient) -> Iterator[Finding]:
    given = patient.given
    for name in PLACES:
        expected = {process_environment(State(home, patient.environment))[name]
                    for home in (HOME, patient.state.home)}  # fmt: skip
        if given.get(name) and given[name] not in expected:
            said = f"{name} is {given[name]}, and ZenML's state is examined there"
            yield _unset(name, "warning", said)
    if given.get(STORE) and STORE not in patient.settings.variables:
        shown = without_password(given[STORE])
        yield _unset(STORE, "fault", f"{STORE} is {shown}, and ZenML would work there")
    yield from _mlflow(patient)
    yield from _tools(patient)


def _mlflow(patient: Patient) -> Iterator[Finding]:
    given = patient.given
    allowed = {*usual_mlflow(patient.state), patient.state.mlflow_uri}
    if patient.has_servers:
        allowed |= {given.get(MLFLOW[0], ""), patient.urls.get("mlflow", "")}
    for name in MLFLOW:
        if given.get(name) and given[name] not in allowed:
            shown = without_password(given[name])
            said = f"{name} is {shown}, which is not of environment {patient.environment}"
            yield _unset(name, "fault", said)


def _tools(patient: Patient) -> Iterator[Finding]:
    given = patient.given
    own = ENVIRONMENTS / patient.environment / "feature_store.yaml"
    if given.get(FEAST_FILE, "") not in {"", str(own)}:
        said = f"{FEAST_FILE} is {given[FEAST_FILE]}, and Feast would work there"
        yield _unset(FEAST_FILE, "fault", said)
    chosen = given.get("MILLWRIGHT_ENVIRONMENT")
    if chosen and chosen != patient.environment:
        said = f"MILLWRIGHT_ENVIRONMENT is {chosen}, and commands without --stack work there"
        yield _unset("MILLWRIGHT_ENVIRONMENT", "warning", said)
    for name in ("postgres", "redis") if not patient.has_servers else ():
        if given.get(VARIABLES[name]):
            said = f"{VARIABLES[name]} is set, and environment {patient.environment} has no servers"
            yield _unset(VARIABLES[name], "warning", said)


def _unset(name: str, level: Level, said: str) -> Finding:
    return Finding("variables", level, said, f"unset {name}")


def needed(patient: Patient) -> Iterator[Finding]:
    """The variables that the environment's settings ask for."""
    missing = [name for name in patient.settings.variables if not patient.given.get(name)]
    for name in missing:
        said = f"{name} is not set: {patient.settings.variables[name]}"
        yield Finding("needed variables", "fault", said, f"export {name}=...")
    if not missing:
        count = len(patient.settings.variables)
        yield Finding("needed variables", "ok", f"{count} are set" if count else "none is needed")


def files(patient: Patient) -> Iterator[Finding]:
    """The files of configuration: every fleet's, and the stack's."""
    broken = 0
    for name in fleet_names():
        try:
            feature_views(load_fleet(name))
        except MillwrightError as err:
            broken += 1
            yield Finding("configuration", "fault", str(err), f"$EDITOR configs/fleets/{name}.yaml")
    if patient.has_servers and set(patient.urls) != set(VARIABLES):
        return  # the stack names a server that nothing says the place of
    try:
        stack_file.read(patient.environment, patient.state)
    except MillwrightError as err:
        broken += 1
        mend = f"$EDITOR configs/environments/{patient.environment}/stack.yaml"
        yield Finding("configuration", "fault", str(err), mend)
    if not broken:
        yield Finding("configuration", "ok", f"stack and {len(fleet_names())} fleets are sound")


CHECKS = (
    Check("variables", variables, ". .venv/bin/activate"),
    Check("needed variables", needed, ". .venv/bin/activate"),
    Check("configuration", files, "git diff configs"),
)
