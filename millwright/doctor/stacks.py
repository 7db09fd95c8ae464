"""ZenML: its database, the registered stack, and runs that were killed."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

from zenml.client import Client
from zenml.enums import ExecutionStatus, StackComponentType
from zenml.models import PipelineRunResponse, PipelineRunUpdate, StepRunUpdate

from millwright import stack, stack_file
from millwright.doctor.databases import damage, other_zenml
from millwright.doctor.findings import LEFT_OUT, Check, Finding, Patient, moved
from millwright.doctor.leftovers import at_work, holder
from millwright.doctor.surroundings import STORE
from millwright.endpoints import mlflow_uri, without_password
from millwright.errors import ConfigurationError, MillwrightError
from millwright.settings import ENVIRONMENTS

UNFINISHED = [status for status in ExecutionStatus if not status.is_finished]


def database_path() -> Path:
    """Where ZenML keeps what it knows."""
    return Path(os.environ["ZENML_LOCAL_STORES_PATH"], "default_zen_store", "zenml.db")


def database(patient: Patient) -> Iterator[Finding]:
    """Whether ZenML's database can be opened, by this version of ZenML."""
    path = database_path()
    if elsewhere := os.environ.get(STORE):
        if STORE in patient.settings.variables:
            said = f"ZenML's server keeps it, at {without_password(elsewhere)}"
            yield Finding("zenml database", "ok", said)
            return
        said = f"{LEFT_OUT}, because {STORE} is set"
        yield Finding("zenml database", "warning", said, f"unset {STORE}")
    elif not path.is_file():
        yield Finding("zenml database", "ok", "none yet; the first run makes it")
    elif problem := damage(path):
        said = (
            f"{path} {problem}. Restore it from a backup, or move it away; lost are then the "
            "record of runs and of their artifacts, and cached steps. Data and releases stay"
        )
        mend = f"{moved(path)} && {patient.command('stacks')}"
        yield Finding("zenml database", "fault", said, mend)
    elif there := other_zenml(path):
        said = f"{path} is of ZenML {there}, and {version('zenml')} migrates it when it is used"
        mend = f"cp {quote(str(path))} {quote(f'{path}.{there}')} && zenml stack list"
        yield Finding("zenml database", "fault", said, mend)
    else:
        yield Finding("zenml database", "ok", f"{path}, of version {version('zenml')}")


def opened(patient: Patient) -> Client | None:
    """ZenML's client; None where it has nothing yet.

    Raises:
        MillwrightError: the database cannot be opened without changing it, or is not this
            environment's.
    """
    path = database_path()
    if os.environ.get(STORE):
        if STORE in patient.settings.variables:
            return Client()
        raise MillwrightError(f"{LEFT_OUT}, because {STORE} is set")
    if not path.is_file():
        return None
    if damage(path) or other_zenml(path):
        raise MillwrightError(f"{LEFT_OUT}, because ZenML's database cannot be opened")
    return Client()


def registered(patient: Patient) -> Iterator[Finding]:
    """Whether the registered stack is what its file says."""
    client, mend = opened(patient), patient.command("stacks")

    def repair() -> str:
        return f"stack {patient.environment}: {stack.register(patient.environment, patient.state)}"

    patient.needs_places()
    file = stack_file.read(patient.environment, patient.state)
    if client is None or stack.registered(file.stack_name) is None:
        yield Finding("stack", "ok", "not registered yet; the first run does that")
        return
    try:
        stack.refuse_mixture(file)
    except ConfigurationError as err:
        yield Finding("stack", "fault", str(err), mend, repair)
        return
    if behind := stack.behind(file):
        said = f"registered otherwise than its file says now: {', '.join(behind)}"
        yield Finding("stack", "warning", said, mend, repair)
        return
    said = f"{file.stack_name} is registered as its file says"
    yield Finding("stack", "ok", f"{said}: {len(file.components)} components")
    yield from _tracking(patient, file)


