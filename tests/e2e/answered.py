"""What the service answers for a whole fleet, to hold a run of the pipeline inference against."""

from datetime import datetime

import pytest

from millwright.inference import table
from millwright.serving.features import open_reader
from millwright.serving.policy import Policy
from millwright.serving.predictions import micros
from millwright.serving.releases import Releases
from millwright.serving.scoring import Question, Scoring
from millwright.settings import State


def assert_predicted_as_answered(state: State, fleet: str, as_of: datetime) -> None:
    """That each of the 30 machines is kept with the probability that the service gives."""
    found = table.read(state, fleet, as_of)
    used = Releases(state.environment, fleet, state.releases(fleet), prove=lambda _: None)
    used.refresh()
    scoring = Scoring(used, open_reader(state, 5), Policy(), lambda _: None)
    machines = found["machine_id"].to_pylist()
    (answer,) = scoring.score([Question(machines, micros(as_of), dated=True)])
    assert len(set(machines)) == len(machines) == 30
    assert set(found["status"].to_pylist()) == {"ok"}
    expected = [float(part.scored.probabilities[part.row]) for part in answer]
    assert found["probability"].to_pylist() == pytest.approx(expected, abs=1e-9)
