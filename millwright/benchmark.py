"""The verb `benchmark`: what the project claims of its speed, measured here."""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from millwright import terminal
from millwright.configuration import nearest
from millwright.errors import ConfigurationError
from millwright.settings import REPOSITORY, state

FOLDER = REPOSITORY / "benchmarks"
ALL = "all"


def add_parser(verbs: Any) -> None:
    """Add the verb to the sub-parsers `verbs`."""
    benchmark = verbs.add_parser("benchmark", help="measure, side by side with what else there is")
    benchmark.add_argument(
        "names", nargs="+", metavar="NAME", help="scripts of benchmarks/, or all"
    )
    benchmark.add_argument("--size", choices=("quick", "full"), default="quick")
    benchmark.add_argument("--repeats", type=int, metavar="N", help="turns of each contender")
    benchmark.add_argument("--work", type=Path, metavar="FOLDER", help="where data and plots go")
    benchmark.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    benchmark.set_defaults(do=_benchmark)


def scripts() -> list[str]:
    """The names of all benchmarks.

    Raises:
        ConfigurationError: this is an installation without them.
    """
    if not FOLDER.is_dir():
        raise ConfigurationError(
            f"there is no folder {FOLDER}; run benchmarks in a checkout of the repository"
        )
    return sorted(p.stem for p in FOLDER.glob("*.py") if "\nBENCHMARKS = " in p.read_text("utf-8"))


def _benchmark(asked: argparse.Namespace) -> int:
    """0 if all went well, 3 if a claim does not hold, 1 if there is a figure that cannot be had."""
    known = scripts()
    for name in asked.names:
        if name not in (*known, ALL):
            raise ConfigurationError(
                f"there is no benchmark '{name}'; {nearest(name, [*known, ALL])}"
            )
    if asked.repeats is not None and asked.repeats < 1:
        raise ConfigurationError(f"--repeats is {asked.repeats}, and must be at least 1")
    sys.path.insert(0, str(REPOSITORY))
    trials = import_module("benchmarks.trial")
    work = (asked.work or state("local").home / "benchmarks").resolve()
    records: list[dict[str, Any]] = []
    codes = {0}
    for name in known if ALL in asked.names else dict.fromkeys(asked.names):
        module = f"benchmarks.{name}"
        for benchmark in import_module(module).BENCHMARKS:
            if isinstance(benchmark, trials.Trial):
                found, code = _tried(trials.run(benchmark, asked.size, work), work)
            else:
                found, code = _compared(module, benchmark.name, asked, work)
            records += found
            codes.add(code)
            if asked.json:  # after each, for a long run may be stopped
                terminal.write_json(asked.json, records)
    return 1 if 1 in codes else max(codes)


def _compared(
    module: str, name: str, asked: argparse.Namespace, work: Path
) -> tuple[list[dict[str, Any]], int]:
    """Have contenders take turns; their records, and the exit code."""
    harness = import_module("benchmarks.harness")
    presentation = import_module("benchmarks.presentation")
    outcome = harness.run(module, name, asked.size, work, asked.repeats)
    presentation.show(outcome)
    if not outcome.difference:
        _tell(presentation.plot(outcome, work / "plots"))
    lacking = outcome.difference or outcome.ours.seconds is None
    return presentation.records([outcome]), 1 if lacking else _code(outcome)


def _tried(tried: Any, work: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of what our service alone was put to, and the exit code."""
    tried.show()
    _tell(tried.plot(work / "plots"))
    return tried.records(), _code(tried)


def _code(found: Any) -> int:
    return 3 if False in found.claims.values() else 0


def _tell(plots: list[Path]) -> None:
    terminal.say(f"  plots: {' and '.join(map(str, plots))}")
