"""The prediction log of a fleet in an environment: to write, and to read again.

Without servers it is parquet files under the state's folder, else PostgreSQL. The journal is always
on this machine; `MILLWRIGHT_JOURNAL` names a folder for it where the state's own cannot be written.
"""

import os
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millwright.endpoints import endpoint
from millwright.prediction_log.log import PredictionLog
from millwright.prediction_log.sink import LateSink, Sink
from millwright.settings import State, load_settings

if TYPE_CHECKING:
    import pyarrow as pa

    from millwright.prediction_log.history import History

VARIABLE = "MILLWRIGHT_JOURNAL"


def open_log(state: State, fleet: str) -> PredictionLog:
    """The log for a service to write; nothing is read or connected to before it starts."""
    return PredictionLog(journals(state, fleet), LateSink(partial(_sink, state, fleet)))


def open_history(state: State, fleet: str) -> "History":
    """What was logged."""
    if load_settings(state.environment).servers == "none":
        from millwright.prediction_log.parquet_history import ParquetHistory

        return ParquetHistory(state.predictions(fleet))
    from millwright.prediction_log.postgres_history import PostgresHistory

    return PostgresHistory(partial(endpoint, "postgres", state), fleet)


def journals(state: State, fleet: str) -> Path:
    """The folder of the journal, which all services of the fleet on this machine share."""
    named = os.environ.get(VARIABLE)
    return Path(named) / state.environment / fleet if named else state.journals(fleet)


def read(
    state: State, fleet: str, since: datetime | None, until: datetime | None,
    release: int | None = None,
) -> "pa.Table":  # fmt: skip
    """Predictions asked from `since` until before `until` (UTC), by time, with their features.

    One column for each feature, named as the model's column; `event_time:<view>` for each view.

    Raises:
        MillwrightError: the log cannot be read.
    """
    from millwright.prediction_log.content import PREDICTIONS
    from millwright.prediction_log.history import ORDER, Selection, with_features

    log = open_history(state, fleet)
    rows = log.predictions(Selection(since, until, release), PREDICTIONS.names)
    return with_features(rows.sort_by(ORDER), log.layouts())


def recent(state: State, fleet: str, machine: str, limit: int) -> list[dict[str, Any]]:
    """The last predictions of a machine, the newest first, as far as they are in the sink by now.

    Raises:
        MillwrightError: the log cannot be read.
    """
    from millwright.prediction_log.history import as_dicts

    log = open_history(state, fleet)
    rows = log.newest(machine, limit)
    return as_dicts(rows, log.layouts()) if len(rows) else []


def count(
    state: State, fleet: str, since: datetime | None = None, until: datetime | None = None,
    machine: str | None = None,
) -> "pa.Table":  # fmt: skip
    """`predictions` and `alarms` by `release`, `role` and `status`.

    Raises:
        MillwrightError: the log cannot be read.
    """
    from millwright.prediction_log.history import Selection

    return open_history(state, fleet).counts(Selection(since, until, machine=machine))


def joined(
    state: State,
    fleet: str,
    since: datetime | None,
    until: datetime | None,
    horizon: timedelta,
    failures: "pa.Table | None" = None,
    known_until: datetime | None = None,
    machine: str | None = None,
) -> "pa.Table":
    """Predictions by time, without features, and in `label` whether the machine failed.

    See `outcomes` for the rule. `failures` (`machine_id`, `timestamp`) count besides those that
    were reported, and up to `known_until` (UTC) they are all that there were.

    Raises:
        MillwrightError: the log cannot be read.
    """
    from millwright.prediction_log.history import ANSWER, ORDER, Selection
    from millwright.prediction_log.outcomes import labels

    log = open_history(state, fleet)
    rows = log.predictions(Selection(since, until, machine=machine), ANSWER).sort_by(ORDER)
    label = labels(rows, log.outcomes(), horizon, failures, known_until)
    return rows.append_column("label", label)


def _sink(state: State, fleet: str) -> Sink:
    """Where segments go."""
    settings = load_settings(state.environment)
    days = settings.serving.keep_days
    keep = timedelta(days=days) if days else None
    if settings.servers == "none":
        from millwright.prediction_log.parquet_sink import ParquetSink

        return ParquetSink(state.predictions(fleet), journals(state, fleet), keep)
    from millwright.prediction_log.postgres_sink import PostgresSink

    return PostgresSink(partial(endpoint, "postgres", state), fleet, keep)
