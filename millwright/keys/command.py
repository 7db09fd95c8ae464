"""The verb `keys`: who may ask the prediction service. It hears of each change within a second."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from millwright import terminal
from millwright.errors import ConfigurationError, MillwrightError
from millwright.keys import file
from millwright.keys.book import Book
from millwright.keys.key import NAME, Key, Role
from millwright.process import VARIABLE, settle
from millwright.settings import load_settings, state

MOST_DAYS = 3650
GRACE, MOST_GRACE = 60, 24 * 60  # minutes


def add_parser(verbs: Any) -> None:
    """Add the verb to the sub-parsers `verbs`."""
    keys = verbs.add_parser("keys", help="who may ask the prediction service")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    adding = _add(actions, "add", "make a key, and print it this once", _add_key)
    adding.add_argument("name", metavar="NAME", help="of its client, for lists and logs")
    adding.add_argument(
        "--role", required=True, choices=get_args(Role), help="operate may change releases too"
    )
    adding.add_argument("--expires", type=int, metavar="DAYS", help="without it: never")
    _add(actions, "list", "the keys, without what their clients show", _list)
    rotating = _add(actions, "rotate", "make another key for a name; the former ends", _rotate)
    rotating.add_argument("name", metavar="NAME")
    rotating.add_argument(
        "--grace", type=int, default=GRACE, metavar="MINUTES",
        help=f"that the former goes on for, at most {MOST_GRACE} (default: {GRACE})",
    )  # fmt: skip
    revoking = _add(actions, "revoke", "end all keys of a name, at once", _revoke)
    revoking.add_argument("name", metavar="NAME")


def _add(
    actions: Any, name: str, summary: str, do: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary)
    usual = os.environ.get(VARIABLE, "local")
    parser.add_argument(
        "--stack", default=usual, help=f"the environment, chosen as for serve (now: {usual})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is found there")
    parser.set_defaults(do=do)
    return parser


def _add_key(asked: argparse.Namespace) -> int:
    if not re.fullmatch(NAME, asked.name):
        raise ConfigurationError(
            f"'{asked.name}' is no name of a key; write letters, digits, '.', '_' and '-', a "
            "letter or digit first, 64 at most"
        )
    if asked.expires is not None and not 0 < asked.expires <= MOST_DAYS:
        raise ConfigurationError(
            f"--expires is {asked.expires}, and must be 1 to {MOST_DAYS} days; without it the key "
            "does not expire"
        )
    life = timedelta(days=asked.expires) if asked.expires else None
    return _made(
        asked, _place(asked), lambda book, now: book.added(asked.name, asked.role, now, life)
    )


def _rotate(asked: argparse.Namespace) -> int:
    if not 0 <= asked.grace <= MOST_GRACE:
        raise ConfigurationError(
            f"--grace is {asked.grace}, and must be 0 to {MOST_GRACE} minutes, which are a day"
        )
    grace = timedelta(minutes=asked.grace)
    return _made(asked, _known(asked), lambda book, now: book.rotated(asked.name, now, grace))


def _revoke(asked: argparse.Namespace) -> int:
    path = _known(asked)
    with file.changing(path, terminal.say) as write:
        book = file.there(path)
        left = book.revoked(asked.name, datetime.now(UTC))
        if left is not book:
            write(left)
    terminal.say(f"key '{asked.name}' is revoked in environment {asked.stack}")
    return _report(asked, left)


def _list(asked: argparse.Namespace) -> int:
    path, now = _place(asked), datetime.now(UTC)
    book = file.there(path)
    rows = {f"{key.name} ({key.id})": _described(key, now) for key in book.keys}
    none = {"none": f"make one: python -m millwright keys add NAME --role {get_args(Role)[0]}"}
    terminal.show_table(f"keys of environment {asked.stack}", rows or none)
    return _report(asked, book)


def _made(
    asked: argparse.Namespace,
    path: Path,
    change: Callable[[Book, datetime], tuple[Book, Key, str]],
) -> int:
    """Keep a new key, and show it once it is kept."""
    with file.changing(path, terminal.say) as write:
        book, key, shown = change(file.there(path), datetime.now(UTC))
        write(book)
    try:
        sys.stdout.write(f"{shown}\n")
        sys.stdout.flush()
    except OSError as err:
        raise MillwrightError(
            f"the key could not be shown: {err.strerror}; make another: python -m millwright keys "
            f"rotate {key.name} --grace 0"
        ) from err
    terminal.say(
        f"this is key '{key.name}' of environment {asked.stack}, role {key.role}; keep it: it is "
        "not kept here, and never shown again"
    )
    return _report(asked, book)


def _place(asked: argparse.Namespace) -> Path:
    settle()
    load_settings(asked.stack)  # there must be such an environment
    return file.place(state(asked.stack))


def _known(asked: argparse.Namespace) -> Path:
    """The same, where there is a key of that name: else no lock may tell that there were keys."""
    path = _place(asked)
    book = file.there(path)
    if asked.name not in book.names():
        book.named(asked.name)  # says what there is
    return path


def _report(asked: argparse.Namespace, book: Book) -> int:
    if asked.json:
        now = datetime.now(UTC)
        keys = [
            {**key.model_dump(mode="json", exclude={"hash"}), "condition": key.condition(now)}
            for key in book.keys
        ]
        terminal.write_json(asked.json, {"environment": asked.stack, "keys": keys})
    return 0


def _described(key: Key, now: datetime) -> str:
    end = key.revoked or key.expires
    ending = {"valid": "expires" if end else "valid", "expired": "expired", "revoked": "revoked"}
    told = ending[key.condition(now)] + (f" {end:%Y-%m-%d %H:%M} UTC" if end else "")
    return f"{key.role}, made {key.created:%Y-%m-%d %H:%M} UTC, {told}"
