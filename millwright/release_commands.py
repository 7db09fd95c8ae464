"""The verb `releases`: which there are, which of them answers, and the way back."""

import argparse
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from millwright import arguments, startup, terminal, traffic, trial, verification
from millwright import release as releases
from millwright.errors import ConfigurationError, MillwrightError, ReleaseError
from millwright.fleet import load_fleet
from millwright.process import chosen
from millwright.settings import State, load_settings
from millwright.traffic import Canary, Traffic


def add_parser(verbs: Any) -> None:
    """Add the verb to the sub-parsers `verbs`."""
    verb = verbs.add_parser("releases", help="list, promote, roll back and split released models")
    actions = verb.add_subparsers(required=True, metavar="ACTION")
    _add(actions, "list", "the releases of a fleet, and what each one answers", _list)
    showing = _add(actions, "show", "where a release comes from, and what it is", _show)
    showing.add_argument("version", type=arguments.version, metavar="VERSION", help="such as v3")
    promoting = _add(actions, "promote", "make a release the champion", _promote)
    promoting.add_argument("version", type=arguments.version, metavar="VERSION", help="such as v3")
    _add(actions, "rollback", "make the champion of before the champion again", _rollback)
    splitting = _add(actions, "split", "have others than the champion answer; none, if not given",
                     _split)  # fmt: skip
    splitting.add_argument(
        "--canary", type=_canary, metavar="VERSION=PERCENT",
        help="it answers for some of the machines, always the same ones: v4=10",
    )  # fmt: skip
    splitting.add_argument(
        "--tag", type=_tag, metavar="NAME=VERSION", action="append", default=[],
        help="it answers requests that carry this tag; may be given again",
    )  # fmt: skip
    splitting.add_argument(
        "--shadow", type=arguments.version, metavar="VERSION", action="append", default=[],
        help="it predicts too, which is logged and told to nobody; may be given again",
    )  # fmt: skip
    verifying = actions.add_parser("verify", help="check a release and predict its examples again")
    verifying.add_argument("folder", type=Path)
    verifying.set_defaults(do=_verify)


def _add(actions: Any, name: str, summary: str, do: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=summary)
    parser.add_argument("--fleet", default=arguments.FLEET)
    parser.add_argument("--stack", help="an environment; else the active one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is found there")
    parser.set_defaults(do=do)
    return parser


def _list(asked: argparse.Namespace) -> int:
    where, folder = _place(asked)
    rows = {}
    for version in traffic.versions(folder):
        roles = ", ".join(_roles(folder, version)) or "answers nothing"
        try:
            manifest = releases.read_manifest(folder / f"v{version}")
            rows[f"v{version}"] = (
                f"{roles}; learned until {manifest.learned_until:%Y-%m-%d %H:%M}, dataset "
                f"{manifest.dataset_version}"
            )
        except ReleaseError as err:
            rows[f"v{version}"] = f"broken: {err}"
    champion = releases.champion(folder)
    if champion and not champion.is_dir():
        pointer = folder / releases.POINTER
        terminal.warn(f"{pointer} names {champion.name}, and there is no such release")
    title = f"releases of fleet {asked.fleet} in environment {where.environment}"
    terminal.show_table(
        title,
        rows
        or {
            "none": f"python run.py --pipeline training --fleet {asked.fleet} --stack "
            f"{where.environment} makes one"
        },
    )
    _told(asked, where, folder)
    return 0


def _show(asked: argparse.Namespace) -> int:
    _, folder = _place(asked)
    manifest = releases.read_manifest(traffic.named(folder, asked.version))
    facts = manifest.model_dump(mode="json")
    facts["encoder"] = f"{len(manifest.encoder.features)} features"
    facts["views"] = ", ".join(view.name for view in manifest.views)
    facts["costs"] = ", ".join(f"{name} {value}" for name, value in facts["costs"].items())
    facts["libraries"] = ", ".join(f"{n} {v}" for n, v in manifest.libraries.items())
    since = [time for version, time in traffic.champions(folder) if version == asked.version]
    rows = {name.replace("_", " "): str(value) for name, value in facts.items()}
    rows["answers"] = ", ".join(_roles(folder, asked.version)) or "nothing"
    rows["champion since"] = ", ".join(since) or "never"
    terminal.show_table(f"release v{asked.version} of fleet {asked.fleet}", rows)
    if asked.json:
        terminal.write_json(asked.json, manifest.model_dump(mode="json"))
    return 0


def _promote(asked: argparse.Namespace) -> int:
    where, folder = _place(asked)
    _prove(where, folder, asked.version)
    return _made_champion(asked, where, folder, asked.version)


def _rollback(asked: argparse.Namespace) -> int:
    where, folder = _place(asked)
    present, version = releases.champion(folder), traffic.former(folder)
    # It was proved before it answered.
    _check_published(where, releases.read_manifest(traffic.named(folder, version)))
    instead_of = int(present.name[1:]) if present else None
    return _made_champion(asked, where, folder, version, instead_of)


def _split(asked: argparse.Namespace) -> int:
    where, folder = _place(asked)
    names = [name for name, _ in asked.tag]
    if len({*names}) < len(names):
        raise ConfigurationError("--tag names one tag twice; give each tag one release")
    try:
        split = Traffic(canary=asked.canary, tags=dict(asked.tag), shadow=tuple(asked.shadow))
    except ValidationError as err:
        (place, *within), fault = err.errors()[0]["loc"], err.errors()[0]["msg"]
        option = f"--tag {within[0]}" if place == "tags" and within else f"--{place}"
        raise ConfigurationError(f"{option}: {fault.removeprefix('Value error, ')}") from err
    for version in sorted(split.versions):
        _prove(where, folder, version)
    traffic.write(folder, split)
    _follow(where, asked.fleet, lambda said: not said.get("refused") and _used(said) == split)
    return _list(asked)


