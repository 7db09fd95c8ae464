"""The verb `serve`: the prediction service of a fleet."""

import argparse
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from millwright import interruption, startup, terminal
from millwright import release as releases
from millwright.arguments import FLEET
from millwright.errors import InputError, MillwrightError, ReleaseError
from millwright.fleet import load_fleet
from millwright.process import VARIABLE, settle
from millwright.settings import Serving, State, load_settings, state

HOST, PORT = "127.0.0.1", 8000


def add_parser(verbs: Any) -> None:
    """Add the verb to the sub-parsers `verbs`."""
    serving = verbs.add_parser("serve", help="answer over HTTP which machines will fail")
    usual = os.environ.get(VARIABLE, "local")
    serving.add_argument(
        "--stack",
        default=usual,
        help="an environment; without it that of MILLWRIGHT_ENVIRONMENT, else local, and never "
        f"the active ZenML stack, for a service knows no ZenML (now: {usual})",
    )
    serving.add_argument("--fleet", help=f"whose champion answers (default: {FLEET})")
    serving.add_argument("--host", help=f"where it listens (default: {HOST})")
    serving.add_argument("--port", type=int, help=f"0 for any that is free (default: {PORT})")
    serving.add_argument(
        "--release", type=Path, metavar="FOLDER", help="this release, whichever is champion"
    )
    serving.add_argument(
        "--supervise", action="store_true",
        help="start it again whenever it ends",
    )  # fmt: skip
    serving.add_argument(
        "--background", action="store_true",
        help="have it run on, as a deployment does: the champion, at a port that is free here",
    )  # fmt: skip
    serving.add_argument(
        "--stop", action="store_true",
        help="end what runs in the background; without --fleet that of every fleet",
    )  # fmt: skip
    serving.add_argument("--inherited", help=argparse.SUPPRESS)  # handles from the supervisor
    serving.set_defaults(do=_serve)


def _serve(asked: argparse.Namespace) -> int:
    interruption.heed()  # a deployment starts it, too
    settle()
    settings = load_settings(asked.stack)  # there must be such an environment
    where = state(asked.stack)
    if asked.stop:
        return _stop(asked, where)
    if asked.background:
        _check_background(asked)
    pinned = releases.existing(asked.release).resolve() if asked.release else None
    fleet = load_fleet(asked.fleet or _fleet_of(pinned)).name
    if asked.background:
        return _keep(where, fleet)
    if asked.supervise:
        return _supervise(asked, settings.serving)
    # Late, so that other verbs do not wait for them.
    from millwright.prediction_log.opening import open_log
    from millwright.serving import server
    from millwright.serving.features import open_reader
    from millwright.serving.keys import check_exposure, key_ring
    from millwright.serving.releases import Prover, Releases
    from millwright.serving.supervision import Post

    post = None
    if asked.inherited:
        listening, line = server.inherited(asked.inherited)
        post = Post(line)
    else:
        listening = server.listen(*_place(asked))
    with listening:
        _configure_log()
        ring = key_ring(where)
        check_exposure(listening.getsockname()[0], ring, again=post is not None)
        reader = open_reader(where, settings.serving.store_timeout_ms / 1000)
        with Prover(pinned or _champion(where, fleet)) as prove:
            startup.import_xgboost_alone()  # now, for no prediction is to wait for it
            from millwright.serving.app import Service

            current = Releases(where.environment, fleet, where.releases(fleet), pinned, prove)
            current.refresh()
        with suppress(MillwrightError):  # /ready says it
            # SQLite makes files beside its own with the first read: now, while the disk has room.
            reader.published()
        if pinned and current.refused:
            raise ReleaseError(current.refused)
        log = open_log(where, fleet)
        service = Service(current, reader, log, ring, where, settings.serving, post)
        answering = server.prepared(service.app())
        startup.keep_what_is_there()
        if post and not post.wait(current.refresh):
            return 0
        used = current.routes.champion.release.folder.name if current.routes else "none yet"
        terminal.say(
            f"serving environment {where.environment}, fleet {fleet}, release {used}, "
            f"at {server.address(listening)}"
        )
        server.run(answering, listening)
    terminal.say("the service has ended")
    return 0


def _check_background(asked: argparse.Namespace) -> None:
    """Nothing may be asked for that what runs in the background would not do."""
    given = [
        f"--{name}" for name in ("host", "port", "release") if getattr(asked, name) is not None
    ]
    if given:
        raise InputError(
            f"--background does not go with {' and '.join(given)}: what runs in the background "
            f"answers with the champion, at {HOST} and a port that it chooses; leave that out, or "
            "have something else run it: serve --supervise takes all of them"
        )


def _place(asked: argparse.Namespace) -> tuple[str, int]:
    """The host and the port to listen on."""
    return (
        HOST if asked.host is None else asked.host,
        PORT if asked.port is None else asked.port,
    )


def _champion(where: State, fleet: str) -> Path | None:
    try:
        return releases.champion(where.releases(fleet))
    except ReleaseError:
        return None  # it is told when releases are followed


def _keep(where: State, fleet: str) -> int:
    """Have it run in the background; 3 where it does, and has nothing to predict with."""
    from millwright.serving import background

    url = background.ensure(where, fleet, terminal.say)
    terminal.say(f"serving fleet {fleet} at {url}")
    _, said = background.readiness(url)
    if said.ready:
        return 0
    reason = said.reason or f"it does not answer; see {where.service(fleet) / 'log'}"
    terminal.warn(f"nothing is predicted there until this is mended: {reason}")
    return 3


def _stop(asked: argparse.Namespace, where: State) -> int:
    from millwright.serving import background

    there = sorted(path.parent.name for path in where.root.glob("*/service"))
    fleets = [fleet for fleet in there if asked.fleet in (None, fleet)]
    if not [fleet for fleet in fleets if background.stop(where, fleet, terminal.say)]:
        of = f"fleet {asked.fleet} in " if asked.fleet else ""
        terminal.say(f"no service of {of}environment {where.environment} runs here")
    return 0


def _supervise(asked: argparse.Namespace, settings: Serving) -> int:
    from millwright.serving import server
    from millwright.serving.keys import check_exposure, key_ring
    from millwright.serving.supervision import Supervisor

    command = [sys.executable, "-m", "millwright", "serve", "--stack", asked.stack]
    command += ["--fleet", asked.fleet] if asked.fleet else []
    command += ["--release", str(asked.release)] if asked.release else []
    with server.listen(*_place(asked)) as listening:
        check_exposure(listening.getsockname()[0], key_ring(state(asked.stack)))
        terminal.say(f"supervising a service at {server.address(listening)}")
        return Supervisor(command, listening, standby=settings.standby).run()


def _fleet_of(release: Path | None) -> str:
    return releases.read_manifest(release).fleet if release else FLEET


def _configure_log() -> None:
    """Warnings of libraries and what the service has to say, on stderr, in UTC."""
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    form.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(form)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("millwright").setLevel(logging.INFO)
