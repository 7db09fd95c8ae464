"""Runs a benchmark: makes its data, has contenders take turns, compares, and then gives figures.

A work folder holds `data/` (made once), `results/` and `scratch/`. Each contender runs in a process
of its own, one at a time: A B C, A B C, and so on, so that a slow minute of the machine is nobody's
alone. Its figure is the median of the seconds of its turns and the largest of their peaks.
"""

import hashlib
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

from benchmarks import comparison, supervision
from benchmarks.benchmark import Benchmark, Contender, Figure
from benchmarks.child import Order, find
from benchmarks.servers import Running, running
from benchmarks.supervision import Ending
from millwright.errors import MillwrightError
from millwright.lock import held
from millwright.terminal import say


@dataclass(frozen=True)
class Outcome:
    """The figures of a benchmark, in the order of its contenders, and what was said of them.

    `difference` says where results differ. `claims` are true, false, or None without a figure.
    """

    benchmark: Benchmark
    size: str
    figures: Sequence[Figure]
    difference: str | None = None
    claims: Mapping[str, bool | None] = field(default_factory=dict)
    remark: str = ""

    @property
    def ours(self) -> Figure:
        """The figure of the first contender."""
        return self.figures[0]


def run(module: str, name: str, size: str, work: Path, repeats: int | None = None) -> Outcome:
    """Run the benchmark `name` of `module` in the folder `work`, which one run at a time may have.

    Raises:
        MillwrightError: the data could not be made, or a server did not start.
    """
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    with held(work / "harness.lock", say):
        return _Run(module, name, size, work, repeats).outcome()


class _Run:
    def __init__(self, module: str, name: str, size: str, work: Path, repeats: int | None) -> None:
        self.module = module
        self.benchmark = find(module, name)
        self.size_name = size
        self.size = self.benchmark.sizes[size]
        self.repeats = repeats
        made = self.benchmark.make
        said = json.dumps([dict(self.size.options), list(self.benchmark.servers)])
        self.data = work / "data" / f"{made.__module__}.{made.__name__}-{_hash(said.encode())}"
        # Other code makes other data, in the place of the old.
        self.stamp = _hash(_code(import_module(made.__module__)))
        self.scratch = work / "scratch"
        self.results = work / "results" / f"{file_name(self.benchmark.name)}-{size}"

    def outcome(self) -> Outcome:
        stamp = self.data / "stamp"
        if not stamp.exists() or stamp.read_text(encoding="ascii") != self.stamp:
            self._make()
            stamp.write_text(self.stamp, encoding="ascii")
        _remove(self.results)
        self.results.mkdir(parents=True)
        with running(self.benchmark.servers, self.data) as servers:
            endings = self._take_turns(servers)
        compared = self._compared(endings)
        different = self._difference(compared)
        if different is None:
            _remove(self.results)
        return self._outcome(endings, compared, different)

    def _make(self) -> None:
        say(f"{self.benchmark.name} {self.size_name}: making its data in {self.data}")
        _remove(self.data)
        self.data.mkdir(parents=True)
        with running(self.benchmark.servers, self.data) as servers:
            ending = self._process(None, servers, None)
        if ending.ended != "ok":
            raise MillwrightError(
                f"the data of benchmark '{self.benchmark.name}' could not be made: {ending.ended}; "
                f"the rest is in {self.scratch / 'log'}"
            )

    def _take_turns(self, servers: Running) -> dict[str, list[Ending]]:
        turns: dict[str, list[Ending]] = {each.name: [] for each in self.benchmark.contenders}
        for turn in range(self.repeats or self.size.repeats):
            for contender in self.benchmark.contenders:
                so_far = turns[contender.name]
                enough = turn >= (contender.repeats or turn + 1)
                if enough or any(ending.seconds is None for ending in so_far):
                    continue
                results = None if turn else self.results / file_name(contender.name)
                ending = self._process(contender, servers, results)
                so_far.append(ending)
                self._tell(contender, turn, ending)
        return turns

    def _process(
        self, contender: Contender | None, servers: Running, results: Path | None
    ) -> Ending:
        _remove(self.scratch)
        inside = self.scratch / "work"
        inside.mkdir(parents=True)
        order = Order(
            module=self.module,
            benchmark=self.benchmark.name,
            contender=contender.name if contender else None,
            as_shipped=contender is not None and contender.as_shipped,
            options={**self.size.options, **(contender.options if contender else {})},
            data=str(self.data),
            scratch=str(inside),
            servers=servers.urls,
            pids=servers.pids,
            results=str(results) if results else None,
        )
        return supervision.run(order, self.size, servers.pids, self.scratch / "log")

    def _tell(self, contender: Contender, turn: int, ending: Ending) -> None:
        what = (
            ending.ended
            if ending.seconds is None
            else f"{ending.seconds:.2f} s, {ending.peak_memory_mb:,.0f} MB"
        )
        say(f"{self.benchmark.name} {self.size_name}, turn {turn + 1}: {contender.name}: {what}")

    def _difference(self, there: Sequence[str]) -> str | None:
        """Where the first result that differs from the first contender's does so."""
        for name in there[1:]:
            found = comparison.difference(
                self.results / file_name(there[0]),
                self.results / file_name(name),
                self.benchmark.key,
                self.benchmark.tolerance,
            )
            if found:
                return f"{there[0]} against {name}: {found}; see {self.results}"
        return None

    def _compared(self, endings: Mapping[str, Sequence[Ending]]) -> list[str]:
        """Whoever has left a result."""
        return [
            name
            for name, turns in endings.items()
            if turns[0].seconds is not None and (self.results / file_name(name)).exists()
        ]

    def _outcome(
        self,
        endings: Mapping[str, list[Ending]],
        compared: Sequence[str],
        different: str | None,
    ) -> Outcome:
        equal = different is None if len(compared) > 1 else None
        figures = [
            self._figure(name, turns, equal if name in compared or different else None)
            for name, turns in endings.items()
        ]
        ours = figures[0].seconds
        figures = [
            replace(each, ratio=each.seconds / ours) if each.seconds and ours else each
            for each in figures
        ]
        named = {each.contender: each for each in figures}
        whole = different is None and all(each.seconds for each in figures)
        return Outcome(
            benchmark=self.benchmark,
            size=self.size_name,
            figures=figures,
            difference=different,
            claims={claim.text: claim.holds(named) for claim in self.size.claims},
            remark=self.size.remark(named) if self.size.remark and whole else "",
        )

    def _figure(self, name: str, turns: Sequence[Ending], equal: bool | None) -> Figure:
        figure = Figure(self.benchmark.name, self.size_name, name)
        died = next((ending.ended for ending in turns if ending.seconds is None), None)
        if died:
            return replace(figure, ended=died)
        if equal is False:
            return replace(figure, equal=False)
        seconds = [ending.seconds for ending in turns if ending.seconds is not None]
        return replace(
            figure,
            seconds=statistics.median(seconds),
            peak_memory_mb=max(ending.peak_memory_mb or 0.0 for ending in turns),
            equal=equal,
            repeats=seconds,
            details=[ending.details for ending in turns if ending.details],
        )


def _code(module: ModuleType) -> bytes:
    """The code of a module, and of those of `benchmarks` that it imports as modules."""
    parts = [
        part
        for part in vars(module).values()
        if isinstance(part, ModuleType) and part.__name__.startswith("benchmarks.")
    ]
    return b"".join(Path(str(part.__file__)).read_bytes() for part in [module, *parts])


def _hash(said: bytes) -> str:
    return hashlib.sha256(said).hexdigest()[:12]


def file_name(name: str) -> str:
    """`name` as a file can be called."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
