"""Cut-offs and their labels: at which moments the question is asked, and what the answer was.

Labels look forward from a cut-off and features only back, so nothing here reads telemetry values.
"""

from datetime import timedelta

import numpy as np
import pandas as pd

from millwright.errors import DataError
from millwright.fleet import Fleet


def select_cutoffs(
    observed: pd.DataFrame, fleet: Fleet, every: timedelta | None = None
) -> pd.DataFrame:
    """Every step of every machine between its first and last reading, or one in `every`.

    The last horizon of the records has no cut-offs, because their answer is not known yet.

    Args:
        observed: one row per machine with `machine_id` and the times of its `first` and `last`
            reading (UTC).
        fleet: gives step and horizon.
        every: the distance between cut-offs; a step if not given.

    Returns:
        `machine_id` and `event_timestamp` (UTC), by time and then machine, each pair once.

    Raises:
        DataError: the records are shorter than the horizon.
    """
    if observed.empty:
        raise DataError(
            f"fleet '{fleet.name}' has no telemetry; ingest some: --pipeline ingest --data FOLDER"
        )
    every = every or fleet.step
    end = observed["last"].max() - fleet.horizon
    machines, moments = [], []
    for machine, first, last in zip(
        observed["machine_id"], observed["first"], observed["last"], strict=True
    ):
        start = first.ceil(every)
        # The step that holds the last reading ends at or after it.
        times = pd.date_range(start, min(last.ceil(fleet.step), end), freq=every, unit="us")
        machines.append(np.repeat(machine, len(times)))
        moments.append(times)
    cutoffs = pd.DataFrame(
        {
            "machine_id": np.concatenate(machines).astype(object),
            "event_timestamp": moments[0].append(moments[1:]),
        }
    )
    if cutoffs.empty:
        raise DataError(
            f"the telemetry of fleet '{fleet.name}' spans less than its horizon of "
            f"{fleet.label(fleet.horizon)}; ingest more, or shorten 'horizon' in its file"
        )
    return cutoffs.sort_values(["event_timestamp", "machine_id"], ignore_index=True)


def label_cutoffs(cutoffs: pd.DataFrame, failures: pd.DataFrame, horizon: timedelta) -> pd.Series:
    """Whether a machine fails within the horizon: true if T < failure <= T + horizon.

    Args:
        cutoffs: `machine_id` and `event_timestamp` (UTC), in any order.
        failures: `machine_id` and `timestamp` (UTC).
        horizon: how far ahead to look.

    Returns:
        One boolean per cut-off, with the index of `cutoffs`.
    """
    failed = {
        str(machine): np.sort(times.to_numpy("datetime64[us]"))
        for machine, times in failures.groupby("machine_id")["timestamp"]
    }
    labels = np.zeros(len(cutoffs), dtype=bool)
    asked = (
        cutoffs["event_timestamp"]
        .dt.tz_convert("UTC")
        .dt.tz_localize(None)
        .to_numpy("datetime64[us]")
    )
    reach = np.timedelta64(horizon)
    for machine, rows in cutoffs.groupby("machine_id", sort=False).indices.items():
        times = failed.get(str(machine))
        if times is None:
            continue
        following = np.searchsorted(times, asked[rows], side="right")
        ahead = following < len(times)
        labels[rows[ahead]] = times[following[ahead]] <= asked[rows[ahead]] + reach
    return pd.Series(labels, index=cutoffs.index, name="label")
