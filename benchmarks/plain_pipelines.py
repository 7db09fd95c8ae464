"""What the pipelines ingest and features do with a first delivery, as one plain polars script.

It reads the five tables, drops the rows that ours refuse, writes the others by machine and time, a
file for each day, and then the features of every step. It has no versions: a row that is late or
corrected would change features that were published already. It can be neither killed nor run again
with the rest of a delivery, and says of a dropped row neither which it was nor why.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from millwright.fleet import Fleet
from millwright.validation import BEGINNING, key

INSTANT = pl.Datetime("us", "UTC")
STEP = timedelta(hours=1)
WINDOWS = {"3h": 3, "24h": 24}  # in steps
STATISTICS = ("mean", "std", "min", "max", "slope")
SLOPES = "slopes"


def ingest_and_features(fleet: Fleet, data: Path, folder: Path) -> None:
    """Write `raw/<table>/<day>.parquet` and `<view>.parquet` to `folder`."""
    ingest(fleet, data, folder / "raw")
    features(fleet, folder / "raw", folder)


def ingest(fleet: Fleet, data: Path, folder: Path) -> None:
    """The rows of each table that pass all checks, sorted."""
    machines = _raw(fleet, data, "machines").collect()
    known = machines["machine_id"].unique()
    for table in fleet.table_names:
        rows = _raw(fleet, data, table)
        checks = [pl.col("machine_id").is_in(known.implode()), *_checks(fleet, table)]
        good = rows.filter(pl.all_horizontal(checks))
        keys = key(fleet, table)
        narrow = good.select(list(dict.fromkeys([*keys, "received"]))).collect(engine="streaming")
        if narrow.select(keys).is_duplicated().any():
            good = good.unique([*keys, "received"])
        (folder / table).mkdir(parents=True)
        if "timestamp" not in keys:
            good.sort(keys).sink_parquet(folder / table / "all.parquet", compression="zstd")
            continue
        for day in narrow["timestamp"].dt.truncate("1d").unique().sort():
            inside = pl.col("timestamp").is_between(day, day + timedelta(days=1), closed="left")
            good.filter(inside).sort([*keys, "received"]).sink_parquet(
                folder / table / f"{day:%Y-%m-%d}.parquet", compression="zstd"
            )


def features(fleet: Fleet, raw: Path, folder: Path) -> None:
    """The features of each step of each machine, a file for each view."""
    seconds = int(STEP.total_seconds())
    steps = (
        pl.scan_parquet(raw / "telemetry" / "*.parquet")
        .group_by("machine_id", _step("timestamp").alias("step"))
        .agg(pl.col(list(fleet.sensors)).mean())
        .collect(engine="streaming")
        .sort("machine_id", "step")
    )
    time = pl.from_epoch(pl.col("step") * seconds).cast(INSTANT)
    stamps = {"event_timestamp": time, "created_timestamp": time}

    def write(view: str, rows: pl.DataFrame, names: Sequence[str]) -> None:
        rows.select("machine_id", pl.col(names).cast(pl.Float32), **stamps).write_parquet(
            folder / f"{view}.parquet", compression="zstd"
        )

    means = {sensor: f"{sensor}_mean_1h" for sensor in fleet.sensors}
    write("sensor_step", steps.rename(means), list(means.values()))
    for label, length in WINDOWS.items():
        rows = _windows(steps, list(fleet.sensors), label, length)
        names = [f"{sensor}_{kind}_{label}" for sensor in fleet.sensors for kind in STATISTICS]
        write(f"sensor_window_{label}", rows, names)
    grid = steps.select("machine_id", "step")
    write(
        "error_counts_24h",
        _error_counts(grid, raw, fleet.error_codes, 24),
        [f"{code}_count_24h" for code in fleet.error_codes],
    )
    ages = _component_ages(grid, raw, fleet.components)
    write("component_age", ages, [f"{part}_age" for part in fleet.components])
    numbers = [name for name, kind in fleet.attributes.items() if kind.type == "number"]
    pl.scan_parquet(raw / "machines" / "*.parquet").select(
        "machine_id",
        pl.col("received").alias("event_timestamp"),
        pl.col("received").alias("created_timestamp"),
        pl.col(list(fleet.attributes)),
    ).with_columns(pl.col(numbers).cast(pl.Float32)).sink_parquet(
        folder / "machine_attributes.parquet", compression="zstd"
    )


def _raw(fleet: Fleet, data: Path, table: str) -> pl.LazyFrame:
    """The columns of a table under our names and in our types."""
    source = getattr(fleet.tables, table)
    columns = [pl.col(source.machine).cast(pl.String).alias("machine_id")]
    if table != "machines":
        columns.append(pl.col(source.timestamp).alias("timestamp"))
        columns.append(pl.col(source.received).alias("received"))
    if table == "errors":
        columns.append(pl.col(source.code).alias("code"))
    if table in ("maintenance", "failures"):
        columns.append(pl.col(source.component).alias("component"))
    if table == "telemetry":
        columns.append(pl.col(list(fleet.sensors)).cast(pl.Float64))
    if table == "machines":
        columns.append(pl.lit(BEGINNING).cast(INSTANT).alias("received"))
        for name, attribute in fleet.attributes.items():
            kind = pl.Float64 if attribute.type == "number" else pl.String
            columns.append(pl.col(name).cast(kind))
    return pl.scan_parquet(data / f"{source.source}.parquet").select(columns)


def _checks(fleet: Fleet, table: str) -> list[pl.Expr]:
    """What must be true of a row. A missing cell of a number is a gap and no fault."""
    checks = [pl.col("machine_id").is_not_null()]
    if table == "machines":
        for name, attribute in fleet.attributes.items():
            cell = pl.col(name)
            if attribute.type == "category":
                checks.append(cell.is_in(attribute.values).fill_null(value=True))
            elif attribute.range:
                checks.append(cell.is_between(*attribute.range).fill_null(value=True))
        return checks
    time, received = pl.col("timestamp"), pl.col("received")
    now = datetime.now(UTC)
    checks += [time >= BEGINNING, time <= now, received >= time, received <= now]
    if table == "errors":
        checks.append(pl.col("code").is_in(fleet.error_codes))
    if table in ("maintenance", "failures"):
        checks.append(pl.col("component").is_in(fleet.components))
    if table == "telemetry":
        for name, sensor in fleet.sensors.items():
            cell = pl.col(name)
            sound = cell.is_between(*sensor.range) if sensor.range else cell.is_finite()
            checks.append(sound.fill_null(value=True))
        checks.append(pl.any_horizontal(pl.col(list(fleet.sensors)).is_not_null()))
    return checks


def _step(time: str) -> pl.Expr:
    """The number of the step that ends at or after `time`."""
    length = int(STEP.total_seconds()) * 1_000_000
    return (pl.col(time).dt.epoch("us") - 1) // length + 1


def _windows(steps: pl.DataFrame, sensors: list[str], label: str, length: int) -> pl.DataFrame:
    """Statistics of the means of the last `length` steps; the slope is an hour's, least squares."""
    within: dict[str, Any] = {"window_size": f"{length}i", "min_samples": 1}
    cells = pl.col(sensors)
    # Counted from the first step of a machine, so that sums of squares lose nothing.
    hour = (pl.col("step") - pl.col("step").first().over("machine_id")).cast(pl.Float64)
    rolled = steps.lazy().select(
        "machine_id",
        "step",
        cells.rolling_mean_by("step", **within).over("machine_id").name.suffix(f"_mean_{label}"),
        cells.rolling_std_by("step", **within).over("machine_id").name.suffix(f"_std_{label}"),
        cells.rolling_min_by("step", **within).over("machine_id").name.suffix(f"_min_{label}"),
        cells.rolling_max_by("step", **within).over("machine_id").name.suffix(f"_max_{label}"),
    )
    products = steps.lazy().select(
        "machine_id",
        "step",
        cells.name.suffix("|x"),
        (cells * hour).name.suffix("|xt"),
        *(pl.when(pl.col(s).is_not_null()).then(hour).alias(f"{s}|t") for s in sensors),
        *(pl.when(pl.col(s).is_not_null()).then(hour * hour).alias(f"{s}|tt") for s in sensors),
        *(pl.col(s).is_not_null().cast(pl.Float64).alias(f"{s}|n") for s in sensors),
    )
    sums = products.with_columns(
        pl.exclude("machine_id", "step").rolling_sum_by("step", **within).over("machine_id")
    )
    slopes = sums.select(_slope(s).alias(f"{s}_slope_{label}") for s in sensors)
    whole, slope = pl.collect_all([rolled, slopes])
    return whole.hstack(slope)


