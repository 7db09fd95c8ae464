"""Runs Feast's universal offline-store tests: `python tests/feast_suite --feast CHECKOUT`.

The tests are those of a checkout of Feast's repository, the Feast that they test is the installed
one. What this does not know goes to pytest, such as `-k types`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="feast_suite", description=__doc__.splitlines()[0])
    parser.add_argument("--feast", type=Path, required=True, help="checkout of feast-dev/feast")
    parser.add_argument("--stores", help="with commas; ours without, Feast's own: see stores.py")
    given, rest = parser.parse_known_args()
    root = given.feast.resolve() / "sdk/python"
    suite = root / "tests/integration/offline_store"
    if not suite.is_dir():
        parser.error(f"there is no {suite}; clone https://github.com/feast-dev/feast")
    environment = os.environ | {
        "FULL_REPO_CONFIGS_MODULE": "feast_suite.stores",
        "FEAST_IS_LOCAL_TEST": "True",  # no clouds
        "IS_TEST": "True",  # no telemetry
        "PYTHONPATH": str(TESTS),
    }
    if given.stores:
        environment["FEAST_SUITE_STORES"] = given.stores
    # Neither the folder of work nor the way in which tests are imported may bring in the
    # checkout's `feast` before the installed one.
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(root)]
    command += ["--import-mode=append", "-p", "feast_suite.plugin", "-p", "no:cacheprovider"]
    command += ["--integration", "--timeout=900", "--tb=short", "-q", "-W", "ignore"]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--basetemp", f"{folder}/tests"]
        return subprocess.run([*command, *rest, str(suite)], cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
