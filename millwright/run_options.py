"""What `run.py` may be asked for, and what of it is refused before any work."""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from millwright import arguments
from millwright.configuration import nearest
from millwright.errors import ConfigurationError
from millwright.fleet import fleets_folder, load_fleet
from millwright.settings import load_settings
from millwright.views import feature_views

PIPELINES = ("ingest", "features", "training", "deployment", "inference")


def parser() -> argparse.ArgumentParser:
    """The options."""
    words = argparse.ArgumentParser(
        prog="run.py", description="Runs a pipeline.", allow_abbrev=False
    )
    words.add_argument("--pipeline", help=f"required: {', '.join(PIPELINES)}")
    words.add_argument("--fleet", default=arguments.FLEET, help="a file in configs/fleets")
    words.add_argument("--data", help="a folder of CSV or parquet files, or a database URL")
    words.add_argument(
        "--stack", help="an environment in configs/environments, for this run; else the active one"
    )
    words.add_argument(
        "--received", type=_moment, metavar="TIME",
        help="when corrections in the data became known (ISO 8601 with zone; now if not given)",
    )  # fmt: skip
    words.add_argument(
        "--release", type=arguments.version, metavar="VERSION",
        help="which release, such as v3, to deploy (the latest if not given) or to predict by (the "
        "champion)",
    )  # fmt: skip
    words.add_argument(
        "--as-of", type=_moment, metavar="TIME",
        help="a time in the past to predict as of (ISO 8601 with zone; now if not given)",
    )  # fmt: skip
    words.add_argument(
        "--check", action="store_true",
        help="run nothing: say what the environment consists of and what it still lacks",
    )  # fmt: skip
    words.add_argument(
        "--check-form", action="store_true",
        help="as --check, but for what no repository can have: variables, secrets, your own names",
    )  # fmt: skip
    words.add_argument("--json", type=Path, metavar="FILE", help="write the run's summary there")
    return words


def _moment(text: str) -> datetime:
    way_out = "write it like 2025-01-31T06:00Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no time; {way_out}") from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"'{text}' has no zone; {way_out}")
    return moment


def check(asked: argparse.Namespace, unknown: Sequence[str]) -> None:
    """Refuse what is known to be wrong before anything is read, written or imported for it.

    Raises:
        ConfigurationError: with what is wrong.
    """
    if unknown:
        options = [f"--{name.replace('_', '-')}" for name in vars(asked)]
        raise ConfigurationError(
            f"run.py has no option '{unknown[0]}'; {nearest(unknown[0], options)}"
        )
    if asked.pipeline is None:
        raise ConfigurationError(f"name a pipeline: --pipeline {', '.join(PIPELINES)}")
    if asked.pipeline not in PIPELINES:
        raise ConfigurationError(
            f"there is no pipeline '{asked.pipeline}'; {nearest(asked.pipeline, list(PIPELINES))}"
        )
    fleet = load_fleet(asked.fleet)
    for path in fleets_folder().glob("*.yaml"):
        # The feature store publishes all fleets, so all must be sound.
        feature_views(load_fleet(path.stem))
    _check_together(asked)
    if asked.stack:
        load_settings(asked.stack)
    if asked.data:
        from millwright.sources import open_source

        open_source(asked.data, fleet)
    if asked.pipeline in ("training", "deployment"):
        from millwright import asked_service

        asked_service.elsewhere()
    if asked.pipeline == "training":
        from millwright.gate import load_limits

        load_limits()
    if asked.pipeline == "inference":
        from millwright.inference.settings import load_inference

        load_inference()


def _check_together(asked: argparse.Namespace) -> None:
    """Refuse options that have no meaning together."""
    pipeline = asked.pipeline
    if asked.release and pipeline not in ("deployment", "inference"):
        raise ConfigurationError(
            "--release says what to deploy or to predict by: --pipeline deployment, or inference"
        )
    if asked.as_of and pipeline != "inference":
        raise ConfigurationError("--as-of says when to predict for: --pipeline inference")
    if asked.data and pipeline in ("deployment", "inference"):
        raise ConfigurationError(f"the pipeline {pipeline} takes no data; leave --data out")
    if asked.received and not asked.data:
        raise ConfigurationError("--received says when data became known; name them: --data PLACE")
    for option, moment in (("--received", asked.received), ("--as-of", asked.as_of)):
        if moment and moment > datetime.now(UTC):
            raise ConfigurationError(f"{option} {moment.isoformat()} lies in the future")
