"""What a run of batch inference came to, for machines and for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millwright.inference.work_list import WorkList
from millwright.pages import counted, money
from millwright.project import Project
from millwright.summary import took

Summary = dict[str, Any]


def summarise(work: WorkList, project: Project, kept: str, paths: Mapping[str, Path]) -> Summary:
    """The part of a run's summary that follows from its work list.

    It is refused if not one machine could be predicted: then `reason` says why and the way out.
    """
    release = project.state.releases(project.fleet.name) / f"v{work.manifest.version}"
    return {
        "status": "done" if work.predicted else "refused",
        "reason": "" if work.predicted else _reason(work, project),
        "as_of": work.as_of.isoformat(),
        "source": work.predictions["source"][0].as_py(),
        "release": str(release),
        "machines": len(work.predictions),
        "left_out": work.left_out,
        "statuses": work.statuses,
        "alarms": len(work.alarms),
        "predictions": kept,
        "worklist": {
            "machines": len(work.rows),
            "expected_saving": work.saving,
            **{form: str(path) for form, path in paths.items()},
        },
    }


def table(summary: Summary, project: Project) -> dict[str, str]:
    """The lines that a person reads at the end of the run."""
    work = summary["worklist"]
    gone = summary["left_out"]
    left_out = f"; {counted(gone, 'machine')} left out that cannot be read" if gone else ""
    saving = money(work["expected_saving"], project.fleet.costs.currency)
    return {
        "as of": f"{summary['as_of']}, from the {summary['source']} store",
        "release": summary["release"],
        "machines": f"{summary['machines']:,}: {_counts(summary['statuses'])}{left_out}",
        **({"refused": summary["reason"]} if summary["reason"] else {}),
        "alarms": f"{summary['alarms']:,}",
        "predictions": summary["predictions"],
        "work list": f"{counted(work['machines'], 'machine')}, {saving} expected to be saved\n"
        f"{work['csv']}\n{work['html']}",
        "took": took(summary),
    }


def _reason(work: WorkList, project: Project) -> str:
    """Why not one machine could be predicted, and the way out."""
    command = (
        f"python run.py --fleet {project.fleet.name} --stack {project.state.environment} --pipeline"
    )
    machines = counted(len(work.predictions), "machine")
    said = f"not one of {machines} could be predicted ({_counts(work.statuses)})"
    if work.newest is None:
        return f"{said}; bring new data: {command} features --data PLACE"
    newest = work.newest.isoformat()
    return (
        f"{said}: the newest features are of {newest}; bring newer data: {command} features "
        f"--data PLACE, or ask about that time: {command} inference --as-of {newest}"
    )


def _counts(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {status}" for status, number in statuses.items())
