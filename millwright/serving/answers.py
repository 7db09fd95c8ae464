"""What was scored, as the answer that `predictions` describes: plain objects, quick to write."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic_core import to_json

from millwright.encoder import Matrix
from millwright.fleet import Costs
from millwright.serving.predictions import EPOCH, OUTCOMES
from millwright.serving.routes import Loaded
from millwright.serving.rows import NEVER, STATUSES
from millwright.serving.scoring import Part, Scored


def written(parts: Sequence[Part], as_of: int, explain: int) -> bytes:
    """The answer for some machines, in their order, as JSON."""
    return to_json(described(parts, as_of, explain))


def described(parts: Sequence[Part], as_of: int, explain: int) -> dict[str, Any]:
    """The answer for some machines, at least one, in their order."""
    loaded = {part.scored.loaded: part.scored.loaded.release.manifest for part in parts}
    first = next(iter(loaded.values()))
    return {
        "model": first.name,
        "as_of": iso(as_of),
        "currency": first.costs.currency,
        "releases": [
            {
                "version": each.version,
                "feature_service": each.feature_service,
                "threshold": each.threshold,
            }
            for each in loaded.values()
        ],
        "predictions": _predictions(parts, explain),
    }


def expected_cost(probability: float, alarm: bool, costs: Costs) -> float:
    """What a decision costs on average, if the probability is right.

    An alarm sends somebody: who finds a part that would have failed repairs it in time, and who
    finds none has inspected in vain. Without an alarm the failure comes.
    """
    if alarm:
        return probability * costs.planned_repair + (1 - probability) * costs.inspection
    return probability * costs.failure


@lru_cache(maxsize=10_000)
def iso(moment: int) -> str:
    """Microseconds since 1970 as an ISO time in UTC."""
    return (EPOCH + timedelta(microseconds=moment)).isoformat().replace("+00:00", "Z")


def reasons(loaded: Loaded, matrix: Matrix, most: int) -> list[list[dict[str, Any]]]:
    """The columns that moved each row's probability most, the largest first."""
    from millwright.trees import contributions

    moved = contributions(loaded.release.booster, matrix)[:, :-1]
    largest = np.argsort(-np.abs(moved), axis=1, kind="stable")[:, :most]
    return [
        [
            {
                "feature": loaded.columns[column],
                "value": float(values[column]) if np.isfinite(values[column]) else None,
                "contribution": float(moves[column]),
            }
            for column in best
        ]
        for best, values, moves in zip(largest.tolist(), matrix, moved, strict=True)
    ]


def _predictions(parts: Sequence[Part], explain: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{}] * len(parts)
    groups: dict[int, list[int]] = {}
    for place, part in enumerate(parts):
        groups.setdefault(id(part.scored), []).append(place)
    for places in groups.values():
        scored = parts[places[0]].scored
        rows = [parts[place].row for place in places]
        told = _of_one(scored, rows)
        if explain:
            for each, reasons in zip(told, _reasons(scored, rows, explain), strict=True):
                each["contributions"] = reasons
        for place, each in zip(places, told, strict=True):
            found[place] = each
    return found


def _of_one(scored: Scored, rows: Sequence[int]) -> list[dict[str, Any]]:
    """What one release says of the machines in `rows`."""
    manifest = scored.loaded.release.manifest
    probabilities = scored.probabilities.tolist()
    outcomes, as_of = scored.outcomes.tolist(), scored.as_of.tolist()
    events, states = scored.rows.events.tolist(), scored.rows.states.tolist()
    told = []
    for row in rows:
        probability = probabilities[row]
        known = probability == probability  # NaN alone differs from itself
        alarm = probability >= manifest.threshold
        told.append(
            {
                "id": scored.ids[row],
                "machine": scored.machines[row],
                "status": OUTCOMES[outcomes[row]],
                "probability": probability if known else None,
                "alarm": alarm if known else None,
                "expected_cost": (
                    expected_cost(probability, alarm, manifest.costs) if known else None
                ),
                "version": manifest.version,
                "role": scored.role,
                "views": _views(scored.rows.views, states[row], events[row], as_of[row]),
                "contributions": None,
            }
        )
    return told


def _views(
    names: Sequence[str], states: Sequence[int], events: Sequence[int], as_of: int
) -> Mapping[str, Any]:
    return {
        name: {
            "status": STATUSES[state],
            "event_time": None if event == NEVER else iso(event),
            "age": None if event == NEVER else (as_of - event) / 1e6,
        }
        for name, state, event in zip(names, states, events, strict=True)
    }


def _reasons(scored: Scored, rows: Sequence[int], most: int) -> list[list[dict[str, Any]] | None]:
    """The same of some rows of what was scored; None where nothing is predicted."""
    found = reasons(scored.loaded, scored.matrix[list(rows)], most)
    return [
        None if np.isnan(scored.probabilities[row]) else each
        for row, each in zip(rows, found, strict=True)
    ]
