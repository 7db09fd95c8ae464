"""A disk that can be filled: a small file system of its own, or else a limit that acts like one.

The service runs in a user namespace in which a few megabytes of memory are mounted as the folder of
its journal; nothing else on the machine sees them. Where the system lets nobody have such a
namespace, a limit on the size of the service's files takes its place: then the operating system
says EFBIG instead of ENOSPC.
"""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import psutil

SIZE = "16m"
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


class SmallDisk:
    """The folder of a service's journal; `prefix` stands before the service's command."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    @cached_property
    def prefix(self) -> list[str]:
        """What gives a command the file system; empty where it cannot be had."""
        words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh"]
        words += [SIZE, str(self.folder)]
        with contextlib.suppress(OSError):
            if not subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
                return words
        return []

    @contextlib.contextmanager
    def full(self, process: psutil.Process) -> Iterator[None]:
        """Have no byte find a place there meanwhile; `process` is the one that writes."""
        if not self.prefix:
            limits = process.rlimit(psutil.RLIMIT_FSIZE)
            process.rlimit(psutil.RLIMIT_FSIZE, (0, limits[1]))
            try:
                yield
            finally:
                process.rlimit(psutil.RLIMIT_FSIZE, limits)
            return
        filler = Path(f"/proc/{process.pid}/root") / self.folder.relative_to("/") / ".filler"
        ended = threading.Event()
        filling = threading.Thread(target=_fill, args=(filler, ended))
        filling.start()
        try:
            yield
        finally:
            ended.set()
            filling.join()
            filler.unlink()


def _fill(path: Path, ended: threading.Event) -> None:
    """Take every page, and each that becomes free, until it has ended."""
    with path.open("wb", buffering=0) as file:
        while not ended.wait(0.002):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
