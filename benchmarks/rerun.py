"""The training pipeline again on the same data, against its first run in an empty home.

Both are the command as it is typed, from its start to its end; the data were simulated before. Both
have to end with the same model, and say the same of it.
"""

import json
import subprocess
import sys
from collections.abc import Callable

import pandas as pd

from benchmarks import simulated
from benchmarks.benchmark import Benchmark, Case, Contender, Size, faster
from millwright.settings import REPOSITORY

AGAIN, FIRST = "the same again", "first run"
FLEET = "plant"
REFUSED = 3  # the gate did not let the model pass; with little data that is as good an end
SAID = ("dataset_version", "rows", "scores", "baselines", "threshold", "search")


def make(case: Case) -> None:
    """The simulated fleet, as large as the size says, and its data."""
    said = simulated.description()
    simulation = said["simulation"] | case.options["simulation"]
    simulated.make(case, FLEET, {**said, **case.options["fleet"], "simulation": simulation})


def _first(case: Case) -> Callable[[], object]:
    simulated.at_home(case)
    return lambda: _train(case)


def _again(case: Case) -> Callable[[], object]:
    simulated.at_home(case)
    _train(case)
    return lambda: _train(case)


def _train(case: Case) -> pd.DataFrame:
    """Run the pipeline as typed; gives what it says of data and model, a row for each figure."""
    told = case.scratch / "summary.json"
    words = (
        "--pipeline", "training", "--fleet", FLEET, "--data", str(case.data / FLEET),
        "--json", str(told),
    )  # fmt: skip
    ended = subprocess.run([sys.executable, str(REPOSITORY / "run.py"), *words], check=False)
    if ended.returncode not in (0, REFUSED):
        raise RuntimeError(f"training ended with {ended.returncode}, see above")
    summary = json.loads(told.read_text(encoding="utf-8"))
    said = pd.json_normalize({name: summary[name] for name in SAID}).iloc[0]
    return pd.DataFrame({"what": said.index, "said": said.map(str).to_list()})


BENCHMARKS = [
    Benchmark(
        "rerun",
        "training again on the same data, from the command to its table",
        make,
        [Contender(AGAIN, _again), Contender(FIRST, _first)],
        sizes={
            "quick": Size(
                {
                    "fleet": {"test_window": "25d", "anomaly": {"fit_window": "15d"}},
                    "simulation": {"machines": 30, "days": 120},
                },
                repeats=1,
                seconds=600,
            ),
            "full": Size(
                {"fleet": {}, "simulation": {}},
                repeats=1,
                seconds=1200,
                claims=[faster(FIRST, 2, ours=AGAIN)],
            ),
        },
        key=["what"],
    )
]
