"""Features as Ibis expressions: one definition, whichever engine computes it.

Time is counted in whole steps of the fleet since 1970. A raw row that happens within a step belongs
to that step's *end*, and is *known* from the end of the step in which it was received. A correction
replaces a row from the step in which it became known. So each row here holds over an interval of
knowledge, `known <= K < until`, and features come in versions:

- the first version of a step says what was known when the step's own readings were;
- each later version says what was known once something late, or a correction, had come in.

`event_timestamp` is the end of the step and `created_timestamp` is when the version was known. What
was published once is never changed by what comes later: only new versions are added.
"""

from collections.abc import Callable
from datetime import timedelta

import ibis
import ibis.expr.types as ir

from millwright.fleet import Fleet
from millwright.views import View

TIMESTAMP = "timestamp('UTC', 6)"

Statistics = Callable[[ir.Table], dict[str, ir.Value]]


def build(view: View, fleet: Fleet, tables: dict[str, ir.Table]) -> ir.Table:
    """The table of a view, from the raw tables that it names in `sources`.

    `tables` holds `readings`, which is what `step_readings` makes of the telemetry, instead of the
    telemetry itself, so that an engine can compute them once for several views. Features are
    float64 or string; rows come in no order. The anomaly score is not made here.
    """
    if view.kind == "attributes":
        return machine_attributes(tables["machines"], fleet)
    readings = tables["readings"]
    if view.kind == "step":
        return _stamped(readings, fleet, list(view.features))
    if view.kind == "window":
        return sensor_windows(readings, view, fleet)
    if view.kind == "errors":
        return error_counts(readings, tables["errors"], view, fleet)
    if view.kind == "maintenance":
        return component_ages(readings, tables["maintenance"], fleet)
    raise ValueError(
        f"view '{view.name}' of kind '{view.kind}' is not an expression over raw tables"
    )


def step_readings(telemetry: ir.Table, fleet: Fleet) -> ir.Table:
    """Statistics of the readings within each step, in versions.

    Columns: `machine_id`, `step`, `known`, `until` (null: still holds), `first_known`, and
    `<sensor>_<statistic>_<step>` for each of the fleet's `step_statistics`, with the mean always.
    """
    rows = _versioned(telemetry, fleet, key=["machine_id", "timestamp"])
    versions = rows.select("machine_id", "step", "known").distinct()
    rows = rows.rename(row_known="known")
    held = versions.inner_join(
        rows,
        [
            "machine_id",
            "step",
            versions.known >= rows.row_known,
            rows.until.isnull() | (versions.known < rows.until),
        ],
        rname="row:{name}",  # no sensor has such a name
    )
    # Counted from the step's own end the seconds are small, and a slope over them is exact.
    seconds = _whole_seconds(held.timestamp) - held.step * _seconds(fleet.step)
    label = fleet.label(fleet.step)
    kinds = dict.fromkeys(("mean", *fleet.features.step_statistics))
    steps = held.group_by("machine_id", "step", "known").aggregate(
        **{
            f"{sensor}_{kind}_{label}": _statistic(held[sensor], seconds, kind)
            for sensor in fleet.sensors
            for kind in kinds
        }
    )
    same_step = {"group_by": ["machine_id", "step"], "order_by": "known"}
    return steps.mutate(
        until=steps.known.lead().over(**same_step),
        first_known=steps.known.min().over(group_by=["machine_id", "step"]),
    )


def sensor_windows(readings: ir.Table, view: View, fleet: Fleet) -> ir.Table:
    """Statistics of the step means of each sensor over the window that ends with each step."""
    label, step = fleet.label(_window(view)), fleet.label(fleet.step)

    # Counted from a machine's first step the seconds are small enough for a slope over them.
    steps = readings.step - readings.step.min().over(group_by="machine_id")
    readings = readings.mutate(seconds=steps * _seconds(fleet.step))

    def statistics(rows: ir.Table) -> dict[str, ir.Value]:
        return {
            f"{sensor}_{kind}_{label}": _statistic(
                rows[f"{sensor}_mean_{step}"], rows.seconds, kind
            )
            for sensor in fleet.sensors
            for kind in fleet.features.statistics
        }

    latest = readings.filter(readings.until.isnull())
    return _stamped(_rolling(latest, readings, statistics, view, fleet), fleet, list(view.features))


