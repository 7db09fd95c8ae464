"""`python -m millwright VERB`: everything that is not a pipeline."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from millwright import release, terminal
from millwright.errors import MillwrightError
from millwright.settings import state


def main(words: Sequence[str] | None = None) -> int:
    """Do what was asked for and give the exit code."""
    asked = _parse(words)
    try:
        return int(asked.do(asked))
    except MillwrightError as err:
        terminal.fail(str(err))
        return err.exit_code


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="millwright", allow_abbrev=False)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    releases = verbs.add_parser("releases", help="list and verify released models")
    actions = releases.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the releases of a fleet")
    listing.add_argument("--fleet", default="simulated")
    listing.add_argument("--stack", default="local")
    listing.set_defaults(do=_list_releases)
    verifying = actions.add_parser("verify", help="check a release and predict its examples again")
    verifying.add_argument("folder", type=Path)
    verifying.set_defaults(do=_verify_release)
    return parser.parse_args(words)


def _list_releases(asked: argparse.Namespace) -> int:
    folder = state(asked.stack).releases(asked.fleet)
    champion = release.champion(folder)
    rows = {}
    for path in sorted(folder.glob("v*"), key=lambda path: (len(path.name), path.name)):
        manifest = release.load(path).manifest
        mark = " (champion)" if path == champion else ""
        rows[path.name + mark] = f"{manifest.name} on dataset {manifest.dataset_version}"
    terminal.show_table(f"releases of fleet {asked.fleet}", rows or {"none": "train a model first"})
    return 0


def _verify_release(asked: argparse.Namespace) -> int:
    count = release.verify(asked.folder)
    terminal.say(f"{asked.folder}: whole, and {count} examples predicted as when it was written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
