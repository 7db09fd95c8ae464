"""A made-up fleet: the tables that a real one brings, at any size, the same for the same seed.

`wear` says what happens inside a machine and `assembly` turns it into rows; this module writes
them, in blocks of machines, so memory does not grow with the fleet.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from filelock import FileLock, Timeout

from millwright import durations
from millwright.assembly import HOUR, Assembly, Rows, Times
from millwright.durations import UNITS
from millwright.errors import BusyError, ConfigurationError, DataError
from millwright.fleet import Fleet, Simulation

FileFormat = Literal["parquet", "csv"]

VERSION = 1  # raise it when the same parameters make other data
RECORD = "simulation.json"
SHAPING = {
    "step",
    "tables",
    "sensors",
    "error_codes",
    "components",
    "attributes",
    "counts_cycles",
}
BLOCK_CELLS = 4_000_000
BLOCK_ROWS = 250_000
BLOCK_MACHINES = 1_000


def simulate(
    fleet: Fleet,
    simulation: Simulation,
    folder: Path,
    *,
    file_format: FileFormat = "parquet",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the raw tables of `fleet` into `folder`, under the names that its file gives them.

    The folder appears when it is complete, in place of an earlier simulation there. A machine that
    counts cycles starts at cycle 0, so what was replaced before has a negative cycle.

    Args:
        fleet: which tables, columns, sensors and components there are.
        simulation: how large the fleet is, and what is wrong with its data.
        folder: where the tables go.
        file_format: of the files; their names end with it.
        progress: called after each machine with how many are done, and of how many.

    Raises:
        BusyError: another process simulates into this folder.
        ConfigurationError: a fleet that counts cycles has readings between two cycles.
        DataError: the folder holds something that is not a simulated fleet.
    """
    interval = simulation.reading_interval or fleet.step
    if fleet.counts_cycles and interval % UNITS["cycle"]:
        raise ConfigurationError(
            f"fleet '{fleet.name}' counts cycles, and 'simulation.reading_interval' is "
            f"{durations.label(interval, cycles=True)}; write it in whole cycles"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.parent / f".{folder.name}.lock", timeout=0):
            _refuse_strangers(folder)
            partial = _empty(folder, "partial")
            try:
                partial.mkdir()
                _write(fleet, simulation, partial, file_format, progress)
                record = json.dumps(_record(fleet, simulation), indent=2)
                (partial / RECORD).write_text(record + "\n", encoding="utf-8")
                _replace(folder, partial)
            finally:
                _empty(folder, "partial")
    except Timeout as err:
        raise BusyError(f"another process simulates into {folder}; wait until it is done") from err


def is_current(fleet: Fleet, simulation: Simulation, folder: Path) -> bool:
    """Whether `folder` holds what `simulate` would write there, in one of its file formats."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    sources = [getattr(fleet.tables, name).source for name in fleet.table_names]
    return bool(record == _record(fleet, simulation)) and any(
        all((folder / f"{source}.{ending}").is_file() for source in sources)
        for ending in ("parquet", "csv")
    )


def _record(fleet: Fleet, simulation: Simulation) -> dict[str, Any]:
    """Everything that the data depends on."""
    return {
        "version": VERSION,
        "simulation": simulation.model_dump(mode="json"),
        "fleet": fleet.model_dump(mode="json", include=SHAPING),
    }


def _refuse_strangers(folder: Path) -> None:
    """Never replace a folder that somebody else filled."""
    filled = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if filled and not (folder / RECORD).is_file():
        raise DataError(
            f"{folder} holds something that is not a simulated fleet; "
            "move it away or choose another folder"
        )


def _empty(folder: Path, ending: str) -> Path:
    """The place beside `folder` for what is not yet, or no longer, in it; cleared of leftovers."""
    place = folder.parent / f".{folder.name}.{ending}"
    shutil.rmtree(place, ignore_errors=True)
    return place


def _replace(folder: Path, partial: Path) -> None:
    former = _empty(folder, "former")
    if folder.exists():
        folder.rename(former)
    partial.rename(folder)
    _empty(folder, "former")


def _write(
    fleet: Fleet,
    simulation: Simulation,
    folder: Path,
    file_format: FileFormat,
    progress: Callable[[int, int], None] | None,
) -> None:
    assembly = Assembly(fleet, simulation)
    block: list[dict[str, Rows]] = []
    with ExitStack() as stack:
        writers: dict[str, Any] = {}
        for number in range(1, simulation.machines + 1):
            block.append(assembly.make(number))
            if len(block) == _block_size(assembly) or number == simulation.machines:
                for name in fleet.table_names:
                    table = _table([rows[name] for rows in block], assembly, file_format)
                    if name not in writers:
                        source = getattr(fleet.tables, name).source
                        writer = _writer(folder / f"{source}.{file_format}", table.schema)
                        writers[name] = stack.enter_context(writer)
                    writers[name].write_table(table)
                block.clear()
            if progress:
                progress(number, simulation.machines)


def _block_size(assembly: Assembly) -> int:
    """How many machines to hold in memory at a time."""
    rows = len(assembly.readings)
    cells = rows * len(assembly.fleet.sensors)
    return max(1, min(BLOCK_CELLS // cells, BLOCK_ROWS // rows, BLOCK_MACHINES))


def _writer(path: Path, schema: Any) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        return pyarrow.csv.CSVWriter(path, schema)
    return pyarrow.parquet.ParquetWriter(path, schema, compression="zstd")


def _table(block: list[Rows], assembly: Assembly, file_format: FileFormat) -> Any:
    """The rows of several machines as one Arrow table."""
    arrays = {}
    for column in block[0]:
        values = np.concatenate([rows[column] for rows in block])
        if values.dtype.kind == "M":
            arrays[column] = _written(values, assembly, file_format)
        elif values.dtype.kind in "UO":
            arrays[column] = pa.array(values, type=pa.string())
        else:
            arrays[column] = pa.array(values, from_pandas=True)  # NaN is a gap: null
    return pa.table(arrays)


def _written(times: Times, assembly: Assembly, file_format: FileFormat) -> Any:
    """Times as the fleet and the format write them."""
    if assembly.fleet.counts_cycles:
        return pa.array((times - assembly.start) // HOUR)
    if file_format == "csv":
        unit = "us" if assembly.interval % UNITS["s"] else "s"
        return pa.array(np.datetime_as_string(times.astype(f"M8[{unit}]"), timezone="UTC"))
    return pa.array(times.view(np.int64), type=pa.timestamp("us", tz="UTC"))
