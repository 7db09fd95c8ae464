"""Predictions to whoever asks: our service against Feast and MLflow, servers and libraries.

Everybody reads the same rows of one Redis and scores them with the same trees; ours logs every
answer as well. What is measured has the first processor for itself; the client, Redis and
PostgreSQL share the last. Beside them is the floor: the server that ours runs in, doing nothing.
"""

from collections.abc import Callable
from functools import partial

import pyarrow as pa
import uvloop

from benchmarks import load, serving_contenders, serving_libraries
from benchmarks.benchmark import Benchmark, Case, Claim, Contender, Figures, Measured, Size, faster
from benchmarks.load import Record
from benchmarks.serving_contenders import Asked
from benchmarks.serving_libraries import Predict
from benchmarks.serving_plant import grouped, machines, make
from benchmarks.serving_processes import MEASURED, SHARED, logged, settle
from millwright.errors import MillwrightError

OURS, FLOOR = "millwright", "floor"
SERVERS, FEATURES = "feast serve, mlflow serve", "feast serve, features only"
LIBRARIES = "feast sdk, mlflow pyfunc"
# `seconds` of one turn, and of `warm` before; `asked` is the number of machines in requests.
FULL = {"seed": 1, "machines": 100_000, "asked": 1_000, "seconds": 10.0, "warm": 2.0}
QUICK = {"seed": 1, "machines": 5_000, "asked": 1_000, "seconds": 1.0, "warm": 0.5}
AT_ONCE = 1_000  # machines in one request, and of the fleet
RATE = 500.0  # requests a second of the open loop,
OPEN_CONNECTIONS = 64  # by more connections than there are ever requests under way

Work = Callable[[], object]


def _closed(contender: Callable[[Case], Asked], connections: int, case: Case) -> Work:
    """Each of so many connections asks again as soon as it is answered."""
    asked, options = contender(case), case.options
    settle(case, asked.client)

    async def ask_for(seconds: float) -> Record:
        asks = [await asked.connect() for _ in range(connections)]
        return await load.closed(asks, asked.questions, seconds, options["seed"])

    _whole(uvloop.run(ask_for(options["warm"])))

    def work() -> Measured:
        record = _whole(uvloop.run(ask_for(options["seconds"])))
        return record.measured(partial(_answers, asked, case))

    return work


def _opened(case: Case) -> Work:
    """Requests come as scheduled; every answer is looked for in the prediction log."""
    asked, options = serving_contenders.millwright(case), case.options
    settle(case, asked.client)

    async def ask_for(seconds: float) -> Record:
        asks = [await asked.connect() for _ in range(OPEN_CONNECTIONS)]
        moments = load.schedule(RATE, seconds, options["seed"])
        return await load.opened(asks, asked.questions, moments, options["seed"])

    warm = len(uvloop.run(ask_for(options["warm"])).latencies)

    def work() -> Measured:
        record = uvloop.run(ask_for(3 * options["seconds"]))
        answered = warm + len(record.latencies)
        return record.measured(None, unlogged=answered - logged(case, answered))

    return work


def _whole_fleet(library: Callable[[Case], Predict], case: Case) -> Work:
    """All machines, so many at once."""
    predict, names = library(case), machines(case)
    groups = grouped(names, AT_ONCE)
    predict(groups[0])
    return lambda: _table(names, [float(p) for some in groups for p in predict(some)])


def _whole(record: Record) -> Record:
    if record.failed:
        raise MillwrightError(f"{record.failed:,} requests failed, the first: {record.reason}")
    return record


def _answers(asked: Asked, case: Case) -> pa.Table | None:
    """What is said of each machine."""
    if asked.probabilities is None:
        return None

    async def answers() -> list[object]:
        ask = await asked.connect()
        return [await ask(number) for number in range(asked.questions)]

    names = machines(case, case.options["asked"])
    said = [float(p) for answer in uvloop.run(answers()) for p in asked.probabilities(answer)]
    return _table(names, said)


def _table(names: list[str], probabilities: list[float]) -> pa.Table:
    return pa.table({"machine": names, "probability": probabilities})


