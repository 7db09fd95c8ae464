"""The report on a trained model, as one HTML page that needs nothing else, and its model card.

A maintenance planner reads the page from the top, an engineer from the comparison on.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from millwright import pages, plots
from millwright.alarms import MONTH
from millwright.evaluation import Contribution, Evaluation
from millwright.fleet import Fleet
from millwright.gate import Decision
from millwright.pages import counted, length, money, warning

# The page gives each colour of the pictures a second value for the dark scheme.
VARIABLES = {
    plots.INK: "ink",
    plots.MUTED: "muted",
    plots.GRID: "grid",
    plots.BLUE: "blue",
    plots.ORANGE: "orange",
    plots.GREEN: "green",
    plots.RED: "red",
    "#ffffff": "page",
}


@dataclass(frozen=True)
class Split:
    """One part of the data: its name, its size and the cut-offs that it spans, both included.

    `positives` are the rows that a failure follows within the horizon.
    """

    name: str
    rows: int
    positives: int
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Pictures:
    """The figures of the report. One that is None is left out."""

    precision_recall: Figure | None = None
    calibration: Figure | None = None
    cost: Figure | None = None
    contributions: Figure | None = None
    timeline: Figure | None = None


@dataclass(frozen=True)
class ReportContext:
    """All that a report and a model card say.

    `baselines` and `champion` were judged on the same rows as `candidate`; `champion_note` says why
    a champion was not. `created_at` is UTC.
    """

    title: str
    fleet: Fleet
    environment: str
    created_at: datetime
    dataset_version: str
    code_version: str
    feature_service: str
    detector_version: str
    splits: tuple[Split, ...]
    parameters: Mapping[str, object]
    candidate: Evaluation
    baselines: Mapping[str, Evaluation]
    decision: Decision
    champion: Evaluation | None = None
    champion_note: str = ""
    contributions: tuple[Contribution, ...] = ()
    pictures: Pictures = Pictures()
    model_name: str = ""
    model_version: int | None = None
    git_revision: str | None = None
    mlflow_run_id: str | None = None

    @property
    def model(self) -> str:
        """The model's name, with its version if it was registered."""
        version = f", version {self.model_version}" if self.model_version is not None else ""
        return f"{self.model_name or self.fleet.name}{version}"

    @property
    def contenders(self) -> dict[str, Evaluation]:
        """The model and all that it is compared with, by name."""
        champion = {"champion": self.champion} if self.champion is not None else {}
        named = {name.replace("_", " "): each for name, each in self.baselines.items()}
        return {"model": self.candidate, **champion, **named}

    @property
    def provenance(self) -> dict[str, str]:
        """What the model came from, as far as it is known."""
        known = {
            "Dataset version": self.dataset_version,
            "Feature service": self.feature_service,
            "Anomaly detector": self.detector_version,
            "Environment": self.environment,
            "Code version": self.code_version,
            "Git revision": self.git_revision,
            "MLflow run": self.mlflow_run_id,
        }
        return {name: value for name, value in known.items() if value}


def render_report(context: ReportContext) -> str:
    """The HTML page, complete in itself."""
    pictures = {
        field.name: inline_svg(figure)
        for field in fields(Pictures)
        if (figure := getattr(context.pictures, field.name)) is not None
    }
    return _render("report.html.j2", context, pictures=pictures)


def render_model_card(context: ReportContext) -> str:
    """The model card, in Markdown."""
    return _render("model_card.md.j2", context)


def planner_summary(context: ReportContext) -> tuple[str, ...]:
    """What the model would have meant for the people who repair the machines, in sentences."""
    found, fleet = context.candidate, context.fleet
    currency = fleet.costs.currency
    test = counted(found.machines, "machine")
    if not found.failures:
        caught = (
            f"No machine failed in the test window ({test}), so nothing can be said about what the "
            "model catches."
        )
    else:
        caught = (
            f"In the test window {test} had {counted(found.failures, 'failure')}. The model would "
            f"have warned of {_some(found.failures_caught, found.failures)} at least "
            f"{length(fleet.lead_time, fleet)} ahead"
        )
        if found.median_warning_hours is not None:
            caught += f", half of them {warning(found.median_warning_hours, fleet)} ahead or more"
        late = found.failures_flagged_late
        caught += f". It flagged {late} more, too late to act." if late else "."
    weekly = found.false_alarms / found.machine_months / (MONTH / timedelta(days=7))
    alarms = (
        f"It would have raised {counted(found.alarms, 'alarm')}, {found.false_alarms:,} of them "
        f"false: {found.false_alarms_per_machine_month:.2g} a machine and month, or "
        f"{weekly * found.machines:.2g} needless inspections a week for them all."
    )
    saved = found.cost_without_alarms - found.cost
    cost = (
        f"Failures, planned repairs and needless inspections would have cost "
        f"{money(found.cost, currency)}. Without any warning the failures alone would have cost "
        f"{money(found.cost_without_alarms, currency)}, so the model would have "
        f"{'saved' if saved >= 0 else 'lost'} {money(abs(saved), currency)}."
    )
    return caught, alarms, cost


def inline_svg(figure: Figure) -> Markup:
    """`figure` as an SVG element that takes its colours and its font from the page around it."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # The salt makes the names of shared shapes, and so the whole page, the same each time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "millwright"}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| id="[A-Za-z.]+\d*_\d+"', "", svg)
    svg = svg.replace("xlink:href", "href")
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg)  # noqa: S704 - matplotlib escaped every text in it


def _render(template: str, context: ReportContext, **more: object) -> str:
    return (
        pages.environment(context.fleet)
        .get_template(template)
        .render(
            context=context,
            fleet=context.fleet,
            found=context.candidate,
            summary=planner_summary(context),
            **more,
        )
    )


def _some(part: int, whole: int) -> str:
    if part == whole:
        return "it" if whole == 1 else f"all {whole:,}"
    return f"{part:,} of them" if part else "none"
