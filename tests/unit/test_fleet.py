"""What a fleet file may say, and what is said of one that is wrong."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from pydantic import ValidationError
from raw_tables import plant

from millwright.errors import ConfigurationError
from millwright.fields import RESERVED
from millwright.fleet import FLEETS, Simulation, fleets_folder, load_fleet

HOUR = timedelta(hours=1)
SIMULATED = (FLEETS / "simulated.yaml").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MILLWRIGHT_FLEETS", str(tmp_path))
    return tmp_path


def faults(**changes: Any) -> str:
    """What is said of the plant with `changes`."""
    with pytest.raises(ValidationError) as caught:
        plant(**changes)
    return str(caught.value)


def tables(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = plant().tables.model_dump()
    return found | changes


def features(**changes: Any) -> dict[str, Any]:
    return {"windows": ["3h"], "error_windows": ["24h"], "time_to_live": "48h"} | changes


def simulation(**changes: Any) -> Simulation:
    return Simulation.model_validate({"machines": 3, "days": 10, "start": "2025-01-01"} | changes)


@pytest.mark.parametrize("name", ["azure_pdm", "simulated"])
def test_the_fleets_of_the_repository_are_read(name: str) -> None:
    fleet = load_fleet(name)
    assert fleet.name == name
    assert fleet.table_names == ("machines", "telemetry", "errors", "maintenance", "failures")
    assert fleet.owner
    assert fleet.description


def test_a_fleet_needs_no_more_than_telemetry_and_failures() -> None:
    timed = {"machine": "id", "timestamp": "at"}
    fleet = plant(
        tables={"telemetry": {"source": "t", **timed}, "failures": {"source": "f", **timed}},
        attributes={}, error_codes=[], components=[],
    )  # fmt: skip
    assert fleet.table_names == ("telemetry", "failures")
    assert fleet.zone() is None


def test_an_unknown_fleet_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"no fleet 'simulatd'.*did you mean 'simulated'"):
        load_fleet("simulatd")


def test_fleets_are_looked_for_where_the_environment_says(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="none is defined"):
        load_fleet("simulated")
    (folder / "mine.yaml").write_text(SIMULATED.replace("name: simulated", "name: mine"))
    assert fleets_folder() == folder
    assert load_fleet("mine").name == "mine"


def test_a_fleet_is_called_as_its_file(folder: Path) -> None:
    (folder / "mine.yaml").write_text(SIMULATED)
    with pytest.raises(ConfigurationError, match=r"'name' is 'simulated' and must be 'mine'"):
        load_fleet("mine")


@pytest.mark.parametrize(
    "name", ["Volt", "2volt", "volt-a", "volt a", "_volt", "", "vôlt", "volt\n"]
)
def test_names_are_lower_case_words(name: str) -> None:
    expected = "write lower-case letters, digits and _, a letter first"
    assert expected in faults(sensors={name: {}})
    assert expected in faults(attributes={name: {"type": "number"}})
    assert expected in faults(name=name)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_names_of_our_own_columns_are_reserved(name: str) -> None:
    assert f"'{name}' is a name of Millwright's own" in faults(sensors={name: {}})
    assert f"'{name}' is a name of Millwright's own" in faults(
        attributes={name: {"type": "number"}}
    )
    plant(sensors={"heat": {"column": name}})


def test_a_sensor_and_an_attribute_need_two_names() -> None:
    assert "'age' is a sensor and an attribute" in faults(sensors={"age": {}})


def test_a_wrong_name_is_told_with_its_line(folder: Path) -> None:
    text = SIMULATED.replace("name: simulated", "name: mine").replace("  volt:", "  Volt:")
    (folder / "mine.yaml").write_text(text.replace("  age: {", "  label: {"))
    with pytest.raises(ConfigurationError) as caught:
        load_fleet("mine")
    lines = text.splitlines()
    sensor = next(i for i, line in enumerate(lines, 1) if line.startswith("  Volt:"))
    attribute = next(i for i, line in enumerate(lines, 1) if line.startswith("  age:"))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{folder}/mine.yaml:{sensor}: sensors.Volt: 'Volt' is no name;")
    assert second.startswith(f"{folder}/mine.yaml:{attribute}: attributes.label: 'label' is a name")


@pytest.mark.parametrize("span", [[5, 5], [5, 4], [0, -0.0]])
def test_a_range_rises(span: list[float]) -> None:
    assert "does not rise; write the least value first" in faults(sensors={"heat": {"range": span}})
    assert "does not rise" in faults(attributes={"age": {"type": "number", "range": span}})


@pytest.mark.parametrize("text", ["[0, .inf]", "[-.inf, 0]", "[.nan, 1]", "[0, .nan]"])
def test_a_range_is_finite(text: str) -> None:
    span = yaml.safe_load(text)
    assert "should be a finite number" in faults(sensors={"heat": {"range": span}})
    assert "finite number" in faults(attributes={"age": {"type": "number", "range": span}})


def test_nothing_stands_twice_in_a_list() -> None:
    expected = "entry 3 is the same as entry 1; keep one of them"
    assert expected in faults(error_codes=["e1", "e2", "e1"])
    assert expected in faults(components=["pump", "fan", "pump"])
    assert expected in faults(
        attributes={"model": {"type": "category", "values": ["m1", "m2", "m1"]}}
    )
    assert expected in faults(features=features(windows=["24h", "3h", "1d"]))
    assert expected in faults(features=features(error_windows=["24h", "3h", "1d"]))
    assert expected in faults(features=features(statistics=["mean", "std", "mean"]))
    assert expected in faults(features=features(step_statistics=["mean", "std", "mean"]))


def test_names_that_become_columns_differ_in_more_than_their_case() -> None:
    said = "'{}' and '{}' differ in their case alone; keep one of them"
    assert said.format("E1", "e1") in faults(error_codes=["e2", "E1", "e1"])
    assert said.format("pump", "Pump") in faults(components=["pump", "fan", "Pump"])
    plant(attributes={"model": {"type": "category", "values": ["m1", "M1"]}})


@pytest.mark.parametrize("key", ["windows", "statistics", "step_statistics"])
def test_there_are_windows_and_statistics_at_all(key: str) -> None:
    assert "at least 1 item" in faults(features=features(**{key: []}))


def test_an_attribute_fits_its_type() -> None:
    assert "a category needs its 'values'" in faults(attributes={"model": {"type": "category"}})
    for bands in ([5, 5], [10, 5]):
        assert "'bands' must rise" in faults(attributes={"age": {"type": "number", "bands": bands}})


def test_two_names_do_not_read_one_column() -> None:
    assert "'heat' and 'noise' both read column 'heat'" in faults(
        sensors={"heat": {}, "noise": {"column": "heat"}}
    )


def test_what_a_table_needs_is_there() -> None:
    empty: dict[str, Any]
    for key, table, empty in (
        ("error_codes", "tables.errors", {"error_codes": []}),
        ("features.error_windows", "tables.errors", {"features": features(error_windows=[])}),
        ("components", "tables.failures.component", {"components": []}),
        ("tables.machines", "attributes", {"tables": tables(machines=None)}),
    ):
        assert f"'{table}' needs '{key}'" in faults(**empty)
    parts = {"source": "m", "machine": "id", "timestamp": "at"}
    named = tables(maintenance=parts)
    assert "'tables.maintenance' needs 'component', the column" in faults(tables=named)
    plain = tables(maintenance=parts, failures=parts)
    assert "'tables.maintenance' needs 'components'" in faults(tables=plain, components=[])
    plant(tables=tables(failures=parts), components=[])


def test_lengths_are_whole_numbers_of_steps() -> None:
    said = faults(
        horizon="90min", lead_time="30min", features=features(windows=["3h", "100min"])
    )  # fmt: skip
    for key in ("horizon", "lead_time", "features.windows[1]"):
        assert f"'{key}' must be a whole number of steps of 1h" in said
    assert "features.windows[0]" not in said
    assert "'lead_time' must not be longer than 'horizon'" in faults(lead_time="25h")
    for window in ("12h", "24h"):
        assert "'test_window' must be longer than 'horizon'" in faults(test_window=window)
    plant(lead_time="24h", test_window="25h")
    assert "'step' must be whole seconds" in faults(step="0.5s")
    assert "the step itself" in faults(features=features(windows=["3h", "60min"]))


def test_a_fleet_is_not_called_as_a_folder_beside_it() -> None:
    assert "'mlflow' is a folder beside" in faults(name="mlflow")


def test_a_zone_has_a_name_that_is_known() -> None:
    assert plant(timezone="Europe/Berlin").zone() == ZoneInfo("Europe/Berlin")
    assert "did you mean 'Europe/Berlin'?" in faults(timezone="Europe/Berlim")


def test_a_fleet_that_steps_in_cycles_counts_them() -> None:
    fleet = plant(step="1 cycle", horizon="30 cycles", lead_time="5 cycles")
    assert fleet.counts_cycles
    assert (fleet.step, fleet.horizon, fleet.label(fleet.horizon)) == (HOUR, 30 * HOUR, "30c")
    assert not plant().counts_cycles
    # A fleet that was read counts on, whatever its step looks like by then.
    assert type(fleet).model_validate(fleet.model_dump()) == fleet


@pytest.mark.parametrize(
    "changes",
    [{"failure": 0}, {"inspection": 0}, {"planned_repair": -1}],
)
def test_costs_are_not_negative(changes: dict[str, float]) -> None:
    costs = {"failure": 20000, "planned_repair": 4000, "inspection": 500} | changes
    assert "greater than" in faults(costs=costs)


@pytest.mark.parametrize("key", ["failure", "planned_repair", "inspection"])
def test_costs_are_finite(key: str) -> None:
    costs = {"failure": 20000, "planned_repair": 4000, "inspection": 500} | {key: float("inf")}
    assert "finite number" in faults(costs=costs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "greater than or equal to 0"),
        ({"machines": 0}, "greater than 0"),
        ({"days": 0}, "greater than 0"),
        ({"gap_share": 1}, "less than 1"),
        ({"late_share": -0.1}, "greater than or equal to 0"),
        ({"drift_from_day": -1}, "greater than or equal to 0"),
        ({"drift_from_day": 10}, "'drift_from_day' must be one of the 10 days, counted from 0"),
    ],
)
def test_a_simulation_is_possible(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        simulation(**changes)


def test_a_drift_may_begin_on_any_day() -> None:
    for day in (0, 9):
        assert simulation(drift_from_day=day).drift_from_day == day
