"""Statistics over the window that ends with each step, in versions (`millwright.features`)."""

from collections.abc import Callable

import ibis
import ibis.expr.types as ir

from millwright.fleet import Fleet

Statistics = Callable[[ir.Table], dict[str, ir.Value]]

# Windows of more steps than this are slid: pairs grow with their length.
LONG = 48


def of_readings(
    asked: ir.Table, readings: ir.Table, statistics: Statistics, steps: int, fleet: Fleet
) -> ir.Table:
    """`rolling` over the readings of each step, whichever way takes less."""
    roll = rolling if steps <= LONG else _sliding
    return roll(asked, readings, statistics, steps, fleet)


def rolling(
    asked: ir.Table, rows: ir.Table, statistics: Statistics, steps: int | None, fleet: Fleet
) -> ir.Table:
    """Take `statistics` over the window that ends with each step of `asked`, in versions.

    `asked` are readings, and `rows` is everything that ever held, with `step`, `known` and `until`;
    the statistics also find `seconds` there, counted from the end of the window. A window has
    `steps` steps, or is everything before. It is computed from pairs of a version and a row in it.
    """
    moments = _moments(asked, rows, steps)
    # `asked` and `at` name a version, and `step` is the step of a row in its window.
    versions = moments.rename(asked="step", at="known")
    if "first_known" in rows.columns:
        rows = rows.drop("first_known")
    pairs = _pairs(versions, rows, steps)
    held = pairs.filter(pairs.known <= pairs.at, pairs.until.isnull() | (pairs.at < pairs.until))
    held = held.mutate(seconds=(held.step - held.asked) * int(fleet.step.total_seconds()))
    found = held.group_by("machine_id", "asked", "at").aggregate(**statistics(held))
    # A version at which nothing in its window was known yet still is one, of empty statistics.
    of_moment = [
        moments.machine_id == found.machine_id,
        moments.step == found.asked,
        moments.known == found.at,
    ]
    return moments.left_join(found, of_moment, rname="found:{name}")


def _sliding(
    asked: ir.Table, readings: ir.Table, statistics: Statistics, steps: int, fleet: Fleet
) -> ir.Table:
    """The same as `rolling`, for long windows: what was known in time by window functions."""
    reach = {"preceding": steps - 1, "following": 0}
    window = ibis.range_window(group_by="machine_id", order_by="step", **reach)
    latest = readings.filter(readings.until.isnull())
    # Counted from a machine's first step the seconds are small enough for a slope over them.
    counted = latest.step - latest.step.min().over(group_by="machine_id")
    latest = latest.mutate(seconds=counted * int(fleet.step.total_seconds()))
    values = {name: value.over(window) for name, value in statistics(latest).items()}
    slid = latest.select(
        "machine_id",
        "step",
        **values,
        last_known=latest.known.max().over(window),
    )
    # Where everything in the window was known in time, there is one version, and it is this.
    in_time = slid.filter(slid.last_known <= slid.step).mutate(known=slid.step)
    late = asked.anti_join(in_time, ["machine_id", "step"])
    rolled = rolling(late, readings, statistics, steps, fleet)
    names = ["machine_id", "step", "known", *values]
    return in_time.select(names).union(rolled.select(names))


def _moments(asked: ir.Table, rows: ir.Table, steps: int | None) -> ir.Table:
    """The versions of each step that is `asked`: when something in its window became known."""
    grid = asked.filter(asked.until.isnull()).select("machine_id", "first_known", asked="step")
    # What was known in time is in a step's first version already.
    late = rows.filter(rows.known > rows.step).select("machine_id", "step", "known").distinct()
    seen = _pairs(grid, late, steps)
    seen = seen.filter(seen.first_known < seen.known)
    first = grid.select("machine_id", step="asked", known="first_known")
    return first.union(
        seen.select("machine_id", "known", step="asked")[first.columns], distinct=True
    )


def _pairs(asked: ir.Table, rows: ir.Table, steps: int | None) -> ir.Table:
    """Each row of `asked` with each of `rows` whose `step` lies in the window that ends there.

    Of so many steps; without a number it is everything before.
    """
    if not steps:
        return asked.inner_join(rows, ["machine_id", asked.asked >= rows.step])
    # A window lies in the block of its end and the one before: no row meets all the others.
    rows = rows.mutate(block=rows.step // steps)
    asked = asked.mutate(block=asked.asked // steps)
    asked = asked.union(asked.mutate(block=asked.block - 1))
    inside = [asked.asked >= rows.step, asked.asked < rows.step + steps]
    return asked.inner_join(rows, ["machine_id", "block", *inside])
