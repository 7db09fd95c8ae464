"""What `load` says of configuration files that are wrong, of every kind that there is."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from millwright.configuration import Strict, load, nearest
from millwright.errors import ConfigurationError
from millwright.fleet import Fleet
from millwright.gate import Limits
from millwright.inference.settings import Inference
from millwright.project import Training
from millwright.settings import REPOSITORY, Settings
from millwright.stack_file import StackFile


class Engine(Strict):
    power: int
    fuel: str = "diesel"


class Wagon(Strict):
    seats: int


class Train(Strict):
    engine: Engine
    wagons: tuple[Wagon, ...] = ()
    crew: dict[str, Wagon] = Field(default_factory=dict)
    spare: Engine | None = None
    built: date | None = None


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        path = tmp_path / "train.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def refusal(path: Path, section: type[BaseModel] = Train) -> list[str]:
    """The lines of the message with which `path` is refused, without the folder."""
    with pytest.raises(ConfigurationError) as caught:
        load(path, section)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_a_file_becomes_an_object_that_nobody_can_change(write: Write) -> None:
    train = load(write("engine: {power: 3}\nwagons: [{seats: 5}]\n"), Train)
    assert train == Train(engine=Engine(power=3), wagons=(Wagon(seats=5),))
    with pytest.raises(ValueError, match="frozen"):
        train.engine.power = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "line", "key", "meant"),
    [
        ("engine: {power: 3}\nwagon: []\n", 2, "wagon", "wagons"),
        ("engine:\n  power: 3\n  feul: coal\n", 3, "engine.feul", "fuel"),
        ("engine: {power: 3}\nwagons:\n- seats: 1\n- seats: 2\n  seat: 3\n", 5,
         "wagons.1.seat", "seats"),
        ("engine: {power: 3}\ncrew:\n  anna:\n    seats: 1\n    saets: 2\n", 5,
         "crew.anna.saets", "seats"),
        ("engine: {power: 3}\nspare:\n  power: 1\n  powr: 1\n", 4, "spare.powr", "power"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_at_any_depth(
    write: Write, text: str, line: int, key: str, meant: str
) -> None:
    assert refusal(write(text)) == [
        f"train.yaml:{line}: unknown key '{key}'; did you mean '{meant}'?"
    ]


def test_a_key_like_no_other_is_answered_with_those_that_there_are(write: Write) -> None:
    assert refusal(write("engine:\n  power: 3\n  xyzzy: 1\n")) == [
        "train.yaml:3: unknown key 'engine.xyzzy'; valid names: power, fuel"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine: {power: 3}\nengine: {power: 4}\n",
         "train.yaml:2: 'engine' is named twice, first on line 1; keep one of them"),
        ("engine:\n  power: 3\n  fuel: coal\n  power: 4\n",
         "train.yaml:4: 'power' is named twice, first on line 2; keep one of them"),
        ("engine: {power: 3}\nwagons:\n- seats: 1\n  seats: 2\n",
         "train.yaml:4: 'seats' is named twice, first on line 3; keep one of them"),
    ],
)  # fmt: skip
def test_a_key_must_not_stand_twice(write: Write, text: str, message: str) -> None:
    assert refusal(write(text)) == [message]


def test_the_same_key_may_stand_in_two_sections(write: Write) -> None:
    train = load(write("engine: {power: 3}\nspare: {power: 4}\n"), Train)
    assert (train.engine.power, train.spare and train.spare.power) == (3, 4)


@pytest.mark.parametrize(
    "text",
    ["engine: [power\n", "engine:\n\tpower: 3\n", "a: 1\n---\nb: 2\n", "? [a]\n: b\n", "a: \0"],
)
def test_what_is_not_yaml_is_refused(write: Write, text: str) -> None:
    (fault,) = refusal(write(text))
    assert re.match(r"train\.yaml(:\d+:| is) not valid YAML: ", fault)


def test_what_is_not_yaml_is_refused_with_its_line(write: Write) -> None:
    (fault,) = refusal(write("engine:\n  power: 3\n  fuel: [a, b\nwagons: 2\n"))
    assert fault.startswith("train.yaml:4: not valid YAML: while parsing a flow sequence")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "just words\n", "- a\n- b\n", "7\n"])
def test_what_is_not_a_mapping_is_refused(write: Write, text: str) -> None:
    assert refusal(write(text)) == ["train.yaml must be a mapping of keys to values, and is not"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"engine: \xff\xfe\n")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("absent.yaml", "folder.yaml", "bytes.yaml"):
        assert refusal(tmp_path / name)[0].startswith(f"cannot read {name}: ")


def test_every_fault_is_told_at_once_each_with_its_line(write: Write) -> None:
    text = "engine:\n  power: many\n  feul: coal\nwagons:\n- seat: 4\ncolour: red\n"
    assert refusal(write(text)) == [
        "train.yaml:2: engine.power: Input should be a valid integer, "
        "unable to parse string as an integer",
        "train.yaml:3: unknown key 'engine.feul'; did you mean 'fuel'?",
        "train.yaml:5: 'wagons.0.seats' is missing; add it",
        "train.yaml:5: unknown key 'wagons.0.seat'; did you mean 'seats'?",
        "train.yaml:6: unknown key 'colour'; valid names: engine, wagons, crew, spare, built",
    ]


def test_keys_that_are_no_text_are_refused(write: Write) -> None:
    assert refusal(write("engine:\n  power: 3\n  on: 1\n"))[0].startswith("train.yaml:")
    assert refusal(write("engine: {power: 3}\n2: 1\n"))[0].startswith("train.yaml:")


def test_a_date_that_does_not_exist_is_refused_with_its_line(write: Write) -> None:
    assert load(write("engine: {power: 3}\nbuilt: 2025-02-28\n"), Train).built == date(2025, 2, 28)
    (fault,) = refusal(write("engine: {power: 3}\nbuilt: 2025-02-30\n"))
    assert fault.startswith("train.yaml:2: built: Input should be a valid date")


def test_a_file_that_contains_itself_is_refused(write: Write) -> None:
    (fault,) = refusal(write("name: &all\n  part: *all\n"), Training)
    assert "is nested without end" in fault


def test_the_nearest_name_is_suggested() -> None:
    assert nearest("trainnig", ["ingest", "training"]) == "did you mean 'training'?"
    assert nearest("x", ["ingest", "training"]) == "valid names: ingest, training"
    assert nearest("x", []) == "none is defined"
    many = [str(number) for number in range(1, 31)]
    assert nearest("x", many).endswith("11, 12 and 18 more")


CONFIGS = REPOSITORY / "configs"
KINDS = [
    (CONFIGS / "fleets/simulated.yaml", Fleet, "horizon:", "horizont:", "horizont", "horizon"),
    (CONFIGS / "fleets/simulated.yaml", Fleet, "unit: V", "units: V", "sensors.volt.units", "unit"),
    (CONFIGS / "fleets/simulated.yaml", Fleet, "bands: [5", "band: [5",
     "attributes.age.band", "bands"),
    (CONFIGS / "fleets/simulated.yaml", Fleet, "errors: {source:", "errors: {sources:",
     "tables.errors.sources", "source"),
    (CONFIGS / "fleets/simulated.yaml", Fleet, "  gap_share:", "  gapshare:",
     "simulation.gapshare", "gap_share"),
    (CONFIGS / "environments/local/settings.yaml", Settings, "report_rows:", "reports_rows:",
     "reports_rows", "report_rows"),
    (CONFIGS / "environments/local/settings.yaml", Settings, "  threads:", "  thread:",
     "engine.thread", "threads"),
    (CONFIGS / "pipelines/training.yaml", Training, "seed:", "sead:", "sead", "seed"),
    (CONFIGS / "pipelines/training.yaml", Training, "  share:", "  shares:",
     "folds.shares", "share"),
    (CONFIGS / "pipelines/gate.yaml", Limits, "minimum_roc_auc:", "minimum_auc:",
     "minimum_auc", "minimum_roc_auc"),
    (CONFIGS / "pipelines/gate.yaml", Limits, "  cost_margin: 0.05", "  cost_margins: 0.05",
     "baselines.cost_margins", "cost_margin"),
    (CONFIGS / "environments/local/stack.yaml", StackFile, "stack_name:", "stackname:",
     "stackname", "stack_name"),
    (CONFIGS / "environments/local/stack.yaml", StackFile, "    flavor: mlflow\n    configuration:"
     "\n      tracking_uri", "    flavour: mlflow\n    configuration:\n      tracking_uri",
     "components.experiment_tracker.flavour", "flavor"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "section", "right", "wrong", "key", "meant"), KINDS)
def test_a_misspelt_key_is_refused_in_every_kind_of_file(
    write: Write, path: Path, section: type[BaseModel], right: str, wrong: str, key: str, meant: str
) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(right) == 1
    line = text[: text.index(right)].count("\n") + 1
    load(path, section)
    assert f"train.yaml:{line}: unknown key '{key}'; did you mean '{meant}'?" in refusal(
        write(text.replace(right, wrong)), section
    )


def test_faults_of_keys_together_stand_each_on_its_line(write: Write) -> None:
    text = (CONFIGS / "fleets/simulated.yaml").read_text(encoding="utf-8")
    wrong = text.replace("lead_time: 4h", "lead_time: 250h")
    wrong = wrong.replace("test_window: 73d", "test_window: 1h")
    assert wrong.count("250h") == wrong.count("test_window: 1h") == 1
    lines = wrong.splitlines()
    faults = refusal(write(wrong), Fleet)
    assert [int(fault.split(":")[1]) for fault in faults] == [
        next(n for n, line in enumerate(lines, 1) if line.startswith(key))
        for key in ("lead_time", "test_window")
    ]


def test_every_configuration_file_of_the_repository_is_read_by_a_section() -> None:
    sections: dict[str, type[BaseModel]] = {
        "fleets": Fleet, "settings.yaml": Settings, "stack.yaml": StackFile,
        "training.yaml": Training, "gate.yaml": Limits, "inference.yaml": Inference,
    }  # fmt: skip
    # Feast reads its own, with what this machine has in place of its variables.
    for path in set(CONFIGS.rglob("*.yaml")) - set(CONFIGS.rglob("feature_store.yaml")):
        load(path, sections.get(path.name, sections.get(path.parent.name, BaseModel)))


def test_a_time_in_a_fleet_file_may_carry_a_zone_or_mean_utc(write: Write) -> None:
    text = (CONFIGS / "fleets/simulated.yaml").read_text(encoding="utf-8")
    for written in ("2025-01-01", "2025-01-01T00:00:00Z", "2025-01-01 02:00:00+02:00"):
        fleet = load(write(text.replace("start: 2025-01-01", f"start: {written}")), Fleet)
        assert fleet.simulation is not None
        assert fleet.simulation.start == datetime(2025, 1, 1, tzinfo=UTC)
