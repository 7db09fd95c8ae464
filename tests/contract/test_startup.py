"""What a process imports before it works, and what it leaves out, each in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from millwright.settings import REPOSITORY

TTL = "ttl=view.time_to_live or timedelta(0)"
ROOMS = ("run", *(f"millwright.{name}" for name in ("__main__", "project", "release", "anomaly")))
HEAVY = {"feast", "mlflow", "skops", "sklearn", "xgboost", "zenml"}
TYPED = """
from millwright import commands
try:
    commands.feast({})
except SystemExit:
    pass
from feast import FeatureView
print(*FeatureView.__init__.__code__.co_names)
"""
CHECK = """
import json, sys
from pathlib import Path
from millwright.check import definitions
definitions.FEATURE_REPO = Path(sys.argv[1])
print(json.dumps([vars(each) for each in definitions._tried(definitions._definitions, "there")]))
"""
PUBLISH = """
import sys
from pathlib import Path
from millwright import startup
startup.leave_feast_unchecked()
from millwright import feast_store, process
from millwright.errors import ConfigurationError
from millwright.settings import state
feast_store.FEATURE_REPO = Path(sys.argv[1])
process.prepare(state("local"))
try:
    print(feast_store.apply(state("local")))
except ConfigurationError as err:
    print(err)
"""
ALONE = """
import json, sys
from millwright import startup
startup.import_xgboost_alone()
left_out = [name for name in ("pandas", "sklearn") if name not in sys.modules]
import numpy, xgboost
from sklearn.ensemble import IsolationForest
from millwright.trees import contributions, predict
rows = numpy.random.default_rng(1).normal(size=(200, 3)).astype(numpy.float32)
booster = xgboost.train({"objective": "binary:logistic", "seed": 1, "nthread": 1},
                        xgboost.DMatrix(rows, rows[:, 0] > 0), 3)
IsolationForest().fit(rows)
made = [each(booster, rows).tolist() for each in (predict, contributions)]
print(json.dumps([left_out, *made]))
"""
OTHERS = """
from millwright import startup
startup.leave_feast_unchecked()
from typeguard import TypeCheckError, typechecked
@typechecked
def plain(number: int) -> None: ...
@typechecked()
def called(number: int) -> None: ...
for function in (plain, called):
    try:
        function("one")
    except TypeCheckError:
        print("refused")
"""
INTEGRATIONS = """
import sys
from zenml.integrations.registry import integration_registry
from millwright import integrations
integrations.leave_idle()
integrations.leave_idle()
integration_registry.activate_integrations()
print(*sorted({"polars", "sklearn", "xgboost"} & set(sys.modules)) or ["none"])
import xgboost
integration_registry.activate_integrations()
from zenml.materializers.materializer_registry import materializer_registry
print(materializer_registry[xgboost.Booster].__name__)
"""


def said(code: str, *words: str, **variables: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The definitions of the repository, with a time to live that is a text."""
    folder = tmp_path_factory.mktemp("definitions") / "feature_repo"
    shutil.copytree(REPOSITORY / "feature_repo", folder)
    views = folder / "feature_views.py"
    text = views.read_text(encoding="utf-8")
    views.write_text(
        text.replace("ttl=view.time_to_live or timedelta(0)", 'ttl="7d"'), encoding="utf-8"
    )
    assert views.read_text(encoding="utf-8") != text
    return folder


@pytest.mark.parametrize(
    "module",
    [
        "run",
        "millwright.__main__",
        "millwright.project",
        "millwright.release",
        "millwright.anomaly",
    ],
)
def test_what_takes_seconds_to_import_waits_until_it_is_needed(module: str) -> None:
    loaded = said(f"import sys, {module}; print(*sys.modules)").split()
    assert module in loaded
    assert HEAVY.isdisjoint(loaded)


def test_feast_is_not_compiled_anew_in_a_process_of_ours() -> None:
    code = "{}from feast import FeatureView; print(*FeatureView.__init__.__code__.co_names)"
    begin = "from millwright import startup; startup.leave_feast_unchecked(); "
    assert "TypeCheckMemo" not in said(code.format(begin)).split()
    assert "TypeCheckMemo" in said(code.format("")).split()


def test_what_is_not_feasts_is_checked_as_before(tmp_path: Path) -> None:
    module = tmp_path / "others.py"  # a file, because typeguard reads the source
    module.write_text(OTHERS, encoding="utf-8")
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    assert said(code, str(module)).split() == ["refused", "refused"]


def test_the_check_finds_a_definition_of_a_wrong_type(wrong: Path) -> None:
    assert r"argument \"ttl\" (str)" in said(CHECK, str(wrong))
    assert said(CHECK, str(REPOSITORY / "feature_repo")) == "[]"


def test_a_wrong_definition_is_not_published_and_the_way_to_its_place_is_told(
    wrong: Path, tmp_path: Path
) -> None:
    refusal = said(PUBLISH, str(wrong), MILLWRIGHT_HOME=str(tmp_path / "home"))
    assert refusal.startswith(f"the definitions in {wrong} cannot be published: ")
    assert refusal.endswith("see where that is: feast plan")


def test_zenml_imports_only_what_a_step_may_return(tmp_path: Path) -> None:
    words = said(INTEGRATIONS, ZENML_CONFIG_PATH=str(tmp_path), ZENML_ANALYTICS_OPT_IN="false")
    assert words.split() == ["none", "XgboostBoosterMaterializer"]


@pytest.mark.parametrize(
    "code",
    [
        "import argparse, millwright.__main__ as ours\n"
        "ours._parse = lambda _: argparse.Namespace(do=stop)\n"
        "sys.exit(ours.main())",
        "import millwright.commands as ours\nours.chosen = stop\nsys.exit(ours.feast())",
    ],
)
def test_an_interrupted_command_says_so_in_one_line(code: str) -> None:
    begin = "import sys\ndef stop(_):\n    raise KeyboardInterrupt\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: interrupted")


def test_a_service_imports_xgboost_without_scikit_learn_and_predicts_the_same() -> None:
    left_out, *alone = json.loads(said(ALONE))
    assert left_out == ["pandas", "sklearn"]
    _, *beside = json.loads(said(ALONE.replace("startup.import_xgboost_alone()", "import xgboost")))
    assert alone == beside


@pytest.mark.parametrize(("typed", "checked"), [(["version"], False), (["apply", "--help"], True)])
def test_feast_checks_types_where_it_reads_definitions(typed: list[str], checked: bool) -> None:
    told = said(TYPED.format(typed))
    assert ("TypeCheckMemo" in told.splitlines()[-1].split()) is checked
