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

from datetime import timedelta

import ibis
import ibis.expr.types as ir

from millwright import windows
from millwright.fleet import Fleet
from millwright.views import View

TIMESTAMP = "timestamp('UTC', 6)"
_FIRST = "first:known"


def build(view: View, fleet: Fleet, tables: dict[str, ir.Table]) -> ir.Table:
    """The table of a view, from the raw tables that it names in `sources`.

    `tables` holds `readings`, which is what `step_readings` makes of the telemetry, instead of the
    telemetry itself, so that an engine can compute them once for several views; `asked`, if it is
    there, are those of them whose steps get features of windows. Features are float64 or string;
    rows come in no order. The anomaly score is not made here.
    """
    if view.kind == "attributes":
        return machine_attributes(tables["machines"], fleet)
    readings = tables["readings"]
    if view.kind == "step":
        return _stamped(readings, fleet, list(view.features))
    asked = tables.get("asked", readings)
    if view.kind == "window":
        return sensor_windows(asked, readings, view, fleet)
    if view.kind == "errors":
        return error_counts(asked, tables["errors"], view, fleet)
    if view.kind == "maintenance":
        return component_ages(asked, tables["maintenance"], fleet)
    raise ValueError(
        f"view '{view.name}' of kind '{view.kind}' is not an expression over raw tables"
    )


def step_readings(telemetry: ir.Table, fleet: Fleet) -> ir.Table:
    """Statistics of the readings within each step, in versions.

    Columns: `machine_id`, `step`, `known`, `until` (null: still holds), `first_known`, and
    `<sensor>_<statistic>_<step>` for each of the fleet's `step_statistics`, with the mean always.
    """
    key = ["machine_id", "timestamp"]
    # Which versions there are follows from narrow rows; the wide ones are read once, to be counted.
    marks = _versioned(telemetry.select(*key, "received"), fleet, key)
    versions = marks.select("machine_id", "step", "known").distinct()
    same_step = ibis.window(group_by=["machine_id", "step"], order_by="known")
    # Sensors may be called as they like: no sensor has a name with a colon.
    first = versions.known.min().over(group_by=["machine_id", "step"])
    versions = versions.mutate(until=versions.known.lead().over(same_step), **{_FIRST: first})
    rows = _versioned(telemetry, fleet, key).rename({"row:known": "known", "row:until": "until"})
    held = rows.inner_join(
        versions,
        [
            "machine_id",
            "step",
            rows["row:known"] <= versions.known,
            rows["row:until"].isnull() | (versions.known < rows["row:until"]),
        ],
    )
    # Counted from the step's own end the seconds are small, and a slope over them is exact.
    seconds = _whole_seconds(held.timestamp) - held.step * _seconds(fleet.step)
    label = fleet.label(fleet.step)
    kinds = dict.fromkeys(("mean", *fleet.features.step_statistics))
    steps = held.group_by("machine_id", "step", "known", "until", _FIRST).aggregate(
        **{
            f"{sensor}_{kind}_{label}": _statistic(held[sensor], seconds, kind)
            for sensor in fleet.sensors
            for kind in kinds
        }
    )
    return steps.rename(first_known=_FIRST)


def sensor_windows(asked: ir.Table, readings: ir.Table, view: View, fleet: Fleet) -> ir.Table:
    """Statistics of the step means of each sensor over the window that ends with each step."""
    label, step = fleet.label(_window(view)), fleet.label(fleet.step)

    def statistics(rows: ir.Table) -> dict[str, ir.Value]:
        return {
            f"{sensor}_{kind}_{label}": _statistic(
                rows[f"{sensor}_mean_{step}"], rows.seconds, kind
            )
            for sensor in fleet.sensors
            for kind in fleet.features.statistics
        }

    rolled = windows.of_readings(asked, readings, statistics, _window(view) // fleet.step, fleet)
    return _stamped(rolled, fleet, list(view.features))


def error_counts(asked: ir.Table, errors: ir.Table, view: View, fleet: Fleet) -> ir.Table:
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

    rolled = windows.rolling(asked, counts, statistics, _window(view) // fleet.step, fleet)
    # Where no row was there to count, there was no error.
    found = {name: rolled[name].coalesce(0).cast("float64") for name in view.features}
    rolled = rolled.mutate(**found)
    return _stamped(rolled, fleet, list(view.features))


def component_ages(asked: ir.Table, maintenance: ir.Table, fleet: Fleet) -> ir.Table:
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

    rolled = windows.rolling(asked, replaced, statistics, None, fleet)
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
    """Give raw rows their `step` and the interval of knowledge, `known` and `until`.

    A key is received at a time once.
    """
    rows = _placed(raw, fleet)
    # Few rows have a successor. To look for one among the keys alone spares sorting wide rows.
    narrow = _placed(raw.select(*key, "received"), fleet)
    repeated = narrow.group_by(key).aggregate(times=narrow.count()).filter(ibis._.times > 1)
    again = narrow.semi_join(repeated, key)
    same_key = {"group_by": key, "order_by": ["received", "known"]}
    again = again.select(*key, "received", until=again.known.lead().over(**same_key))
    again = again.filter(again.until.notnull())
    joined = rows.left_join(again, [*key, "received"], rname="again:{name}")
    rows = joined.select(*rows.columns, "until")
    # Of two corrections within one step only the last was ever seen at the end of a step.
    return rows.filter(rows.until.isnull() | (rows.until > rows.known))


def _placed(raw: ir.Table, fleet: Fleet) -> ir.Table:
    """Give raw rows their `step`, and the step from which they were `known`."""
    rows = raw.mutate(step=_step_end(raw.timestamp, fleet), known=_step_end(raw.received, fleet))
    return rows.mutate(known=ibis.greatest(rows.step, rows.known))


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
    return condition.ifelse(1, 0)