def error_counts(readings: ir.Table, errors: ir.Table, view: View, fleet: Fleet) -> ir.Table:
    """How often each error code came in the window that ends with each step."""
    rows = _versioned(errors, fleet, key=["machine_id", "timestamp", "code"])
    label = fleet.label(_window(view))
    # Codes may be called as they like: no other column has such a prefix.
    sent = {code: f"sent:{code}" for code in fleet.error_codes}
    counts = rows.select(
        "machine_id",
        "step",
        "known",
        "until",
        **{name: _one(rows.code == code) for code, name in sent.items()},
    )

    def statistics(rows: ir.Table) -> dict[str, ir.Value]:
        return {f"{code}_count_{label}": rows[name].sum() for code, name in sent.items()}

    rolled = _rolling(_with_grid(counts, readings), counts, statistics, view, fleet)
    # Where no row was there to count, there was no error.
    rolled = rolled.mutate(**{name: rolled[name].coalesce(0.0) for name in view.features})
    return _stamped(rolled, fleet, list(view.features))


def component_ages(readings: ir.Table, maintenance: ir.Table, fleet: Fleet) -> ir.Table:
    """Hours (cycles, for a fleet that counts those) since each component was last replaced."""
    rows = _versioned(maintenance, fleet, key=["machine_id", "timestamp", "component"])
    # Components may be called as they like: no other column has such a prefix.
    replacements = {part: f"replaced:{part}" for part in fleet.components}
    replaced = rows.select(
        "machine_id",
        "step",
        "known",
        "until",
        **{
            last: (rows.component == part).ifelse(rows.step, ibis.null("int64"))
            for part, last in replacements.items()
        },
    )

    def statistics(rows: ir.Table) -> dict[str, ir.Value]:
        return {last: rows[last].max() for last in replacements.values()}

    rolled = _rolling(_with_grid(replaced, readings), replaced, statistics, None, fleet)
    hours = _seconds(fleet.step) / 3600
    ages = rolled.mutate(
        **{
            f"{part}_age": (rolled.step - rolled[last]).cast("float64") * hours
            for part, last in replacements.items()
        }
    )
    return _stamped(ages, fleet, [f"{part}_age" for part in fleet.components])


def machine_attributes(machines: ir.Table, fleet: Fleet) -> ir.Table:
    """What each machine is. A machine whose attributes change gets a row for each version."""
    known = machines.received.cast(TIMESTAMP)
    attributes = {name: machines[name] for name in fleet.attributes}
    return machines.select(
        "machine_id", event_timestamp=known, created_timestamp=known, **attributes
    )


def _versioned(raw: ir.Table, fleet: Fleet, key: list[str]) -> ir.Table:
    """Give raw rows their `step` and the interval of knowledge, `known` and `until`."""
    rows = raw.mutate(step=_step_end(raw.timestamp, fleet), known=_step_end(raw.received, fleet))
    rows = rows.mutate(known=ibis.greatest(rows.step, rows.known))
    rows = rows.mutate(until=rows.known.lead().over(group_by=key, order_by=["received", "known"]))
    # Of two corrections within one step only the last was ever seen at the end of a step.
    return rows.filter(rows.until.isnull() | (rows.until > rows.known))


