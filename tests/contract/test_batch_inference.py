"""A fleet as of now, from a real online store: what the service says of each of its machines."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from service_plant import FRESH, MACHINES, NOW, TELEMETRY, Plant, new_plant

from millwright import feast_store, release
from millwright.errors import DataError, InputError, ReleaseError
from millwright.inference import batch
from millwright.inference.fleets import FleetNow, last_step
from millwright.inference.settings import Inference
from millwright.project import Project, Training
from millwright.serving.features import open_reader
from millwright.serving.policy import Policy
from millwright.serving.predictions import OUTCOMES, micros
from millwright.serving.releases import Releases
from millwright.serving.scoring import Question, Scoring
from millwright.settings import load_settings

pytestmark = pytest.mark.filterwarnings("ignore:.*is an experimental feature:RuntimeWarning")
FLEET = {**MACHINES, **{f"m{number}": dict.fromkeys(TELEMETRY, FRESH) for number in range(20)}}


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with pytest.MonkeyPatch.context() as patch:
        made = new_plant(tmp_path_factory.mktemp("plant"), patch)
        made.released(1)
        yield made


@pytest.fixture(scope="module")
def filled(plant: Plant) -> Plant:
    """The plant with its features online."""
    feast_store.apply(plant.state)
    plant.write_online(FLEET)
    return plant


def project(plant: Plant, stale: Literal["degrade", "refuse"] = "degrade") -> Project:
    settings = load_settings("local")
    serving = settings.serving.model_copy(update={"stale": stale, "missing": stale})
    settings = settings.model_copy(update={"serving": serving})
    return Project(plant.fleet, settings, plant.state, Training())


def the_fleet(plant: Plant, stale: Literal["degrade", "refuse"] = "degrade") -> FleetNow:
    manifest = release.read_manifest(plant.releases / "v1")
    return FleetNow(project(plant, stale), manifest, NOW)


def test_before_features_are_online_the_run_says_what_is_to_be_done(plant: Plant) -> None:
    feast_store.apply(plant.state)
    with pytest.raises(DataError, match="has no machine of fleet 'plant'; bring its features"):
        the_fleet(plant).machines()


@pytest.mark.parametrize("stale", ["degrade", "refuse"])
def test_every_machine_gets_what_the_service_answers(
    filled: Plant, stale: Literal["degrade", "refuse"]
) -> None:
    fleet = the_fleet(filled, stale)
    fleet.together = 4
    made = release.load(filled.releases / "v1")
    found, left_out = batch.predict(made, fleet, Inference(), "run-1", lambda *_: None)
    assert not left_out
    assert set(found["as_of"].to_pylist()) == {last_step(filled.fleet, NOW)}

    used = Releases("local", "plant", filled.releases, filled.releases / "v1", lambda _: None)
    used.refresh()
    scoring = Scoring(used, open_reader(filled.state, 5), Policy(stale, stale), lambda _: None)
    machines = found["machine_id"].to_pylist()
    assert sorted(machines) == sorted(FLEET)
    (answer,) = scoring.score([Question(machines, micros(NOW))])
    outcomes = [OUTCOMES[part.scored.outcomes[part.row]] for part in answer]
    assert found["status"].to_pylist() == outcomes
    assert len(set(outcomes)) >= 4 - (stale == "refuse")
    expected = [part.scored.probabilities[part.row] for part in answer]
    assert np.array_equal(found["probability"].to_numpy(), expected, equal_nan=True)


def test_the_champion_predicts_unless_another_release_is_named(plant: Plant) -> None:
    with pytest.raises(InputError, match="fleet 'plant' has no champion in environment 'local'"):
        batch.choose_release(project(plant), None)
    first, second = plant.releases / "v1", plant.released(2)
    release.set_champion(plant.releases, first)
    assert batch.choose_release(project(plant), None) == first
    assert batch.choose_release(project(plant), 2) == second
    with pytest.raises(InputError, match=r"there is no release v9 in .* there are: v1, v2"):
        batch.choose_release(project(plant), 9)


def test_a_release_that_is_spoilt_or_of_elsewhere_predicts_nothing(plant: Plant) -> None:
    plant.released(3, environment="staging")
    with pytest.raises(ReleaseError, match="in environment 'staging', and not of 'plant' in"):
        batch.choose_release(project(plant), 3)
    (plant.released(4) / release.MODEL).write_bytes(b"")
    with pytest.raises(ReleaseError, match="was changed after it was written"):
        batch.choose_release(project(plant), 4)
