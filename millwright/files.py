"""Writing so that a file or folder is there whole or not at all, even if the process is killed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """Yield an empty draft folder that becomes `target` when the block ends well.

    What a killed run left of an earlier draft is removed first. An existing `target` is replaced.
    """
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    for path in draft.rglob("*"):
        if path.is_file():
            synchronise(path)
    former = target.with_name(f".{target.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        target.replace(former)
    draft.replace(target)
    synchronise(target.parent)
    shutil.rmtree(former, ignore_errors=True)


@contextmanager
def file_written_whole(target: Path) -> Iterator[Path]:
    """Yield a draft path whose file becomes `target` when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")
    try:
        yield draft
        synchronise(draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    synchronise(target.parent)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    with file_written_whole(path) as draft:
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600)
        draft.write_text(text, encoding="utf-8")


@contextmanager
def database_written_whole(target: Path) -> Iterator[Path]:
    """Yield a path for a new SQLite file that becomes `target` when the block ends well.

    It lies in a folder of its own, because SQLite keeps a journal beside the file; what a killed
    run left there is removed first.
    """
    folder = target.with_name(f".{target.name}.draft")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder / target.name
        synchronise(folder / target.name)
        (folder / target.name).replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    synchronise(target.parent)


def put_into_place(draft: Path, path: Path) -> None:
    """Rename `draft` to `path`, so that it is there whole or not at all, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    synchronise(draft)
    draft.replace(path)
    synchronise(path.parent)
    synchronise(path.parent.parent)


def synchronise(path: Path) -> None:
    """Have the disk hold what was written to `path`, a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
