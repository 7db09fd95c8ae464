"""Prints as JSON in what environments differ, in one home: `compare_environments.py FLEET NAME...`.

A script for a process of its own, as `inventory.py` is: the training sets of all environments are
fetched through Feast at the same cut-offs, and each online store is held against its offline store.
"""

# ruff: noqa: E402 - how imports go is said before them
from millwright import startup

startup.import_quickly()
startup.leave_feast_unchecked()

import json
import sys
from typing import Any

import numpy as np
import pandas as pd

from millwright import feast_store, online
from millwright.process import prepare
from millwright.project import open_project
from millwright.settings import state


def training_set(environment: str, fleet: str, cutoffs: pd.DataFrame) -> pd.DataFrame:
    store = feast_store.open_store(state(environment))
    service = store.get_feature_service(open_project(fleet, environment).service)
    found = store.get_historical_features(cutoffs, service, filter_by_created_timestamp=True)
    frame: pd.DataFrame = found.to_df()
    return frame


def difference(one: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    keys = ["machine_id", "event_timestamp"]
    worst, nulls = 0.0, 0
    for name in one.columns.drop(keys):
        here, there = one[name], other[name]
        nulls += int((here.isna() != there.isna()).sum())
        if pd.api.types.is_numeric_dtype(here):
            scale = np.maximum(1, here.abs())
            worst = max(worst, float(((here - there).abs() / scale).max(skipna=True) or 0))
        else:
            nulls += int((here.dropna() != there.dropna()).sum())
    return {
        "rows": len(one),
        "columns": list(one.columns) == list(other.columns),
        "keys": bool((one[keys] == other[keys]).all(axis=None)),
        "filled": int(one.drop(columns=keys).notna().sum().sum()),
        "nulls": nulls,
        "worst": worst,
    }


def main(fleet: str, environments: list[str]) -> None:
    said: dict[str, Any] = {"online": {}, "read": {}}
    sets = {}
    for environment in environments:
        prepare(state(environment))
        project = open_project(fleet, environment)
        observed = project.offline.observed()
        machines = observed["machine_id"].tolist()
        if not sets:
            hours = pd.date_range(observed["first"].min(), observed["last"].max(), freq="5h")
            cutoffs = pd.MultiIndex.from_product(
                [machines, hours], names=["machine_id", "event_timestamp"]
            ).to_frame(index=False)
        sets[environment] = training_set(environment, fleet, cutoffs)
        store = feast_store.open_store(state(environment))
        as_of = project.offline.known_until()
        found = online.compare(store, project.service, machines, as_of)
        said["online"][environment] = [str(each) for each in found]
        table = online.read_online(store, project.service, machines, as_of).table
        said["read"][environment] = [
            table.num_rows, sum(len(c) - c.null_count for c in table.columns)
        ]  # fmt: skip
    one, other = (sets[name] for name in environments)
    said["training_set"] = difference(one, other)
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
