"""The verb `doctor`."""

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from millwright import process, terminal
from millwright.doctor.databases import damage, other_zenml
from millwright.doctor.examination import examine, without_secrets
from millwright.doctor.findings import Finding, Patient
from millwright.doctor.surroundings import MLFLOW
from millwright.endpoints import mlflow_uri
from millwright.errors import BusyError, ConfigurationError, first_line
from millwright.lock import held
from millwright.settings import load_settings, state

PATIENCE = 5.0  # seconds that a repair waits for a run to end


def add_parser(verbs: Any) -> None:
    """Add the verb to the sub-parsers `verbs`."""
    doctor = verbs.add_parser("doctor", help="examine an environment, and say what mends it")
    doctor.add_argument("--stack", help="an environment; else the active one")
    doctor.add_argument(
        "--repair", action="store_true", help="mend what killed runs left; no data is deleted"
    )
    doctor.add_argument("--json", type=Path, metavar="FILE", help="write what is found there")
    doctor.set_defaults(do=_doctor)


def _doctor(asked: argparse.Namespace) -> int:
    given = dict(os.environ)
    with _quiet():
        patient, found = _admit(asked.stack, given)
        found += examine(patient)
    done: list[str] = []
    if asked.repair and any(finding.repair for finding in found):
        try:
            done, failed = _repair(patient, found)
        except BusyError:
            _show(patient, found, [])
            raise
        with _quiet():
            again, found = _admit(asked.stack, given)
            found += [*examine(again), *failed]
    _show(patient, found, done)
    faults = sum(finding.level == "fault" for finding in found)
    if asked.json:
        summary = {
            "environment": patient.environment,
            "status": "fault" if faults else "ok",
            "repaired": done,
            "checks": [finding.summary() for finding in found],
        }
        terminal.write_json(asked.json, summary)
    return 1 if faults else 0


def _admit(named: str | None, given: dict[str, str]) -> tuple[Patient, list[Finding]]:
    """The environment to examine, and what was found in choosing it.

    Raises:
        ConfigurationError: there is no environment of that name.
    """
    os.environ.clear()
    os.environ.update(given)
    process.settle()
    found: list[Finding] = []
    if named:
        load_settings(named)
    name = named or _active(found)
    patient = Patient(state(name), load_settings(name), given)
    patient.begin_asking()
    _adopt(patient)
    return patient, found


def _active(found: list[Finding]) -> str:
    """The environment of the active stack; local, where that cannot be told."""
    usual = state("local")
    folder = os.environ.get("ZENML_LOCAL_STORES_PATH", str(usual.zenml / "stores"))
    database = Path(folder, "default_zen_store", "zenml.db")
    try:
        if not database.is_file() or damage(database) or other_zenml(database):
            return "local"  # a check of its own speaks of it
        return process.chosen(None).environment
    except Exception as err:
        said = (
            f"which environment is chosen cannot be told, and local is examined: {first_line(err)}"
        )
        found.append(Finding("environment", "fault", said, "zenml stack set local"))
        return "local"


def _adopt(patient: Patient) -> None:
    """Let the libraries find the environment, as a command would, and leave variables out that lie.

    Unlike `process.prepare` it makes no folder.
    """
    if not patient.has_servers:
        for name in MLFLOW:
            os.environ.pop(name, None)
    try:
        uri: str | None = mlflow_uri(patient.state)
    except ConfigurationError:
        uri = None  # the check of the servers says it
    process.adopt(patient.state, uri)
    if uri is None:
        for name in MLFLOW:
            os.environ.pop(name, None)


def _repair(patient: Patient, found: Sequence[Finding]) -> tuple[list[str], list[Finding]]:
    """Do what findings offer, while no run is at work; what was done, and what did not succeed.

    Raises:
        BusyError: a run is at work.
    """
    done, failed = [], []
    with held(patient.state.lock, terminal.say, PATIENCE):
        for finding in found:
            if finding.repair is None:
                continue
            try:
                with _quiet():
                    done.append(finding.repair())
            except Exception as err:
                said = f"repairing '{finding.check}' failed: {first_line(err)}"
                trouble = Finding("repair", "fault", said, finding.mend)
                failed.append(without_secrets(trouble, patient))
    return done, failed


def _show(patient: Patient, found: Sequence[Finding], done: Sequence[str]) -> None:
    """A line for each finding, and below it the command that mends it."""
    lines = [f"environment {patient.environment} in {patient.state.root}"]
    width = max(len(finding.check) for finding in found)
    for finding in found:
        lines.append(f"{finding.level:8}{finding.check:{width}}  {finding.found}")
        if finding.mend:
            lines.append(f"{'':8}{'':{width}}  mend: {finding.mend}")
    lines += [f"repaired: {what}" for what in done]
    counts = {level: sum(each.level == level for each in found) for level in ("fault", "warning")}
    if any(finding.repair for finding in found):
        lines.append(f"what killed runs left: {patient.command('doctor --repair')}")
    lines.append(f"{counts['fault']} faults, {counts['warning']} warnings")
    sys.stdout.write("\n".join(lines) + "\n")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what libraries say meanwhile."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
