"""`python -m millwright VERB`: everything that is not a pipeline."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from millwright import benchmark, durations, release_commands, stack_file, startup, terminal
from millwright.arguments import FLEET
from millwright.doctor import command as doctor
from millwright.errors import ConfigurationError, MillwrightError
from millwright.fleet import Simulation, load_fleet
from millwright.keys import command as keys
from millwright.prediction_log import command as predictions
from millwright.process import prepare, settle
from millwright.services import command as services
from millwright.serving import command as serving
from millwright.settings import State, environments, load_settings, state
from millwright.simulator import simulate


def main(words: Sequence[str] | None = None) -> int:
    """Do what was asked for and give the exit code."""
    startup.import_quickly()
    startup.leave_feast_unchecked()
    asked = _parse(words)
    try:
        return int(asked.do(asked))
    except MillwrightError as err:
        terminal.fail(str(err))
        return err.exit_code
    except KeyboardInterrupt:
        terminal.fail("interrupted; the same command again goes on from here")
        return 130


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m millwright", allow_abbrev=False)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    making = verbs.add_parser("simulate", help="write the raw tables of a made-up fleet")
    making.add_argument("folder", type=Path, help="where the tables go")
    making.add_argument("--fleet", default=FLEET, help="whose tables and sensors they have")
    making.add_argument("--machines", type=int)
    making.add_argument("--days", type=int)
    making.add_argument("--start", metavar="DATE")
    making.add_argument("--seed", type=int)
    making.add_argument("--reading-interval", metavar="LENGTH", help="such as 1min")
    making.add_argument("--gap-share", type=float, help="readings that were never sent")
    making.add_argument("--late-share", type=float, help="readings that came hours late")
    making.add_argument("--drift-from-day", type=int, help="when calibrations begin to drift")
    making.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    making.set_defaults(do=_simulate)

    stacks = verbs.add_parser("stacks", help="register the ZenML stacks of the environments")
    stacks.add_argument(
        "--stack", help="this one alone; production is left out without its variables"
    )
    stacks.set_defaults(do=_register_stacks)

    services.add_parser(verbs)
    doctor.add_parser(verbs)
    serving.add_parser(verbs)
    keys.add_parser(verbs)
    predictions.add_parser(verbs)
    benchmark.add_parser(verbs)

    release_commands.add_parser(verbs)
    return parser.parse_args(words)


def _simulate(asked: argparse.Namespace) -> int:
    fleet = load_fleet(asked.fleet)
    usual = fleet.simulation.model_dump() if fleet.simulation else {}
    given = {name: getattr(asked, name) for name in Simulation.model_fields}
    try:
        simulation = Simulation.model_validate(
            {**usual, **{name: value for name, value in given.items() if value is not None}}
        )
    except ValidationError as err:
        faults = "; ".join(
            f"--{'.'.join(map(str, fault['loc'])).replace('_', '-')}: {fault['msg']}"
            for fault in err.errors()
        )
        raise ConfigurationError(f"cannot simulate that: {faults}") from err
    with terminal.progress() as show:
        simulate(
            fleet, simulation, asked.folder, file_format=asked.format,
            progress=lambda done, total: show("machines", done, total),
        )  # fmt: skip
    interval = durations.label(simulation.reading_interval or fleet.step, fleet.counts_cycles)
    terminal.show_table(
        f"simulated fleet {fleet.name}",
        {
            "machines": f"{simulation.machines:,} with {len(fleet.sensors)} sensors",
            "days": f"{simulation.days} from {simulation.start:%Y-%m-%d}",
            "readings": f"every {interval}",
            "folder": str(asked.folder),
            "next": f"python run.py --pipeline training --fleet {fleet.name} --data {asked.folder}",
        },
    )
    return 0


def _register_stacks(asked: argparse.Namespace) -> int:
    settle()
    rows = {}
    for name in [asked.stack] if asked.stack else environments():
        load_settings(name)  # there must be such an environment
        try:
            rows[name] = _register_stack(state(name))
        except ConfigurationError as err:
            if asked.stack:
                raise
            rows[name] = f"left out: {err}"
    terminal.show_table("ZenML stacks", rows)
    return 0


def _register_stack(state: State) -> str:
    stack_file.read(state.environment, state)
    prepare(state)
    from millwright import stack

    return stack.register(state.environment, state)


if __name__ == "__main__":
    sys.exit(main())
