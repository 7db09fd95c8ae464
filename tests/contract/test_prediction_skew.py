"""What the service predicts over HTTP is what its release predicts offline.

Offline, Feast's historical join gives the features as training gets them, and the encoder and the
trees of the release do the rest. Over HTTP the features come once from the online store, as of the
time that it was filled for, and once from readings that are sent, as of any time.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sent_plant import ENOUGH, HOUR, SentPlant, new_sent_plant, text
from service_plant import Plant, app_of, asking

from millwright import feast_store, release
from millwright.encoder import Encoder, Scores
from millwright.fleet import load_fleet
from millwright.materialization import materialize
from millwright.models import Classifier
from millwright.release import Release

pytestmark = pytest.mark.filterwarnings("ignore:.*is an experimental feature:RuntimeWarning")
TICK = timedelta(microseconds=1)
DAYS, PAIRS, MOMENTS = 5, 500, 20
START = load_fleet("simulated").simulation.start  # type: ignore[union-attr]
AS_OF = START + 113 * HOUR + timedelta(minutes=40)  # and the data goes on
LAG, SOME = 6 * HOUR, 36 * HOUR
NAMES = [str(number) for number in range(1, 21 + PAIRS)]
MISSING, STALE, PREDICTED = NAMES[:10], NAMES[10:20], NAMES[20:]
UNSCORED = PREDICTED[:20]  # silent since before there were scores
MODELLESS, AGELESS = PREDICTED[10:40], PREDICTED[30:60]
ENDED = {
    **dict.fromkeys(MISSING, START - HOUR),
    **dict.fromkeys(STALE, AS_OF - 60 * HOUR),
    **dict.fromkeys(UNSCORED, AS_OF - 40 * HOUR),
}

Pair = tuple[str, datetime]


def spoil(data: Path) -> None:
    """Have some machines fall silent, and others not say what they are."""
    telemetry = pq.read_table(data / "telemetry.parquet")
    rows = telemetry.to_pandas()
    ends = rows["machineID"].astype(str).map(ENDED)
    kept = ends.isna() | (rows["datetime"] <= pd.to_datetime(ends.fillna(AS_OF), utc=True))
    pq.write_table(telemetry.filter(kept.to_numpy()), data / "telemetry.parquet")
    machines = pq.read_table(data / "machines.parquet")
    rows = machines.to_pandas()
    names = rows["machineID"].astype(str)
    rows["model"] = rows["model"].mask(names.isin(MODELLESS))
    rows["age"] = rows["age"].astype(float).mask(names.isin(AGELESS))
    pq.write_table(pa.Table.from_pandas(rows), data / "machines.parquet")


@dataclass(frozen=True)
class Skew:
    """A fleet whose features are online as of `AS_OF`, and a release that hangs on each of them."""

    plant: SentPlant
    release: Release

    def offline(self, pairs: Sequence[Pair]) -> pd.DataFrame:
        """Features as a training run gets them."""
        machines, times = zip(*pairs, strict=True)
        return self.plant.history(machines, times).to_pandas()

    def score(self, frame: pd.DataFrame) -> Scores:
        return self.release.score(self.release.manifest.encoder.encode(frame))

    @cached_property
    def newest(self) -> pd.DataFrame:
        return self.offline([(machine, AS_OF) for machine in PREDICTED])

    def ask(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The service's predictions for one request after another."""
        project = self.plant.project
        plant = Plant(project.state, project.fleet, {})
        app = app_of(plant, self.release.folder, deadline_ms=5000, store_timeout_ms=4000)

        async def story(client: httpx.AsyncClient) -> list[dict[str, Any]]:
            said = [await client.post(path, json=body) for body in bodies]
            assert [each.text for each in said if each.status_code != 200] == []
            return [each for one in said for each in one.json()["predictions"]]

        return asking(app, story, seconds=60)


@pytest.fixture(scope="module")
def skew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Skew]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("skew")
        plant = new_sent_plant(home, patch, len(NAMES), DAYS, "4d", spoil)
        project = plant.project
        store = feast_store.open_store(project.state)
        materialize(store, project.published_views, AS_OF)
        yield Skew(plant, fitted(plant))