def _verify(asked: argparse.Namespace) -> int:
    release = releases.existing(asked.folder)
    startup.import_xgboost_alone()
    count = verification.verify(release)
    terminal.say(f"{release}: whole, and {count} examples predicted as when it was written")
    return 0


def _prove(where: State, folder: Path, version: int) -> None:
    """See that a release is whole and predicts as it did, and that it can be answered by here."""
    path = traffic.named(folder, version)
    verification.verify_in_fresh_process(path)
    _check_published(where, releases.read_manifest(path))


def _check_published(where: State, manifest: releases.Manifest) -> None:
    """See that the online store has what a release needs, where there is one to ask."""
    from millwright.serving.features import check_published, open_reader
    from millwright.serving.plan import Plan

    patience = load_settings(where.environment).serving.store_timeout_ms / 1000
    with suppress(ConfigurationError):
        reader = open_reader(where, patience)
        check_published(reader, Plan(manifest.views), manifest.version)


def _made_champion(
    asked: argparse.Namespace,
    where: State,
    folder: Path,
    version: int,
    instead_of: int | None = None,
) -> int:
    began, before = time.monotonic(), releases.champion(folder)
    already = before is not None and before.name == f"v{version}"
    traffic.promote(folder, version, instead_of)
    trial.passed(folder)
    in_use = _follow(where, asked.fleet, lambda said: _champion(said) == version)
    seconds = time.monotonic() - began
    was = before.name if before else "none"
    if in_use:
        terminal.say(f"the service answers by v{version} after {seconds:.1f} s; telling MLflow")
    way_back = f"releases rollback --fleet {asked.fleet} --stack {where.environment}"
    terminal.show_table(
        f"fleet {asked.fleet}: v{version} is the champion{' already' if already else ''}",
        {
            "before": was,
            "service": f"answers by it after {seconds:.1f} s"
            if in_use
            else "none runs here; one elsewhere follows the pointer by itself",
            "MLflow": _crowned(where, folder / f"v{version}"),
            **({} if already else {"back": f"python -m millwright {way_back}"}),
        },
    )
    _told(asked, where, folder)
    return 0


def _follow(where: State, fleet: str, reached: Any) -> bool:
    """Wait until the service that runs here is where it should be; false if none runs here.

    Raises:
        MillwrightError: it does not come to it.
    """
    from millwright.serving import background

    url = background.address(where, fleet)
    if url is None:
        return False
    ending = time.monotonic() + background.PATIENCE
    said: dict[str, Any] = {}
    while time.monotonic() < ending:
        said = background.ask(url, "/ready")[1]
        if reached(said):
            return True
        time.sleep(background.PAUSE)
    raise MillwrightError(
        f"the service at {url} has not followed: {said.get('refused') or 'it does not answer'}; "
        f"see its log {where.service(fleet) / 'log'}"
    )


def _crowned(where: State, folder: Path) -> str:
    """Have MLflow's register say the same; what became of it. It may be away: nothing waits."""
    from millwright.process import prepare
    from millwright.registry import crown

    manifest = releases.read_manifest(folder)
    try:
        prepare(where)
        crown(manifest)
    except Exception as err:  # whatever a server that is away makes of it
        return f"not told ({type(err).__name__}); its alias champion still names another version"
    return f"{manifest.name} version {manifest.version} has the alias champion"


def _place(asked: argparse.Namespace) -> tuple[State, Path]:
    where = chosen(asked.stack)
    return where, where.releases(load_fleet(asked.fleet).name)


def _roles(folder: Path, version: int) -> list[str]:
    champion, split = releases.champion(folder), traffic.read(folder)
    roles = ["champion"] if champion == folder / f"v{version}" else []
    if split.canary and split.canary.version == version:
        roles.append(f"canary for {split.canary.percent:g} % of the machines")
    roles += [f"tag {tag}" for tag, each in split.tags.items() if each == version]
    return roles + (["shadow"] if version in split.shadow else [])


def _told(asked: argparse.Namespace, where: State, folder: Path) -> None:
    if asked.json:
        champion = releases.champion(folder)
        said = {
            "environment": where.environment, "fleet": asked.fleet,
            "releases": traffic.versions(folder),
            "champion": int(champion.name[1:]) if champion else None,
            "traffic": traffic.as_json(traffic.read(folder)),
        }  # fmt: skip
        terminal.write_json(asked.json, said)


def _champion(said: dict[str, Any]) -> int | None:
    version: int | None = (said.get("release") or {}).get("version")
    return version


def _used(said: dict[str, Any]) -> Traffic | None:
    return Traffic.model_validate(said["traffic"]) if "traffic" in said else None


def _canary(text: str) -> Canary:
    version, _, percent = text.partition("=")
    try:
        share = float(percent)
    except ValueError:
        share = -1.0
    if not 0 < share <= 100:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no release with a percentage above 0 and up to 100; write it like v4=10"
        )
    return Canary(version=arguments.version(version), percent=share)


def _tag(text: str) -> tuple[str, int]:
    name, _, version = text.partition("=")
    if not re.fullmatch(traffic.TAG, name):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no tag with a release; write it like b=v4, in small letters"
        )
    return name, arguments.version(version)
