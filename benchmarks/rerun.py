"""The training pipeline again on the same data, against its first run in an empty home.

Both are the command as it is typed, from its start to its end; the data were simulated before. Both
have to end with the same model, and say the same of it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pandas as pd
import yaml

from benchmarks.benchmark import Benchmark, Case, Contender, Size, faster
from millwright.fleet import load_fleet
from millwright.settings import REPOSITORY
from millwright.simulator import simulate

AGAIN, FIRST = "the same again", "first run"
FLEET = "plant"
REFUSED = 3  # the gate did not let the model pass; with little data that is as good an end
SAID = ("dataset_version", "rows", "scores", "baselines", "threshold", "search")


def make(case: Case) -> None:
    """The simulated fleet, as large as the size says, and its data."""
    written = yaml.safe_load((REPOSITORY / "configs/fleets/simulated.yaml").read_text("utf-8"))
    simulation = written["simulation"] | case.options["simulation"]
    fleet = written | case.options["fleet"] | {"name": FLEET, "simulation": simulation}
    fleets = case.data / "fleets"
    fleets.mkdir()
    (fleets / f"{FLEET}.yaml").write_text(yaml.safe_dump(fleet), encoding="utf-8")
    os.environ["MILLWRIGHT_FLEETS"] = str(fleets)
    loaded = load_fleet(FLEET)
    if loaded.simulation:
        simulate(loaded, loaded.simulation, case.data / "raw")


def _first(case: Case) -> Callable[[], object]:
    return lambda: _train(case)


def _again(case: Case) -> Callable[[], object]:
    _train(case)
    return lambda: _train(case)


def _train(case: Case) -> pd.DataFrame:
    """Run the pipeline as typed; gives what it says of data and model, a row for each figure."""
    told = case.scratch / "summary.json"
    ended = subprocess.run(
        [
            sys.executable, str(REPOSITORY / "run.py"), "--pipeline", "training",
            "--fleet", FLEET, "--data", str(case.data / "raw"), "--json", str(told),
        ],
        env={
            **os.environ,
            "MILLWRIGHT_FLEETS": str(case.data / "fleets"),
            "MILLWRIGHT_HOME": str(case.scratch / "home"),
        },
        check=False,
    )  # fmt: skip
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
