"""Runs a pipeline: `python run.py --pipeline training`. `--help` lists the rest.

Exit codes: 0 done; 2 bad input or configuration; 3 finished, but refused something (rows in
quarantine, a model that did not pass the gate, a fleet that could not be predicted); 130 and 143
interrupted; 1 anything else.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

# What takes seconds to import is imported where it is used: a misspelt name is told at once.
from millwright import interruption, run_options, stack_file, startup, terminal
from millwright.errors import ConfigurationError, DataError, MillwrightError
from millwright.lock import held
from millwright.process import chosen, prepare, settle
from millwright.record import Record
from millwright.settings import State

if TYPE_CHECKING:
    from millwright.project import Project


def main(words: Sequence[str] | None = None) -> int:
    """Run what was asked for and give the exit code."""
    startup.import_quickly()
    startup.leave_feast_unchecked()
    asked, unknown = run_options.parser().parse_known_args(words)
    result: dict[str, Any] = {
        "pipeline": asked.pipeline, "environment": asked.stack, "fleet": asked.fleet,
        "status": "failed",
    }  # fmt: skip
    record = Record(result, asked.json)
    interruption.end_at_once(record.interrupted)
    try:
        with record.kept():
            settle()
            if (asked.check or asked.check_form) and not unknown:
                return _check_environment(asked, result)
            run_options.check(asked, unknown)
            state = chosen(asked.stack)
            result["environment"] = state.environment
            stack_file.read(state.environment, state)
            prepare(state)
            project = _execute(asked, state, record)
        _show(result, project)
    except MillwrightError as err:
        terminal.fail(str(err))
        return err.exit_code
    return 3 if result.get("refused") or result["status"] == "refused" else 0


def _check_environment(asked: argparse.Namespace, result: dict[str, Any]) -> int:
    """Say what an environment consists of and what it lacks; 0 if that is nothing, else 2."""
    from millwright.check import check_environment

    state = chosen(asked.stack)
    report = check_environment(state.environment, state, form_only=asked.check_form)
    del result["pipeline"], result["fleet"]
    result |= {"environment": state.environment, **report.summary()}
    terminal.show_table(f"check of environment {state.environment}", report.rows())
    return 0 if report.complete else 2


def _execute(asked: argparse.Namespace, state: State, record: Record) -> "Project":
    from millwright.project import open_project
    from millwright.release import champion
    from millwright.watch import watched

    project = open_project(asked.fleet, state.environment)
    project.warehouse  # noqa: B018 - it refuses before any work a fleet that it cannot hold
    terminal.say(f"{asked.pipeline} of fleet {asked.fleet} in environment {state.environment}")
    result = record.result
    before = champion(state.releases(asked.fleet))

    def lost(said: str) -> None:
        record.ended(said)
        _announce(result)

    with watched(state, project.settings, lost), held(state.lock, terminal.say):
        try:
            Run(project, asked, result).run()
        except Exception as err:
            _announce({**result, "status": "failed", "error": str(err) or type(err).__name__})
            raise
        result |= {"dataset_version": project.raw.dataset_version}
        if result["pipeline"] != "training" or result["release"] != str(before):
            _announce(result)  # of what was released already it was told then
    return project


def _announce(result: dict[str, Any]) -> None:
    """Tell the alerter of the active stack what is worth an alert."""
    from millwright import alerters, alerts, stack

    if not stack.entered():
        return  # it ended before it had an alerter
    for alert in alerts.of_run(result, datetime.now(UTC)):
        for alerter in stack.alerters():
            alerters.send(alerter, alert)


class Run:
    """One command: the pipelines that it takes, in order; `result` gathers what they say."""

    def __init__(
        self, project: "Project", asked: argparse.Namespace, result: dict[str, Any]
    ) -> None:
        self.project = project
        self.asked = asked
        self.result = result

    def run(self) -> None:
        """Run the pipeline asked for, after those that it needs."""
        from millwright import stack

        takes_data = self.asked.pipeline not in ("deployment", "inference")
        source = self._source() if takes_data else None
        stack.enter(self.project.state.environment, self.project.state)
        if source:
            self.result |= self._ingest(source)
        if self.asked.pipeline in ("features", "training"):
            self.result |= self._features()
        if self.asked.pipeline == "training":
            self.result |= self._training()
        if self.asked.pipeline == "deployment":
            self.result |= self._deployment()
        if self.asked.pipeline == "inference":
            self.result |= self._inference()

    def _source(self) -> str | None:
        """Where new data comes from: what was named, or the simulator if there is none at all."""
        from millwright.simulator import is_current, simulate

        if self.asked.data:
            place = str(self.asked.data)
            return place if "://" in place else str(Path(place).resolve())
        fleet = self.project.fleet
        if self.asked.pipeline != "ingest" and self.project.raw.batches():
            return None
        if fleet.simulation is None:
            raise DataError(
                f"nothing was ingested for fleet '{fleet.name}' yet; "
                f"name its tables: --data FOLDER, or --data postgresql://USER@HOST/DATABASE"
            )
        folder = self.project.state.incoming(fleet.name)
        if not is_current(fleet, fleet.simulation, folder):
            if any(batch.source == str(folder) for batch in self.project.raw.batches()):
                raise ConfigurationError(
                    f"the raw store holds another simulation of fleet '{fleet.name}' than its file "
                    "now asks for, and two histories must not mix; start anew with "
                    f"{shlex.join(['rm', '-r', str(self.project.state.root / fleet.name)])} "
                    f"{shlex.quote(str(folder))}"
                )
            terminal.say(
                f"nothing was ingested yet: simulating {fleet.simulation.machines} machines over "
                f"{fleet.simulation.days} days"
            )
            with terminal.progress() as show:
                simulate(
                    fleet, fleet.simulation, folder,
                    progress=lambda done, total: show("machines", done, total),
                )  # fmt: skip
        return str(folder)

    def _ingest(self, source: str) -> dict[str, Any]:
        from millwright import stack, summary
        from millwright.sources import SOURCE_VARIABLE, without_password
        from pipelines.ingest import ingest

        # ZenML keeps what a pipeline is called with, and a password must not be among that.
        os.environ[SOURCE_VARIABLE] = source
        shown = without_password(source)
        terminal.say(f"ingest from {summary.relative(shown)}")
        received = self.asked.received and self.asked.received.isoformat()
        run = ingest.with_options(**stack.pipeline_options())(
            self.project.fleet.name, shown, received
        )
        counts: dict[str, Any] = _artifact(run, "ingest_tables", "ingest_counts")
        if counts["refused"]:
            terminal.warn(
                f"{counts['refused']:,} rows were refused and lie, each with its reason, in "
                f"{', '.join(counts['quarantine'])}"
            )
        report = self.project.state.batch_report(self.project.fleet.name, counts["batch"])
        return {
            **counts,
            "data_report": str(report) if report.is_file() else None,
            "status": "refused" if counts["refused"] else "done",
        }

    def _features(self) -> dict[str, Any]:
        from millwright import stack
        from pipelines.features import features

        terminal.say("features")
        run = features.with_options(**stack.pipeline_options())(self.project.fleet.name)
        return {"views": _artifact(run, "build_features", "feature_tables"), "status": "done"}

    def _training(self) -> dict[str, Any]:
        from zenml import Model

        from millwright import stack, summary
        from millwright.endpoints import mlflow_uri
        from millwright.registry import open_experiment
        from millwright.release import SUMS, champion
        from pipelines.training import training

        terminal.say("training")
        where = self.project.state
        open_experiment(mlflow_uri(where), "training", where.mlflow_artifacts)
        released = champion(where.releases(self.project.fleet.name))
        # Names come again when MLflow's register is lost; what is in a release does not.
        sums = released / SUMS if released else None
        mark = sums.read_text(encoding="utf-8") if sums and sums.is_file() else str(released)
        fingerprint = self.project.fingerprint()
        # The version of ZenML's own register carries the fingerprint, as that of MLflow does.
        model = Model(
            name=self.project.model_name, version=fingerprint, save_models_to_registry=False
        )
        words = (self.project.fleet.name, fingerprint, mark)
        options = {"model": model, **stack.pipeline_options()}
        try:
            run = training.with_options(**options)(*words)
        except FileNotFoundError as err:
            if not str(err.filename).startswith(str(where.zenml)):
                raise
            terminal.warn(f"{err.filename}, made by an earlier run, is gone; making all anew")
            run = training.with_options(**options, enable_cache=False)(*words)
        return summary.of_training(
            judgement=_artifact(run, "evaluate_models", "judgement"),
            decision=_artifact(run, "apply_gate", "decision"),
            found=_artifact(run, "search_hyperparameters", "hyperparameters"),
            registration=_artifact(run, "register_model", "registration"),
            released=_artifact(run, "release_model", "release"),
            deployment=_artifact(run, "deploy_release", "deployment"),
        )

    def _deployment(self) -> dict[str, Any]:
        from millwright import stack
        from millwright.endpoints import mlflow_uri
        from millwright.registry import open_experiment
        from pipelines.deployment import deployment

        terminal.say("deployment")
        where = self.project.state
        open_experiment(mlflow_uri(where), "deployment", where.mlflow_artifacts)
        run = deployment.with_options(**stack.pipeline_options())(
            self.project.fleet.name, self.asked.release
        )
        found = _artifact(run, "deploy_release", "deployment")
        released = _artifact(run, "find_release", "release")
        return {"status": "done", "release": released.path, "deployment": found.model_dump()}

    def _inference(self) -> dict[str, Any]:
        from millwright import stack
        from pipelines.inference import inference

        terminal.say("inference")
        as_of = self.asked.as_of and self.asked.as_of.isoformat()
        run = inference.with_options(**stack.pipeline_options())(
            self.project.fleet.name, self.asked.release, as_of
        )
        found: dict[str, Any] = _artifact(run, "rank_machines", "inference")
        return found


def _artifact(run: Any, step: str, output: str) -> Any:
    """What a step of a finished run put out."""
    return run.steps[step].outputs[output][0].load()


def _show(result: dict[str, Any], project: "Project") -> None:
    from millwright import summary

    told = result["pipeline"] in ("training", "inference")
    refused = f", {result['refused']:,} rows refused" if result.get("refused") else ""
    title = f"{result['pipeline']} of fleet {result['fleet']}: "
    title += f"{result['status'] if told else 'done'}{refused}"
    terminal.show_table(title, summary.table(result, project))


if __name__ == "__main__":
    sys.exit(main())
