"""What an alert says: one line for a person, and what stands behind it.

Who gets it is the business of the ZenML stack's alerter. Nothing here sends anything.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from millwright.endpoints import without_secrets


@dataclass(frozen=True)
class Alert:
    """What became of a run; `time` is in UTC, `text` one line and `details` are lines too."""

    time: datetime
    environment: str
    fleet: str
    pipeline: str
    status: str
    text: str
    details: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """The whole of it, for people."""
        return "\n".join([self.text, *(f"- {line}" for line in self.details)])


def of_run(result: Mapping[str, Any], time: datetime) -> tuple[Alert, ...]:
    """The alerts that the summary of a run gives rise to; none of a run that only did its work.

    A training run that took in bad rows on its way gives two, one about the rows.
    """
    return tuple(_of_run(result, time))


def _of_run(result: Mapping[str, Any], time: datetime) -> Iterator[Alert]:
    if result.get("refused"):
        yield _of_quarantine(result, time)
    if result["status"] == "failed":
        yield _of_failure(result, time)
    elif result["pipeline"] == "training":
        yield _of_training(result, time)
    elif result["pipeline"] == "inference" and result["status"] == "refused":
        yield _of_inference(result, time)


def _of_quarantine(result: Mapping[str, Any], time: datetime) -> Alert:
    rows = result["refused"]
    return Alert(
        time, result["environment"], result["fleet"], "ingest", "refused",
        f"ingest of fleet {result['fleet']}: {rows:,} {'row is' if rows == 1 else 'rows are'} in "
        "quarantine",
        (
            *(f"{count:,} {reason}" for reason, count in result["reasons"].items()),
            *(f"see {path}" for path in result["quarantine"]),
        ),
    )  # fmt: skip


def _of_failure(result: Mapping[str, Any], time: datetime) -> Alert:
    said = without_secrets(str(result.get("error") or ""))
    lines = [line for line in said.splitlines() if line.strip()]
    first, *more = lines or ["the run says no more"]
    return Alert(
        time, result["environment"], result["fleet"], result["pipeline"], "failed",
        f"{result['pipeline']} of fleet {result['fleet']} failed: {first}",
        tuple(more),
    )  # fmt: skip


def _of_training(result: Mapping[str, Any], time: datetime) -> Alert:
    """A model that the gate let pass with its figures, or one that it did not with the reasons."""
    model, scores = result["model"], result["scores"]
    version = f"{model['name']} version {model['version']}"
    said = f"training of fleet {result['fleet']}: {version}"
    report = f"report: {result['report']}"
    if result["status"] == "promoted":
        text = (
            f"{said} is released; {scores['failures_caught']} of {scores['failures']} failures "
            f"caught, {scores['false_alarms_per_machine_month']:.2f} false alarms a machine and "
            "month"
        )
        details = (f"release: {result['release']}", report)
    else:
        text = f"{said} did not pass the gate"
        details = (*result["gate"]["failures"], report)
    return Alert(
        time, result["environment"], result["fleet"], "training", result["status"], text, details
    )


def _of_inference(result: Mapping[str, Any], time: datetime) -> Alert:
    text = f"inference of fleet {result['fleet']}: no machine could be predicted"
    details = (result["reason"],)
    return Alert(
        time, result["environment"], result["fleet"], "inference", "refused", text, details
    )
