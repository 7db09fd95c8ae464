"""Feature tables in parquet files on this machine, computed by DuckDB."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

import duckdb

from millwright import engine
from millwright.compiled import Compiled
from millwright.engine import DuckDBEngine
from millwright.errors import MillwrightError, first_line
from millwright.fleet import Fleet
from millwright.raw_store import RawStore
from millwright.settings import Engine
from millwright.view_files import ViewFiles
from millwright.views import View
from millwright.warehouse import part_of


class ParquetWarehouse:
    """The feature tables of one fleet under `folder`, computed from its raw store."""

    def __init__(self, folder: Path, fleet: Fleet, raw: RawStore, settings: Engine) -> None:
        self.folder = folder
        self.fleet = fleet
        self.raw = raw
        self.settings = settings

    @property
    def modules(self) -> Sequence[ModuleType]:
        """Our source that the rows follow from, besides the expressions themselves."""
        return (engine,)

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Tell what to do about a file that cannot be read or written in the block."""
        try:
            with self.raw.reading():
                yield
        except (OSError, duckdb.Error) as err:
            raise MillwrightError(
                f"cannot write the feature tables in {self.folder}: {first_line(err)}; make room "
                "or give another folder with MILLWRIGHT_HOME, and run again to go on from here"
            ) from err

    def tables(self, view: View, definition: str, known: Collection[str]) -> ViewFiles:
        """The files of `view`."""
        return ViewFiles(self.folder / view.name, view, definition, known)

    @contextmanager
    def engines(self, count: int) -> Iterator[Sequence[DuckDBEngine]]:
        """So many engines, each with its part of the memory and a spill folder of its own."""
        limit = part_of(self.settings.memory_limit, count)
        with ExitStack() as stack:
            engines, compiled = [], Compiled("duckdb")
            for number in range(count):
                spill = self.folder / f".spill-{number}"
                engines.append(DuckDBEngine(self.fleet, self.raw, limit, spill, compiled))
                stack.callback(engines[-1].connection.disconnect)
            yield engines
