"""What the service tells Prometheus."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving_parts import HOUR, NOW, ROW, Memory, loaded, whole

from millwright.serving.metrics import AGES, PROBABILITIES, Histogram, Metrics
from millwright.serving.policy import Policy
from millwright.serving.routes import Loaded, Routes
from millwright.serving.scoring import Question, Scored, Scoring
from millwright.traffic import Canary, Traffic


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Loaded]:
    folder = tmp_path_factory.mktemp("releases")
    return {version: loaded(folder, version) for version in (1, 2)}


def figures(metrics: Metrics, routes: Routes | None = None, refused: str | None = None) -> Any:
    """Each figure by its name and labels, as Prometheus reads them."""
    text = metrics.text(routes, refused).decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scored_by(routes: Routes, *machines: str) -> list[Scored]:
    store = Memory({
        "new": whole(HOUR),
        "old": whole(60 * HOUR),
        "future": (ROW, {"step": NOW, "window": NOW + HOUR, "attributes": NOW}),
    })  # fmt: skip

    class Used:
        pass

    used: Any = Used()
    used.routes = routes
    found: list[Scored] = []
    Scoring(used, store, Policy(), found.append).score([Question(machines, NOW)])
    return found


def test_machines_are_counted_by_status_release_and_role(releases: dict[int, Loaded]) -> None:
    metrics = Metrics()
    routes = Routes(releases[1], releases[2], shares=Traffic(canary=Canary(version=2, percent=100)))
    for used in (Routes(releases[1]), Routes(releases[1]), routes):
        for scored in scored_by(used, "new", "new", "old", "nobody", "future"):
            metrics.scored(scored)
    found = figures(metrics)
    for version, role, times in (("1", "champion", 2), ("2", "canary", 1)):
        for status, count in (("ok", 2), ("stale", 1), ("unknown", 1), ("degraded", 1)):
            labels = (("role", role), ("status", status), ("version", version))
            assert found["millwright_predictions_total", *labels] == count * times


def test_probabilities_and_ages_are_those_of_what_was_answered_from(
    releases: dict[int, Loaded],
) -> None:
    metrics = Metrics()
    (scored,) = scored_by(Routes(releases[1]), "new", "old", "nobody", "future")
    metrics.scored(scored)
    found = figures(metrics)
    known = scored.probabilities[~np.isnan(scored.probabilities)]
    assert found["millwright_probability_count", ("version", "1")] == len(known) == 2
    assert found["millwright_probability_sum", ("version", "1")] == pytest.approx(known.sum())
    for view, ages in (("step", (HOUR, 60 * HOUR, 0)), ("window", (HOUR, 60 * HOUR))):
        assert found["millwright_feature_age_seconds_count", ("view", view)] == len(ages)
        total = found["millwright_feature_age_seconds_sum", ("view", view)]
        assert total == pytest.approx(sum(ages) / 1e6)
    assert ("millwright_feature_age_seconds_count", ("view", "attributes")) not in found


def test_releases_in_use_and_refused_ones_are_told_as_they_are_at_the_moment(
    releases: dict[int, Loaded],
) -> None:
    metrics = Metrics(lambda: {"waiting": ("What waits", 7.0)})
    routes = Routes(releases[1], tags={"b": releases[2]}, shadows=(releases[2],))
    told = figures(metrics, routes, "why")
    info = [dict(key[1:]) for key in told if key[0] == "millwright_release_info"]
    assert [(each["role"], each["version"]) for each in info] == [
        ("champion", "1"), ("b", "2"), ("shadow", "2"),
    ]  # fmt: skip
    assert info[0]["dataset_version"] == "d1"
    assert told["millwright_release_refused",] == 1
    assert told["millwright_waiting",] == 7
    later = figures(metrics, Routes(releases[2]))
    assert [dict(key[1:])["version"] for key in later if key[0] == "millwright_release_info"] == [
        "2"
    ]
    assert later["millwright_release_refused",] == 0
    assert not [key for key in figures(metrics) if key[0] == "millwright_release_info"]


def test_a_value_counts_in_the_first_bucket_that_it_is_not_above() -> None:
    one, many = Histogram((0.1, 1)), Histogram((0.1, 1))
    values = [0.0, 0.1, np.nextafter(0.1, 1), 1.0, 5.0]
    for value in values:
        one.observe("x", value)
    many.observe_all("x", np.array(values))
    assert one.counts == many.counts == {"x": [2, 2, 1]}
    assert one.sums["x"] == pytest.approx(many.sums["x"])
    assert sorted(AGES) == [*AGES]
    assert sorted(PROBABILITIES) == [*PROBABILITIES]


def test_figures_are_those_of_one_service_whatever_mode_prometheus_is_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    one, other = Metrics(), Metrics()
    for seconds in (0.002, 0.3, 9):
        one.requested("health", 200, seconds)
    told = one.text(None, "why").decode().splitlines()
    counts = [line.split()[1] for line in told if "_seconds_bucket" in line]
    assert counts == ["0.0"] + ["1.0"] * 7 + ["2.0"] * 4 + ["3.0"]
    assert 'millwright_request_seconds_sum{endpoint="health"} 9.302' in told
    assert 'millwright_requests_total{endpoint="health",status="200"} 3.0' in told
    assert "millwright_release_refused 1.0" in told
    assert "health" not in other.text(None, None).decode()
    assert list(tmp_path.iterdir()) == []
