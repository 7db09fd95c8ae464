"""Whether a model may be released. Every limit comes from `configs/pipelines/gate.yaml`."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field, FiniteFloat

from millwright.configuration import Strict, load
from millwright.evaluation import Evaluation, compare

FILE = "configs/pipelines/gate.yaml"


class Margins(Strict):
    """Distances to another model: in average precision, and in cost as a share of its cost.

    A baseline must be beaten by the first; a champion need only be matched up to it. Either may be
    cheaper by the second.
    """

    average_precision_margin: float = Field(ge=0, lt=1)
    cost_margin: float = Field(ge=0, lt=1)


class Limits(Strict):
    """`configs/pipelines/gate.yaml`."""

    minimum_failures: int = Field(ge=1)
    minimum_average_precision: float = Field(ge=0, le=1)
    minimum_roc_auc: float = Field(ge=0, le=1)
    minimum_share_caught: float = Field(ge=0, le=1)
    maximum_false_alarms_per_machine_month: FiniteFloat = Field(ge=0)
    maximum_calibration_error: float = Field(ge=0, le=1)
    maximum_online_differences: int = Field(ge=0)
    baselines: Margins
    champion: Margins


class Check(Strict):
    """One figure held against one limit. The figure is None where it could not be computed."""

    figure: str
    value: float | None
    limit: float
    at_least: bool
    key: str
    purpose: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure keeps to the limit."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def shown(self) -> str:
        """The figure as text, a dash where it could not be computed."""
        return "–" if self.value is None else _number(self.value)

    @property
    def rule(self) -> str:
        """The limit in words: `at least 0.3`."""
        bound = f"{'at least' if self.at_least else 'at most'} {_number(self.limit)}"
        return f"{bound} {self.purpose}".rstrip()

    def __str__(self) -> str:
        place = f"({self.key} in {FILE})"
        if self.value is None:
            return f"{self.figure} cannot be computed and must be {self.rule} {place}"
        found = f"{self.figure} is {self.shown}"
        if self.passed:
            return f"{found}, {self.rule} {place}"
        return f"{found} and must be {self.rule} {place}"


class Decision(Strict):
    """Every check that was made."""

    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that the model did not pass, each a sentence as a string."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """Whether the model may be released."""
        return not self.failures

    def summary(self) -> dict[str, bool | list[str]]:
        """The `gate` of a run's summary for machines."""
        return {"passed": self.passed, "failures": [str(failure) for failure in self.failures]}


def load_limits(path: Path = Path(__file__).parent.parent / FILE) -> Limits:
    """Read the limits.

    Raises:
        ConfigurationError: the file is wrong.
    """
    return load(path, Limits)


def decide(
    limits: Limits,
    candidate: Evaluation,
    baselines: Mapping[str, Evaluation],
    champion: Evaluation | None,
    online_differences: int,
) -> Decision:
    """Hold `candidate` against the limits, the baselines and the champion, if there is one.

    Every check is made, whatever the others say. `online_differences` counts the features that a
    service would read otherwise from the online store than the model learned them.

    Raises:
        DataError: the evaluations are not of the same rows.
    """
    others = {**baselines, **({"champion": champion} if champion is not None else {})}
    compare({"candidate": candidate, **others})
    checks = [*_alone(limits, candidate), _online(limits, online_differences)]
    for name, baseline in baselines.items():
        checks += _better(limits.baselines, candidate, baseline, name)
    if champion is not None:
        checks += _not_worse(limits.champion, candidate, champion)
    return Decision(checks=tuple(checks))


def _alone(limits: Limits, candidate: Evaluation) -> Iterator[Check]:
    for key, value in (
        ("minimum_failures", candidate.failures),
        ("minimum_average_precision", candidate.average_precision),
        ("minimum_roc_auc", candidate.roc_auc),
        ("minimum_share_caught", candidate.share_caught),
        ("maximum_false_alarms_per_machine_month", candidate.false_alarms_per_machine_month),
        ("maximum_calibration_error", candidate.calibration_error),
    ):
        bound, _, figure = key.partition("_")
        yield Check(
            figure=figure,
            value=value,
            limit=getattr(limits, key),
            at_least=bound == "minimum",
            key=key,
        )


def _online(limits: Limits, differences: int) -> Check:
    return Check(
        figure="online_differences",
        value=differences,
        limit=limits.maximum_online_differences,
        at_least=False,
        key="maximum_online_differences",
    )


def _better(
    margins: Margins, candidate: Evaluation, baseline: Evaluation, name: str
) -> Iterator[Check]:
    # A baseline close to 1 leaves no room for the margin.
    precision = min((baseline.average_precision or 0) + margins.average_precision_margin, 1)
    cost = baseline.cost * (1 + margins.cost_margin)
    yield from _against(
        "baselines", f"to beat the {name.replace('_', ' ')}", candidate, precision, cost
    )


def _not_worse(margins: Margins, candidate: Evaluation, champion: Evaluation) -> Iterator[Check]:
    precision = max((champion.average_precision or 0) - margins.average_precision_margin, 0)
    cost = champion.cost * (1 + margins.cost_margin)
    yield from _against("champion", "to replace the champion", candidate, precision, cost)


def _against(
    section: str, purpose: str, candidate: Evaluation, precision: float, cost: float
) -> Iterator[Check]:
    yield Check(
        figure="average_precision",
        value=candidate.average_precision,
        limit=precision,
        at_least=True,
        key=f"{section}.average_precision_margin",
        purpose=purpose,
    )
    yield Check(
        figure="cost",
        value=candidate.cost,
        limit=cost,
        at_least=False,
        key=f"{section}.cost_margin",
        purpose=purpose,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
