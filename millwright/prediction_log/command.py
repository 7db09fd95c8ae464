"""The verb `predictions`: what the service has answered, and how much of it came true."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millwright import terminal
from millwright.arguments import FLEET
from millwright.errors import ConfigurationError, InputError
from millwright.files import file_written_whole
from millwright.fleet import Fleet, load_fleet
from millwright.process import chosen
from millwright.settings import State

if TYPE_CHECKING:
    import pyarrow as pa


def add_parser(verbs: Any) -> None:
    """Add the verb to the sub-parsers `verbs`."""
    asking = verbs.add_parser("predictions", help="what the service answered, and what came of it")
    asking.add_argument("--fleet", default=FLEET)
    asking.add_argument("--stack", help="an environment; else the active one")
    asking.add_argument("--since", metavar="TIME", help="such as 2025-01-31, or with time and zone")
    asking.add_argument("--machine", metavar="M", help="this one alone")
    asking.add_argument("--json", type=Path, metavar="FILE", help="write what is found there")
    asking.add_argument(
        "--csv", type=Path, metavar="FILE", help="write every prediction and what came of it there"
    )
    asking.set_defaults(do=_predictions)


def _predictions(asked: argparse.Namespace) -> int:
    where, fleet, since = chosen(asked.stack), load_fleet(asked.fleet), _time(asked.since)
    summary, joined = _summary(where, fleet, since, _name(asked.machine))
    if asked.csv:
        _write_csv(asked.csv, joined)
        terminal.say(f"{asked.csv}: {len(joined):,} predictions")
    if asked.json:
        terminal.write_json(asked.json, summary)
    for path in summary["aside"]:
        terminal.warn(f"{path} could not be taken into the log; the service's log says why")
    terminal.show_table(
        f"predictions of fleet {fleet.name} in environment {where.environment}",
        _table(summary, fleet),
    )
    return 0


def _summary(
    where: State, fleet: Fleet, since: datetime | None, machine: str | None
) -> tuple[dict[str, Any], "pa.Table"]:
    """What there is to say, and every prediction with what came of it."""
    from millwright.prediction_log import journal, opening
    from millwright.prediction_log.history import Selection
    from millwright.prediction_log.outcomes import scores

    failures, known_until = _failures(where, fleet)
    joined = opening.joined(
        where, fleet.name, since, None, fleet.horizon, failures, known_until, machine
    )
    losses = opening.open_history(where, fleet.name).losses(Selection(since)).to_pylist()
    folder = opening.journals(where, fleet.name)
    waiting, size = journal.held(folder)
    summary = {
        "environment": where.environment,
        "fleet": fleet.name,
        "since": since.isoformat() if since else None,
        "machine": machine,
        "counts": opening.count(where, fleet.name, since, machine=machine).to_pylist(),
        "scores": scores(joined),
        "lost": sum(loss["records"] or 0 for loss in losses),
        "losses": losses,
        "waiting": waiting,
        "waiting_bytes": size,
        "aside": [str(path) for path in journal.aside(folder)],
    }
    return summary, joined


def _failures(where: State, fleet: Fleet) -> tuple["pa.Table | None", datetime | None]:
    """The failures in the raw store, and up to when they are all: for as long as readings came."""
    import pyarrow as pa

    from millwright.raw_store import RawStore

    raw = RawStore(where.raw(fleet.name), fleet)
    pieces = [piece for batch in raw.batches() for piece in batch.files]
    last = [piece.last for piece in pieces if piece.table == "telemetry" and piece.last]
    if not raw.files("failures"):
        return None, max(last, default=None)
    rows = raw.query(f"SELECT DISTINCT machine_id, timestamp FROM ({raw.scan('failures')})")
    return pa.Table.from_pandas(rows, preserve_index=False), max(last, default=None)


def _table(summary: Mapping[str, Any], fleet: Fleet) -> dict[str, str]:
    rows = {
        f"release {release}, {role}": _counts(found)
        for (release, role), found in _by_role(summary["counts"]).items()
    }
    for each in summary["scores"]:
        rows[f"outcomes of release {each['release']}, {each['role']}"] = _score(each)
    rows = rows or {"none": "no prediction was logged yet"}
    rows["horizon"] = fleet.label(fleet.horizon)
    rows["waiting"] = f"{summary['waiting']:,} in the journal on this machine"
    rows["lost"] = f"{summary['lost']:,}"
    return rows


def _by_role(counts: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], list[Mapping[str, Any]]]:
    found: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in counts:
        found.setdefault((row["release"], row["role"]), []).append(row)
    return found


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(predictions=row["predictions"], alarms=row["alarms"])
    statuses = ", ".join(f"{row['predictions']:,} {row['status']}" for row in rows)
    return f"{total['predictions']:,} predictions ({statuses}), {total['alarms']:,} alarms"


def _score(each: Mapping[str, Any]) -> str:
    def share(name: str) -> str:
        return "unknown" if each[name] is None else f"{each[name]:.3f}"

    open_ones = each["predictions"] - each["known"]
    return (
        f"of {each['alarms']:,} alarms with an outcome precision {share('precision')}, of "
        f"{each['failures']:,} failures recall {share('recall')}; {open_ones:,} have no outcome yet"
    )


def _write_csv(path: Path, rows: "pa.Table") -> None:
    from pyarrow import csv

    try:
        with file_written_whole(path.resolve()) as draft, draft.open("wb") as file:
            csv.write_csv(rows, file)
    except OSError as err:
        raise ConfigurationError(
            f"cannot write the predictions to {path}: {err.strerror}; name another file with --csv"
        ) from err


def _time(text: str | None) -> datetime | None:
    """A time in UTC, which is what one without a zone is taken for."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):  # the second of one that is before year 1 in UTC
        raise InputError(
            f"--since {text} is no time; write one such as 2025-01-31 or 2025-01-31T12:00:00Z"
        ) from None


def _name(machine: str | None) -> str | None:
    """A machine as it was named, in UTF-8 as all names are."""
    try:
        (machine or "").encode()
    except UnicodeEncodeError:
        raise InputError(f"--machine {machine!r} is no text in UTF-8; no machine has it") from None
    return machine
