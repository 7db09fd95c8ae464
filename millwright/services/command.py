"""The verb `services`: the servers of an environment that has some."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from millwright import terminal
from millwright.configuration import nearest
from millwright.errors import ConfigurationError, MillwrightError
from millwright.settings import State, load_settings, state


def add_parser(verbs: Any) -> None:
    """Add the verb to the sub-parsers `verbs`."""
    services = verbs.add_parser("services", help="start and stop the servers of an environment")
    actions = services.add_subparsers(required=True, metavar="ACTION")
    _add(actions, "up", "start what does not run, and wait until it answers", _up)
    _add(actions, "down", "stop what was started here", _down)
    _add(actions, "status", "say what runs and answers; exit code 0 if all does", _status)
    logs = _add(actions, "logs", "print the end of a server's log", _logs)
    logs.add_argument("server", nargs="?", metavar="SERVER", help="without it: where the logs are")
    logs.add_argument("--lines", type=int, default=40, metavar="N")


def _add(
    actions: Any, name: str, summary: str, do: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary)
    parser.add_argument("--stack", default="staging", help="an environment (default: staging)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is found there")
    parser.set_defaults(do=do)
    return parser


def _up(asked: argparse.Namespace) -> int:
    from millwright.services.lifecycle import up

    where, may_start = _environment(asked.stack)
    try:
        up(where, terminal.say, may_start=may_start)
    except OSError as err:
        raise MillwrightError(f"the servers cannot be started: {err}") from err
    except KeyboardInterrupt:
        terminal.fail("interrupted; what was started goes on, and the same command does the rest")
        return 130
    return _report(asked, where)


def _down(asked: argparse.Namespace) -> int:
    from millwright.services.lifecycle import down

    where, _ = _environment(asked.stack)
    down(where, terminal.say)
    if asked.json:
        _report(asked, where)
    return 0


def _status(asked: argparse.Namespace) -> int:
    where, _ = _environment(asked.stack)
    return _report(asked, where)


def _report(asked: argparse.Namespace, where: State) -> int:
    """Show the table, write the summary; 0 if all servers answer."""
    from millwright.services.status import status, table

    found = status(where)
    terminal.show_table(f"servers of environment {asked.stack}", table(found))
    if asked.json:
        terminal.write_json(
            asked.json,
            {
                "environment": asked.stack,
                "servers": {each.name: each.summary() for each in found},
            },
        )
    return 0 if all(each.answers for each in found) else 1


def _logs(asked: argparse.Namespace) -> int:
    from millwright.services.status import end_of_log, logs

    where, _ = _environment(asked.stack)
    files = logs(where)
    if asked.server is None:
        terminal.show_table(
            f"logs of environment {asked.stack}",
            {name: str(path) if path.is_file() else "none yet" for name, path in files.items()},
        )
    elif asked.server not in files:
        raise ConfigurationError(
            f"there is no server '{asked.server}'; {nearest(asked.server, list(files))}"
        )
    elif asked.lines < 1:
        raise ConfigurationError(f"--lines is {asked.lines}, and must be at least 1")
    else:
        sys.stdout.write(end_of_log(where, asked.server, asked.lines) + "\n")
    if asked.json:
        terminal.write_json(asked.json, {name: str(path) for name, path in files.items()})
    return 0


def _environment(name: str) -> tuple[State, bool]:
    """The state of an environment that has servers, and whether they may be started here."""
    servers = load_settings(name).servers
    if servers == "none":
        raise ConfigurationError(
            f"environment '{name}' has no servers: it needs none; choose one that has some with "
            "--stack staging"
        )
    return state(name), servers == "here"
