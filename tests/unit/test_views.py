from collections.abc import Sequence
from datetime import timedelta

import pytest

from millwright.errors import ConfigurationError
from millwright.fleet import Fleet, load_fleet
from millwright.views import (
    detector_view,
    feature_views,
    model_features,
    published,
    service_name,
)

PDM = load_fleet("azure_pdm")
HOUR = timedelta(hours=1)


def changed(fleet: Fleet, without: Sequence[str] = (), **changes: object) -> Fleet:
    """The fleet with other keys, and without some tables."""
    tables = fleet.tables.model_copy(update=dict.fromkeys(without))
    return fleet.model_copy(update={"tables": tables, **changes})


def names(fleet: Fleet) -> list[str]:
    return [view.name for view in feature_views(fleet)]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("comp1_age", "component_age"),
        ("volt_mean_24h", "sensor_window_24h"),
        ("error1_count_24h", "error_counts_24h"),
    ],
)
def test_no_two_features_have_one_name(name: str, other: str) -> None:
    attributes = PDM.attributes | {name: PDM.attributes["age"]}
    with pytest.raises(ConfigurationError, match=f"'{name}' would be a feature of '{other}' and"):
        feature_views(changed(PDM, attributes=attributes))


def test_a_fleet_has_a_view_for_each_kind_and_window() -> None:
    assert names(PDM) == [
        "sensor_step",
        "sensor_window_3h",
        "sensor_window_24h",
        "error_counts_24h",
        "component_age",
        "machine_attributes",
        "anomaly",
    ]


def test_a_fleet_without_the_optional_tables_has_sensor_views_alone() -> None:
    bare = changed(PDM, without=("errors", "maintenance", "machines"), attributes={})
    assert names(bare) == ["sensor_step", "sensor_window_3h", "sensor_window_24h", "anomaly"]


def test_every_feature_belongs_to_one_view() -> None:
    features = [name for view in feature_views(PDM) for name in view.features]
    assert len(features) == len(set(features))
    assert list(model_features(PDM)) == features


def test_a_feature_is_named_after_what_is_measured_how_and_for_how_long() -> None:
    features = model_features(PDM)
    for name in ("volt_mean_1h", "rotate_slope_24h", "error5_count_24h", "comp4_age"):
        assert features[name] == "float32"
    assert features["model"] == "string"
    assert features["age"] == "float32"
    assert features["anomaly_score"] == "float32"


def test_views_read_tables_that_the_fleet_has() -> None:
    for view in feature_views(PDM):
        assert set(view.sources) <= set(PDM.table_names), view.name


def test_a_row_reaches_as_far_as_the_window_that_counts_it() -> None:
    views = {view.name: view for view in feature_views(PDM)}
    assert views["sensor_step"].reach == HOUR
    assert views["sensor_window_3h"].reach == views["sensor_window_3h"].window == 3 * HOUR
    assert views["error_counts_24h"].reach == 24 * HOUR
    assert views["component_age"].reach is None
    assert views["anomaly"].reach == detector_view(PDM).reach


def test_only_attributes_never_grow_too_old() -> None:
    ages = {view.name: view.time_to_live for view in feature_views(PDM)}
    assert ages.pop("machine_attributes") is None
    assert set(ages.values()) == {PDM.features.time_to_live}


@pytest.mark.parametrize("windows", [(3, 24), (24, 3)])
def test_the_detector_reads_the_longest_window_wherever_it_stands(windows: tuple[int, int]) -> None:
    lengths = tuple(hours * HOUR for hours in windows)
    fleet = changed(PDM, features=PDM.features.model_copy(update={"windows": lengths}))
    assert detector_view(fleet).name == "sensor_window_24h"
    order = names(fleet)
    assert order.index("sensor_window_24h") < order.index("anomaly")


def test_a_fleet_that_counts_cycles_says_so() -> None:
    cycles = changed(PDM, counts_cycles=True)
    views = {view.name: view for view in feature_views(cycles)}
    assert views["component_age"].description == "Cycles since each component was replaced"
    assert "volt_std_24c" in views["sensor_window_24c"].features


def test_fleets_share_a_registry_under_names_of_their_own() -> None:
    assert published(PDM, "anomaly") == "azure_pdm_anomaly"
    assert service_name(PDM, "failure").startswith("azure_pdm_failure_v")
    assert service_name(PDM, "anomaly") != service_name(PDM, "failure")
