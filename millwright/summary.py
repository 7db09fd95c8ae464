"""What a run did, in the form that machines read and in the form that people do."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millwright.endpoints import mlflow_uri

if TYPE_CHECKING:  # an ingest says what it did without the libraries that train a model
    from millwright.deployment import Deployment
    from millwright.gate import Decision
    from millwright.project import Project
    from millwright.publication import Registration, Released
    from millwright.search import Found
    from millwright.training import Judgement

Summary = dict[str, Any]
FATES = ("read", "new", "unchanged", "corrections", "refused")


def of_training(
    judgement: Judgement,
    decision: Decision,
    found: Found,
    registration: Registration,
    released: Released,
    deployment: Deployment,
) -> Summary:
    """The part of a training run's summary that follows from its artifacts."""
    from millwright.evaluation import scores_summary

    return {
        "status": "promoted" if registration.passed else "refused",
        "rows": registration.rows,
        "scores": scores_summary(judgement.candidate),
        "baselines": {name: scores_summary(each) for name, each in judgement.baselines.items()},
        "champion": scores_summary(judgement.champion) if judgement.champion else {},
        "champion_note": judgement.champion_note,
        "gate": decision.summary(),
        "search": {"trials": found.trials, "ended_by": found.ended_by, "folds": list(found.folds)},
        "threshold": judgement.threshold.value,
        "model": {
            "name": registration.name,
            "version": registration.version,
            "alias": released.alias,
            "run": registration.run,
        },
        "release": released.path,
        "deployment": deployment.model_dump(),
        "report": registration.report,
    }


def table(summary: Summary, project: Project) -> dict[str, str]:
    """The lines that a person reads at the end of a run."""
    pipeline = summary["pipeline"]
    if pipeline == "training":
        return training_table(summary, project)
    if pipeline == "features":
        return features_table(summary)
    if pipeline == "deployment":
        return deployment_table(summary, project)
    if pipeline == "inference":
        from millwright.inference import outcome

        return outcome.table(summary, project)
    return ingest_table(summary)


def training_table(summary: Summary, project: Project) -> dict[str, str]:
    """The lines that a person reads at the end of a training run."""
    rows, model = summary["rows"], summary["model"]
    currency = project.fleet.costs.currency
    contenders = {"model": summary["scores"], **summary["baselines"]}
    note = summary["champion_note"] and f"not compared: {summary['champion_note']}"
    if summary["champion"] == summary["scores"]:
        note = "the same in every score"
    elif summary["champion"]:
        contenders["champion"] = summary["champion"]
    gate = summary["gate"]
    return {
        **_deliveries(summary),
        "data": f"dataset {summary['dataset_version']}",
        "rows": f"{rows['training']:,} to learn from ({rows['validation']:,} in validation folds), "
        f"{rows['test']:,} to judge by",
        "search": f"{summary['search']['trials']} trials, ended by {summary['search']['ended_by']}",
        **{name.replace("_", " "): _scores(each, currency) for name, each in contenders.items()},
        **({"champion": note} if note else {}),
        "gate": "passed" if gate["passed"] else "refused: " + "\n".join(gate["failures"]),
        "registered": f"{model['name']} version {model['version']}, alias {model['alias']}",
        "release": summary["release"] or "none: the gate refused the model",
        **deployment_lines(summary["deployment"], project),
        "report": summary["report"],
        "MLflow": f"run {model['run']} in {mlflow_uri(project.state)}",
        "took": took(summary),
        "next": next_command(project),
    }


def deployment_table(summary: Summary, project: Project) -> dict[str, str]:
    """The lines that a person reads when a release was put into service."""
    lines = deployment_lines(summary["deployment"], project)
    return {"release": summary["release"], **lines, "took": took(summary)}


def deployment_lines(deployment: Summary, project: Project) -> dict[str, str]:
    """Where the service answers, and what was compared."""
    if deployment["status"] != "deployed":
        return {}
    compared = (
        f"{deployment['compared']} machines predicted online as offline, "
        f"largest difference {deployment['largest_difference']:.1g}"
    )
    where, fleet = project.state, project.fleet.name
    words = f"--stack {where.environment} --fleet {fleet}"
    found = {"deployed": f"v{deployment['version']}: {compared}"}
    if deployment["before"] not in (None, deployment["version"]):
        back = f"{relative(sys.executable)} -m millwright releases rollback {words}"
        found["before"] = f"v{deployment['before']}; back to it: {back}"
    if deployment["url"]:
        if not deployment["asked"]:
            found["not asked"] = (
                "the service wants a key, so that the release alone was compared; set "
                "MILLWRIGHT_KEY to one that may predict"
            )
        found["service"] = f"{deployment['url']}, log {where.service(fleet) / 'log'}"
        found["to end it"] = f"{relative(sys.executable)} -m millwright serve --stop {words}"
    if deployment["manifests"]:
        found["manifests"] = f"kubectl apply --kustomize {deployment['manifests']}"
    return found


def ingest_table(summary: Summary) -> dict[str, str]:
    """The lines that a person reads at the end of an ingest."""
    return {
        "batch": summary["batch"] or "none: nothing new",
        "dataset": summary["dataset_version"],
        **_deliveries(summary),
        **({"report": summary["data_report"]} if summary["data_report"] else {}),
        "took": took(summary),
    }


def features_table(summary: Summary) -> dict[str, str]:
    """The lines that a person reads when feature tables were brought up to date."""
    views = {
        view["view"]: f"{view['rows']:,} rows; {len(view['made'])} periods made anew"
        for view in summary["views"]
    }
    return {
        **_deliveries(summary),
        "dataset": summary["dataset_version"],
        **views,
        "took": took(summary),
    }


def _deliveries(summary: Summary) -> dict[str, str]:
    """What became of the rows of each table, if the run took any in."""
    table = {
        name: ", ".join(f"{counts[what]:,} {what}" for what in FATES if counts[what])
        for name, counts in summary.get("tables", {}).items()
    }
    if summary.get("refused"):
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in summary["reasons"].items())
        table["refused"] = f"{summary['refused']:,} rows ({reasons})"
        table["quarantine"] = "\n".join(summary["quarantine"])
    return table


def took(summary: Mapping[str, Any]) -> str:
    """How long a run took and how much memory it had at its peak."""
    return f"{summary['seconds']:.1f} s, {summary['peak_memory_mb']:,} MB at the peak"


def next_command(project: Project) -> str:
    """What to type to look at what came out."""
    mlflow = relative(str(Path(sys.executable).with_name("mlflow")))
    uri = mlflow_uri(project.state)
    if uri.startswith("http"):
        return f"open {uri}"
    return f"{mlflow} ui --backend-store-uri {uri}"


def relative(path: str) -> str:
    """`path` as seen from here, where it lies below; anything else, such as a URL, as it is."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def _scores(scores: Mapping[str, Any], currency: str) -> str:
    def number(name: str) -> str:
        return "–" if scores[name] is None else f"{scores[name]:.3f}"

    return (
        f"average precision {number('average_precision')}, ROC AUC {number('roc_auc')}, "
        f"{scores['failures_caught']} of {scores['failures']} failures caught, "
        f"{scores['false_alarms_per_machine_month']:.2f} false alarms a machine and month, "
        f"cost {currency} {scores['cost']:,.0f}"
    )