def _by_server(
    name: str, contender: Callable[[Case], Asked], connections: int = 1, *, as_shipped: bool = False
) -> Contender:
    return Contender(name, partial(_closed, contender, connections), as_shipped=as_shipped)


def _by_library(size: int) -> Contender:
    contender = partial(serving_libraries.asked, serving_libraries.feast_and_mlflow, size)
    return _by_server(LIBRARIES, contender, as_shipped=True)


def _benchmark(
    name: str, title: str, contenders: list[Contender], claims: list[Claim], tolerance: float = 1e-6
) -> Benchmark:
    return Benchmark(
        f"serving {name}", title, make, contenders,
        sizes={
            "quick": Size(QUICK, repeats=1, remark=_remark),
            "full": Size(FULL, claims=claims, remark=_remark),
        },
        key=["machine"], tolerance=tolerance, servers=["postgres", "redis"],
    )  # fmt: skip


def _one_each(connections: int) -> Benchmark:
    contenders = [
        _by_server(OURS, serving_contenders.millwright, connections),
        _by_server(SERVERS, serving_contenders.feast_and_mlflow, connections),
        _by_server(FEATURES, serving_contenders.feast, connections),
        _by_server(FLOOR, serving_contenders.constant, connections),
    ]
    claims = [faster(SERVERS, 20, ours=OURS), faster(FEATURES, 5, ours=OURS)]
    if connections == 1:
        contenders.insert(3, _by_library(1))
        claims += [_detail_under(OURS, "p50_ms", 2), _no_worse(LIBRARIES, "p99_ms", ours=OURS)]
    return _benchmark(
        f"{connections}",
        f"1,000 requests about one machine each, {connections} at once, against Feast and MLflow",
        contenders,
        claims,
    )


def _detail_under(ours: str, name: str, most: float) -> Claim:
    """In the median of the turns."""

    def holds(figures: Figures) -> bool | None:
        value = figures[ours].detail(name)
        return None if value is None else value < most

    return Claim(f"{ours} with a {_shown(name)} under {most:g}", holds)


def _none(ours: str, name: str) -> Claim:
    """In none of the turns."""

    def holds(figures: Figures) -> bool | None:
        turns = figures[ours].details
        return not any(turn[name] for turn in turns) if turns else None

    return Claim(f"{ours} with none {name}", holds)


def _no_worse(other: str, name: str, *, ours: str) -> Claim:
    def holds(figures: Figures) -> bool | None:
        own, theirs = figures[ours].detail(name), figures[other].detail(name)
        return None if own is None or theirs is None else own <= theirs

    return Claim(f"{ours} with a {_shown(name)} no worse than {other}", holds)


def _shown(detail: str) -> str:
    return detail.replace("_", " in ")


def _remark(_: Figures) -> str:
    return f"what is measured on processor {MEASURED}; client, Redis and PostgreSQL on {SHARED}"


BENCHMARKS = [
    *map(_one_each, (1, 8, 32)),
    _benchmark(
        "many",
        f"1,000 requests about {AT_ONCE:,} machines each, one at once, against Feast and MLflow",
        [
            _by_server(OURS, partial(serving_contenders.millwright, size=AT_ONCE)),
            _by_library(AT_ONCE),
        ],
        [faster(LIBRARIES, 4, ours=OURS)],
    ),
    _benchmark(
        "open",
        f"{RATE:g} requests a second about one machine each, as scheduled, answered or not",
        [Contender(OURS, _opened)],
        [_detail_under(OURS, "p99_ms", 20), _none(OURS, "failed"), _none(OURS, "unlogged")],
    ),
    _benchmark(
        "fleet",
        "every machine of the fleet, against Feast and MLflow",
        [
            Contender(OURS, partial(_whole_fleet, serving_libraries.millwright)),
            Contender(
                LIBRARIES,
                partial(_whole_fleet, serving_libraries.feast_and_mlflow),
                as_shipped=True,
            ),
        ],
        [faster(LIBRARIES, 5, ours=OURS)],
    ),
]
