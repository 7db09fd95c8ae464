"""Which predictions came true.

A prediction says whether a machine will fail after its `as_of` and within the horizon. It is

- true, where a failure of the machine lies in (as_of, as_of + horizon]: one that was reported, or
  one of the table of failures. A failure is a fact, and goes before whatever else was said;
- false, where an outcome that names the prediction says that the machine did not fail, or that it
  failed after the horizon;
- false, where the machine was reported as not failed at or after the end of the horizon: whoever
  says so would have reported a failure before;
- false, where failures are known in full up to the end of the horizon or beyond it (`known_until`),
  and there is none;
- null otherwise: nobody has said yet. That a machine had not failed at some time within the horizon
  does not say how it went on.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from millwright.prediction_log.content import TIME, form

_FAILURES = form(
    machine_id=pa.string(),
    timestamp=TIME,
)
_SQL = """
WITH failed AS (
    SELECT machine_id, epoch_us(observed_at) AS at FROM outcomes WHERE failed
    UNION ALL SELECT machine_id, epoch_us(timestamp) FROM failures
), sound AS (
    SELECT machine_id, max(epoch_us(observed_at)) AS at FROM outcomes WHERE NOT failed GROUP BY ALL
), named AS (
    SELECT prediction_id, bool_or(NOT failed) AS sound, max(epoch_us(observed_at)) AS at
    FROM outcomes WHERE prediction_id IS NOT NULL GROUP BY ALL
), asked AS (
    SELECT place, prediction_id, machine_id, epoch_us(as_of) AS start,
    epoch_us(as_of) + $horizon AS ending FROM predictions
)
SELECT CASE
    WHEN failed.at <= ending THEN true
    WHEN named.sound OR named.at > ending THEN false
    WHEN sound.at >= ending THEN false
    WHEN $known >= ending THEN false
END AS label
FROM asked
ASOF LEFT JOIN failed ON asked.machine_id = failed.machine_id AND asked.start < failed.at
LEFT JOIN sound ON asked.machine_id = sound.machine_id
LEFT JOIN named ON asked.prediction_id = named.prediction_id
ORDER BY place
"""


def labels(
    predictions: pa.Table,
    outcomes: pa.Table,
    horizon: timedelta,
    failures: pa.Table | None = None,
    known_until: datetime | None = None,
) -> "pa.Array[Any]":
    """What became of each prediction: true, false or null, in their order.

    Args:
        predictions: `prediction_id`, `machine_id` and `as_of` (UTC).
        outcomes: what was reported, as `content.OUTCOMES`.
        horizon: how far ahead a prediction looks.
        failures: those that are known otherwise, `machine_id` and `timestamp` (UTC).
        known_until: up to when (UTC) those are all that there were.
    """
    import duckdb

    if failures is None:
        failures = _FAILURES.empty_table()
    known = None if known_until is None else _microseconds(known_until)
    with duckdb.connect() as connection:
        connection.register("outcomes", outcomes)
        connection.register("failures", failures)
        places = pa.array(range(len(predictions)), pa.int64())
        connection.register(
            "predictions",
            predictions.select(["prediction_id", "machine_id", "as_of"]).append_column(
                "place", places
            ),
        )
        given: dict[str, Any] = {"horizon": horizon // timedelta(microseconds=1), "known": known}
        found: pa.Table = connection.execute(_SQL, given).to_arrow_table()
    return found["label"].cast(pa.bool_()).combine_chunks()


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def scores(joined: pa.Table) -> list[dict[str, Any]]:
    """How well each release did in each role, as far as it is known what became of the machines.

    Of `predictions` that said something, `known` have a label; `alarms`, `failures` and `caught`
    (both) are of those. `precision` is the share of alarms that came true, `recall` that of
    failures that were foretold, None where there was none.
    """
    alarm, label = joined["alarm"], joined["label"]
    known = pc.is_valid(label)
    marks = {
        "predictions": pc.is_valid(alarm),
        "known": known,
        "alarms": pc.and_(known, alarm),
        "failures": label,
        "caught": pc.and_(label, alarm),
    }
    by = ["release", "role"]
    counted = joined.select(by).filter(pc.is_valid(alarm))
    for name, mark in marks.items():
        column: Any = mark.filter(pc.is_valid(alarm)).cast(pa.int64())
        counted = counted.append_column(name, column)
    sums = counted.group_by(by).aggregate([(name, "sum") for name in marks])
    found = []
    for row in sums.sort_by([(name, "ascending") for name in by]).to_pylist():
        each = {name: row[f"{name}_sum"] or 0 for name in marks}
        shares = {
            "precision": each["caught"] / each["alarms"] if each["alarms"] else None,
            "recall": each["caught"] / each["failures"] if each["failures"] else None,
        }
        found.append({**{name: row[name] for name in by}, **each, **shares})
    return found