def _rolling(
    latest: ir.Table, versions: ir.Table, statistics: Statistics, view: View | None, fleet: Fleet
) -> ir.Table:
    """Take `statistics` over the window that ends with each step, in versions.

    `latest` is what holds by now, with `first_known`, which is null for rows that make no step of
    their own; `versions` is the same with everything that ever held. Without a `view` to give the
    window it is everything before.
    """
    steps = _window(view) // fleet.step if view else None
    reach = {"preceding": steps - 1, "following": 0} if steps else {"following": 0}
    window = ibis.range_window(group_by="machine_id", order_by="step", **reach)
    rolled = latest.select(
        "machine_id",
        "step",
        "first_known",
        **{name: value.over(window) for name, value in statistics(latest).items()},
        last_known=latest.known.max().over(window),
    ).filter(ibis._.first_known.notnull())
    names = [name for name in rolled.columns if name not in ("first_known", "last_known")]

    # Where everything in the window was known in time, there is one version, and it is this.
    in_time = rolled.filter(rolled.last_known <= rolled.step).select(*names, known="step")
    late = rolled.filter(rolled.last_known > rolled.step).select(
        "machine_id", "step", "first_known"
    )
    seen = _within(late, versions, steps)
    moments = seen.select(
        "machine_id", "step", known=ibis.greatest(seen.first_known, seen.row_known)
    )
    moments = moments.union(late.select("machine_id", "step", known="first_known"), distinct=True)
    held = _within(moments, versions, steps)
    held = held.filter(
        held.row_known <= held.known, held.row_until.isnull() | (held.known < held.row_until)
    )
    # `step` names the step asked for in `held`, and the row's own step in the statistics.
    asked = held.rename(asked="step").rename(step="row_step")
    found = (
        asked.group_by("machine_id", "asked", "known")
        .aggregate(**statistics(asked))
        .rename(step="asked")
    )
    # A version at which nothing in its window was known yet still is one, of empty statistics.
    found = moments.left_join(found, ["machine_id", "step", "known"]).select(*names, "known")
    return in_time.union(found.select(in_time.columns))


def _within(asked: ir.Table, rows: ir.Table, steps: int | None) -> ir.Table:
    """Pair each step asked for with the rows of its machine in the window that ends with it."""
    rows = rows.rename(row_step="step", row_known="known", row_until="until")
    rows = rows.drop(*[name for name in ("first_known",) if name in rows.columns])
    inside = [asked.step >= rows.row_step]
    if steps:
        inside.append(asked.step < rows.row_step + steps)
    return asked.inner_join(rows, ["machine_id", *inside])


def _with_grid(rows: ir.Table, readings: ir.Table) -> ir.Table:
    """The rows that hold by now, and an empty one for each step that has readings."""
    latest = rows.filter(rows.until.isnull()).drop("until").mutate(first_known=ibis.null("int64"))
    grid = readings.select("machine_id", "step", "first_known", known="first_known").distinct()
    empty = {
        name: ibis.null(kind) for name, kind in latest.schema().items() if name not in grid.columns
    }
    return latest.union(grid.mutate(**empty).select(latest.columns))


def _stamped(rows: ir.Table, fleet: Fleet, features: list[str]) -> ir.Table:
    """Turn step numbers into timestamps and keep the features alone."""
    return rows.select(
        "machine_id",
        event_timestamp=_moment(rows.step, fleet),
        created_timestamp=_moment(rows.known, fleet),
        **{name: rows[name] for name in features},
    )


def _statistic(values: ir.Column, seconds: ir.Column, kind: str) -> ir.Value:
    """One statistic of `values`; the slope is of a least-squares line, in units an hour."""
    if kind == "std":
        return values.std(how="sample")
    if kind == "slope":
        hours = (values.notnull()).ifelse(seconds / 3600, ibis.null("float64"))
        spread = hours.var(how="pop")
        return values.cov(hours, how="pop") / (spread > 0).ifelse(spread, ibis.null("float64"))
    return getattr(values, kind)()


def _step_end(timestamp: ir.Column, fleet: Fleet) -> ir.Column:
    """The number of the step that a time belongs to: a step holds its end and not its beginning."""
    before = _whole_seconds(timestamp - ibis.interval(microseconds=1))
    return (before // _seconds(fleet.step) + 1).cast("int64")


def _whole_seconds(timestamp: ir.Column) -> ir.Column:
    """Seconds since 1970; engines disagree on what to do with a fraction, so it is cut off."""
    return timestamp.truncate("s").epoch_seconds()


def _moment(step: ir.Column, fleet: Fleet) -> ir.Column:
    # Of seconds cast straight to a time with a zone, Ibis has PostgreSQL make one without.
    return (step * _seconds(fleet.step)).cast("timestamp(6)").cast(TIMESTAMP)


def _window(view: View) -> timedelta:
    if view.window is None:
        raise ValueError(f"view '{view.name}' has no window")
    return view.window


def _seconds(length: timedelta) -> int:
    return int(length.total_seconds())


def _one(condition: ir.Column) -> ir.Column:
    return condition.ifelse(1.0, 0.0)