def fitted(plant: SentPlant) -> Release:
    """A release whose model learned the sum of all features, so that each of them decides."""
    times = [START + hours * HOUR for hours in (30, 58, 86, 100, 106, 111)]
    machines = [machine for machine in PREDICTED for _ in times]
    frame = plant.history(machines, times * (len(machines) // len(times))).to_pandas()
    encoder = Encoder.of(plant.project.fleet)
    rows = encoder.encode(frame)
    heights = np.nan_to_num(rows - np.nanmean(rows, axis=0)) / np.nanstd(rows, axis=0)
    model = Classifier({"max_depth": 6, "colsample_bynode": 0.1}, 100, 1)
    booster = model.fit(rows, heights.sum(axis=1) > 0).booster
    assert booster is not None
    made = Plant(plant.project.state, plant.project.fleet, {})
    folder = release.write(
        made.releases, made.manifest(1), booster, rows[:5], plant.recipe, plant.detector
    )
    return release.load(folder)


def assert_same(found: Sequence[dict[str, Any]], expected: Scores) -> None:
    apart = np.abs(np.array([each["probability"] for each in found], float) - expected)
    assert len(found) == PAIRS
    assert apart.max() <= 1e-6, found[int(apart.argmax())]


def test_from_the_online_store_it_is_what_is_predicted_offline(skew: Skew) -> None:
    asked = [*PREDICTED, *STALE, *MISSING, "nobody"]
    found = skew.ask("/v1/predict", [{"machines": asked, "as_of": text(AS_OF)}])
    assert [each["machine"] for each in found] == asked
    assert Counter(each["status"] for each in found) == {
        "ok": PAIRS - len(UNSCORED), "degraded": len(UNSCORED),
        "stale": len(STALE), "missing": len(MISSING),
        "unknown": 1,
    }  # fmt: skip
    assert_same(found[:PAIRS], skew.score(skew.newest))
    assert {each["probability"] for each in found[PAIRS:]} == {None}
    assert skew.newest["anomaly_score"].isna().sum() == len(UNSCORED)
    assert skew.newest["model"].isna().sum() == len(MODELLESS)
    assert skew.newest["age"].isna().sum() == len(AGELESS)


def moments(plant: SentPlant) -> list[datetime]:
    """Ends of steps, the tick before, times within, and when a reading became known late."""
    rows = plant.raw["telemetry"]
    late = rows[rows["received"] - rows["timestamp"] > HOUR]
    known = [time.to_pydatetime() for time in late["received"].sort_values()]
    found = []
    for place in range(MOMENTS - 1):
        time = START + (76 + 2 * place) * HOUR
        others = [time, time - TICK, time + timedelta(minutes=17)]
        found.append([*others, next(each for each in known if each >= time)][place % 4])
    return [*found, AS_OF]


def requests(plant: SentPlant) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """The machines of each request, and what is sent of them: now more, now less.

    Of a past time the store has what is true of the silent alone, and perhaps did not know it yet.
    """
    left = Random(1).sample(PREDICTED[len(UNSCORED) :], PAIRS - len(UNSCORED)) + UNSCORED
    for time in moments(plant):
        some, left = left[: PAIRS // MOMENTS], left[PAIRS // MOMENTS :]
        if time == AS_OF:  # what the store has of it need not be sent
            told = [plant.told(machine, time - LAG, ENOUGH) for machine in some]
        else:
            told = [plant.told(machine, time, SOME) for machine in some]
            for each in told[::3]:
                each["machine"] = f"new-{each['machine']}"
            for each in told[1::3]:
                del each["attributes"]
        yield some, {"as_of": text(time), "machines": told}


def test_from_readings_that_are_sent_it_is_what_is_predicted_offline(skew: Skew) -> None:
    asked, bodies = zip(*requests(skew.plant), strict=True)
    pairs = [
        (machine, datetime.fromisoformat(body["as_of"]))
        for some, body in zip(asked, bodies, strict=True)
        for machine in some
    ]
    found = skew.ask("/v1/predict/readings", bodies)
    assert Counter(each["status"] for each in found).keys() == {"ok", "degraded"}
    assert_same(found, skew.score(skew.offline(pairs)))


def test_no_feature_could_be_that_of_another_machine_without_being_noticed(skew: Skew) -> None:
    expected = skew.score(skew.newest)
    for name, values in skew.newest[[*skew.release.manifest.encoder.features]].items():
        moved = np.abs(skew.score(skew.newest.assign(**{str(name): values.shift(1)})) - expected)
        assert np.count_nonzero(moved > 1e-6) > 10, name