def _slope(sensor: str) -> pl.Expr:
    """Null where all readings are of one step."""
    n, t, x, xt, tt = (pl.col(f"{sensor}|{what}") for what in ("n", "t", "x", "xt", "tt"))
    spread = n * tt - t * t
    return pl.when(spread > 0).then((n * xt - t * x) / spread)


def _error_counts(grid: pl.DataFrame, raw: Path, codes: Sequence[str], length: int) -> pl.DataFrame:
    """How many errors of each code came in the last `length` steps."""
    errors = pl.read_parquet(raw / "errors" / "*.parquet").select(
        "machine_id", "code", sent=_step("timestamp")
    )
    reached = errors.join(grid, on="machine_id").filter(
        pl.col("step").is_between(pl.col("sent"), pl.col("sent") + length, closed="left")
    )
    counts = reached.group_by("machine_id", "step").agg(
        (pl.col("code") == code).sum().alias(f"{code}_count_{length}h") for code in codes
    )
    return grid.join(counts, on=["machine_id", "step"], how="left").with_columns(
        pl.exclude("machine_id", "step").fill_null(0)
    )


def _component_ages(grid: pl.DataFrame, raw: Path, components: Sequence[str]) -> pl.DataFrame:
    """Hours since each component was last replaced."""
    replaced = pl.read_parquet(raw / "maintenance" / "*.parquet").select(
        "machine_id", "component", step=_step("timestamp")
    )
    ages = grid.sort("step")
    for part in components:
        mine = replaced.filter(pl.col("component") == part).select("machine_id", "step")
        mine = mine.with_columns(last=pl.col("step")).sort("step")
        ages = ages.join_asof(mine, on="step", by="machine_id", check_sortedness=False)
        ages = ages.with_columns((pl.col("step") - pl.col("last")).alias(f"{part}_age"))
        ages = ages.drop("last")
    return ages.sort("machine_id", "step")
