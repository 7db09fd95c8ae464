"""The part of a check that loads ZenML, Feast and the pipelines, in a process of its own.

That process has variables that lead nowhere in place of all URLs and passwords, and a folder for
ZenML that is gone afterwards. So nothing of it stays, nothing is reached, and no secret is told.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from millwright.check import stacks
from millwright.check.report import Finding, shown
from millwright.check.variables import placeholder, value_of
from millwright.endpoints import VARIABLES
from millwright.errors import ConfigurationError
from millwright.settings import REPOSITORY, Settings, State, process_environment
from millwright.stack_file import StackFile, read

LIMIT = 180  # seconds: the imports take ten
_SECRETS = ("ZENML_STORE_", "ZENML_SECRETS_STORE_", "AWS_", "MLFLOW_TRACKING_", "PG", "FEAST_")


def findings(stack: StackFile | None, settings: Settings, state: State) -> list[Finding]:
    """What ZenML, Feast and the pipelines say, each finding once."""
    names = (stacks.variables(stack) if stack else set()) - set(stacks.PLACES)
    with tempfile.TemporaryDirectory(prefix="millwright-check-") as folder:
        told = Path(folder, "findings.json")
        words = [sys.executable, "-m", "millwright.check.isolated", state.environment, str(told)]
        environment = _environment(names, settings, state, Path(folder))
        try:
            done = subprocess.run(
                words, cwd=REPOSITORY, env=environment, check=False, timeout=LIMIT,
                stdin=subprocess.DEVNULL, capture_output=True, text=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            wrong = f"were not imported within {LIMIT} s"
            return [Finding("ZenML, Feast and the pipelines", wrong, "run the check again")]
        if not told.is_file():
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return [Finding("ZenML, Feast and the pipelines", said[-1], "see make setup")]
        return [Finding(**each) for each in json.loads(told.read_text(encoding="utf-8"))]


def main(environment: str, told: str) -> None:
    """The work of the process: write what is found to the file `told`."""
    from millwright import startup
    from millwright.settings import state

    startup.import_quickly()
    where = state(environment)
    found: list[Finding] = []
    for work in (_components, _pipelines, _definitions):
        found += work(where)
    text = json.dumps([vars(each) for each in found])
    Path(told).write_text(text, encoding="utf-8")


def _environment(names: set[str], settings: Settings, state: State, folder: Path) -> dict[str, str]:
    servers = set(VARIABLES.values())
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in servers and not name.startswith(_SECRETS)
    }
    wanted = (names | set(settings.variables)) - servers
    filled = {name: value_of(name, state) or placeholder(name) for name in wanted}
    if settings.servers != "none":
        filled |= {name: placeholder(name) for name in servers}
    scratch = State(folder, "local")
    quiet = {
        name: value
        for name, value in process_environment(scratch).items()
        if name not in (VARIABLES["mlflow"], "MLFLOW_REGISTRY_URI", "MLFLOW_BACKEND_STORE_URI")
    }
    ours = {
        "MILLWRIGHT_HOME": str(state.home),
        "MILLWRIGHT_ENVIRONMENT": state.environment,
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY), kept.get("PYTHONPATH")))),
        "ZENML_LOGGING_VERBOSITY": "CRITICAL",
    }
    return {**kept, **quiet, **filled, **ours}


def _components(state: State) -> list[Finding]:
    from millwright.check import components

    try:
        stack = read(state.environment, state)
    except (ConfigurationError, ValueError):
        return []  # which is a finding already
    return components.check(stack, shown(stacks.path(state.environment)))


def _pipelines(state: State) -> list[Finding]:  # noqa: ARG001 - they are those of all environments
    found = []
    for path in sorted(Path(REPOSITORY, "pipelines").glob("[!_]*.py")):
        try:
            importlib.import_module(f"pipelines.{path.stem}")
        except Exception as err:
            wrong = f"cannot be imported: {type(err).__name__}: {err}"
            found.append(Finding(shown(path), wrong, "correct it"))
    return found


def _definitions(state: State) -> list[Finding]:
    from millwright.check import definitions

    return definitions.check(state)


if __name__ == "__main__":
    main(*sys.argv[1:])
