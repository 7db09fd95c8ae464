"""What a benchmark is: data made from a seed, contenders that do the same work, and claims."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Begin = Callable[["Case"], Callable[[], object]]
Figures = Mapping[str, "Figure"]


@dataclass(frozen=True)
class Case:
    """What a contender is given.

    `options` are those of the size and of the contender. `data` is the folder that `make` filled,
    to read only. `scratch` is an empty folder, which the process works in and which is removed
    afterwards. `servers` has the URL of each server that the benchmark asks for, `pids` the ids of
    their processes.
    """

    options: Mapping[str, Any]
    data: Path
    scratch: Path
    servers: Mapping[str, str] = field(default_factory=dict)
    pids: Sequence[int] = ()


@dataclass(frozen=True)
class Measured:
    """The result of work that has a clock of its own, such as requests for a given time.

    `seconds` goes before what the harness's clock says; `details` are further figures by name.
    """

    seconds: float
    details: Mapping[str, float]
    result: object = None


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    `begin` does what is outside of the clock (imports, opening a store, reading the cut-offs) and
    returns the work. The work returns its result: a frame (pandas, polars, Arrow), the path of a
    parquet file or of a folder of them, or a dictionary of such by name. A function is called for
    the result when the clock has stopped. None is compared with nothing. `Measured` has a clock of
    its own.

    `options` go before those of the size; `repeats` is for one that is slow. One that is
    `as_shipped` has Feast check the types of what it is called with, as Feast's own command does;
    the commands of this project do without.
    """

    name: str
    begin: Begin
    options: Mapping[str, Any] = field(default_factory=dict)
    repeats: int | None = None
    as_shipped: bool = False


@dataclass(frozen=True)
class Claim:
    """What is said of the figures; `holds` gives None where a contender left no figure."""

    text: str
    holds: Callable[[Figures], bool | None]


@dataclass(frozen=True)
class Size:
    """How large, how often, and what each contender may use (of its processes and servers)."""

    options: Mapping[str, Any]
    repeats: int = 3
    seconds: float = 300
    memory_gb: float = 16
    disk_gb: float = 20
    claims: Sequence[Claim] = ()
    remark: Callable[[Figures], str] | None = None


@dataclass(frozen=True)
class Benchmark:
    """Contenders side by side. The first is ours, and ratios are to it.

    `make` fills `Case.data`; its code, the options of the size and the data are kept together, so
    benchmarks that share `make` and options share data.
    `key` names the columns that say which row is which; without any, the order of rows has to be
    the same. Of results by name it is a dictionary. `tolerance` is relative and absolute.
    `servers` are some of `postgres` and `redis`.
    """

    name: str
    title: str
    make: Callable[[Case], None]
    contenders: Sequence[Contender]
    sizes: Mapping[str, Size]
    key: Sequence[str] | Mapping[str, Sequence[str]] = ()
    tolerance: float = 0.0
    servers: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """What became of a contender. One that was ended has no seconds and no memory.

    `equal` is false for all of a benchmark whose results differ, and then none has a figure; it is
    None without a result, or with none to compare it with. `ratio` is seconds over those of the
    first contender. `details` are further figures of each turn.
    """

    benchmark: str
    size: str
    contender: str
    seconds: float | None = None
    peak_memory_mb: float | None = None
    equal: bool | None = None
    ended: str = "ok"
    ratio: float | None = None
    repeats: Sequence[float] = ()
    details: Sequence[Mapping[str, float]] = ()

    def detail(self, name: str) -> float | None:
        """The median of a further figure over the turns; None where it was not measured."""
        return statistics.median(each[name] for each in self.details) if self.details else None

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def faster(other: str, times: float, *, ours: str) -> Claim:
    """`other` takes at least `times` as long as `ours`; below 1, `ours` may take longer."""
    if times == 1:
        text = f"{ours} no slower than {other}"
    elif times > 1:
        text = f"{ours} at least {times:g} times as fast as {other}"
    else:
        text = f"{ours} within {1 / times:g} times the seconds of {other}"
    return Claim(text, lambda figures: _ratio(figures, other, ours, "seconds", times))


def leaner(other: str, times: float, *, ours: str) -> Claim:
    """`other` takes at least `times` the memory of `ours`."""
    text = f"{ours} with at most 1/{times:g} of the memory of {other}"
    return Claim(text, lambda figures: _ratio(figures, other, ours, "peak_memory_mb", times))


def under(ours: str, *, seconds: float | None = None, memory_mb: float | None = None) -> Claim:
    """`ours` takes less than so many seconds and so much memory."""
    limits = {"seconds": seconds, "peak_memory_mb": memory_mb}
    asked = {name: limit for name, limit in limits.items() if limit is not None}
    units = {"seconds": "s", "peak_memory_mb": "MB"}
    said = [f"{limit:,g} {units[name]}" for name, limit in asked.items()]

    def holds(figures: Figures) -> bool | None:
        values = [(getattr(figures[ours], name), limit) for name, limit in asked.items()]
        return None if any(v is None for v, _ in values) else all(v < most for v, most in values)

    return Claim(f"{ours} under {' and '.join(said)}", holds)


def _ratio(figures: Figures, other: str, ours: str, what: str, times: float) -> bool | None:
    theirs, own = getattr(figures[other], what), getattr(figures[ours], what)
    return None if theirs is None or own is None else bool(theirs >= times * own)
