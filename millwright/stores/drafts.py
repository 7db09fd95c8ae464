"""Files and folders of this machine, written beside their place and then put there whole.

The lock of a draft is its writer's, and the operating system lets go of it when the writer ends,
however it ends. So of two that write one file the second waits for the first, and what a killed one
left is written over or removed by the next.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from millwright.errors import ConfigurationError, first_line

SUFFIX = ".unfinished"


@contextmanager
def drafted(path: Path) -> Iterator[IO[bytes]]:
    """Yield an empty file that becomes `path` when the block ends well."""
    with unnamed(path.parent, path.name) as (draft, unfinished):
        yield draft
        draft.flush()
        unfinished.replace(path)


@contextmanager
def unnamed(folder: Path, name: str) -> Iterator[tuple[IO[bytes], Path]]:
    """Yield an empty file, and its path in `folder`, which is removed unless the block moves it.

    Whoever asks for another of that `name` waits for the end of the block.
    """
    unfinished = folder / f".{name}{SUFFIX}"
    with _named(folder / name):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(unfinished) as draft:
            try:
                yield draft, unfinished
            finally:
                if _is(draft, unfinished):
                    unfinished.unlink()


@contextmanager
def folder_drafted(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path`, where nothing is yet, when the block ends well."""
    unfinished = path.with_name(f".{path.name}{SUFFIX}")
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(path.parent):  # nobody sweeps before this draft has its lock
            _sweep(path.parent)
            unfinished.mkdir()
            mine = _lock(unfinished)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            os.close(mine)
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise ConfigurationError(
            f"cannot write {path}: {err.strerror or first_line(err)}; mend that, or name another "
            "place"
        ) from err


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    held = _lock(folder)
    try:
        yield
    finally:
        os.close(held)


def _sweep(folder: Path) -> None:
    """Remove the folders of writers that were killed: those that nobody holds."""
    for left in folder.glob(f".*{SUFFIX}/"):
        try:
            held = _lock(left, fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        shutil.rmtree(left, ignore_errors=True)
        os.close(held)


def _lock(folder: Path, how: int = 0) -> int:
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | how)
    except BaseException:
        os.close(held)
        raise
    return held


def _locked(path: Path) -> IO[bytes]:
    """The file at `path`, emptied, once nobody else holds it."""
    while True:
        file = path.open("ab+")
        fcntl.flock(file, fcntl.LOCK_EX)
        if _is(file, path):
            file.seek(0)
            file.truncate()
            return file
        file.close()  # who had it has put it into its place


def _is(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