def _tracking(patient: Patient, file: stack_file.StackFile) -> Iterator[Finding]:
    """Whether ZenML's component writes to the MLflow that is this environment's."""
    name = file.components["experiment_tracker"].name
    found = stack.component(StackComponentType.EXPERIMENT_TRACKER, name)
    there = (found.configuration if found else {}).get("tracking_uri")
    wanted = mlflow_uri(patient.state)
    if there == wanted:
        yield Finding("tracking URI", "ok", without_password(wanted))
    else:
        shown = without_password(str(there))
        said = f"experiment tracker '{name}' writes to {shown}, not to {without_password(wanted)}"
        yield Finding("tracking URI", "fault", said, patient.command("stacks"))


def active(patient: Patient) -> Iterator[Finding]:
    """The active stack, which commands without `--stack` go by."""
    client = opened(patient)
    name = str(client.active_stack_model.name) if client else "default"
    if name == "default":
        yield Finding("active stack", "ok", "none was chosen, so it is local")
    elif (ENVIRONMENTS / name / "stack.yaml").is_file():
        other = "" if name == patient.environment else ", and not the one that is examined"
        yield Finding("active stack", "ok", f"{name}{other}")
    else:
        said = f"'{name}' is no environment of this project"
        yield Finding("active stack", "fault", said, "zenml stack set local")


def runs(patient: Patient) -> Iterator[Finding]:
    """Runs that ZenML has as unfinished, and that no process is at work on."""
    client = opened(patient)
    left = unfinished(client, patient) if client else []
    # Looked at afterwards: whoever is at work held the lock before ZenML knew of the run.
    if at_work(patient):
        yield Finding("runs", "ok", f"a run is at work now ({holder(patient)})")
    elif not left:
        yield Finding("runs", "ok", "none was left unfinished")
    elif _run_elsewhere(patient):
        said = f"{len(left)} are at work, as far as ZenML knows: {_names(left)}"
        yield Finding("runs", "ok", said)
    else:
        said = f"{len(left)} ended without telling ZenML: {_names(left)}"
        mend = patient.command("doctor --repair")
        yield Finding("runs", "warning", said, mend, lambda: _end(client, patient))


def _run_elsewhere(patient: Patient) -> bool:
    """Whether the stack's steps run where the lock says nothing of them."""
    found = stack.registered(patient.environment)
    parts = found.components.get(StackComponentType.ORCHESTRATOR, []) if found else []
    return any(part.flavor_name != "local" for part in parts)


def _names(left: list[PipelineRunResponse]) -> str:
    shown = ", ".join(f"{run.name} ({run.status.value})" for run in left[:3])
    return shown + (f" and {len(left) - 3} more" if len(left) > 3 else "")


def unfinished(client: Client, patient: Patient) -> list[PipelineRunResponse]:
    """The runs of the environment's stack that ZenML has as unfinished."""
    found = stack.registered(patient.environment)
    if found is None:
        return []
    return [
        run
        for status in UNFINISHED
        for run in client.list_pipeline_runs(stack_id=found.id, status=status.value, size=500)
    ]


def _end(client: Any, patient: Patient) -> str:
    """Mark the runs, and those of their steps that are unfinished, as failed."""
    left = unfinished(client, patient)
    for run in left:
        for step in client.list_run_steps(pipeline_run_id=run.id, size=500):
            if not step.status.is_finished:
                client.zen_store.update_run_step(
                    step.id,
                    StepRunUpdate(status=ExecutionStatus.FAILED, end_time=datetime.now(UTC)),
                )
        client.zen_store.update_run(
            run.id,
            PipelineRunUpdate(
                status=ExecutionStatus.FAILED, status_reason="its process was killed"
            ),
        )
    return f"{len(left)} runs marked as failed"


CHECKS = (
    Check("zenml database", database, "zenml status"),
    Check("stack", registered, "python -m millwright stacks"),
    Check("active stack", active, "zenml stack set local"),
    Check("runs", runs, "zenml pipeline runs list"),
)
