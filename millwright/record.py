"""The summary of a run for machines: `--json FILE`."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millwright import terminal


class Record:
    """The summary for machines, at `path` if there is one, with what the run has cost."""

    def __init__(self, result: dict[str, Any], path: Path | None) -> None:
        self.result = result
        self.path = path
        self.started = time.monotonic()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write the result in the end, however it ends.

        It is written at the beginning too: a path that cannot be written is told before the work,
        and a run that is killed leaves no summary of an earlier one.
        """
        if self.path:
            terminal.write_json(self.path, self.result)
        try:
            yield
        except BaseException as err:
            self.result |= {"status": "failed", "error": str(err) or type(err).__name__}
            raise
        finally:
            self._write()

    def interrupted(self) -> None:
        """The last words of a run that a signal ends."""
        self.ended("interrupted; run the same command again to go on from here")

    def ended(self, said: str) -> None:
        """The last words of a run that ends here and now."""
        terminal.fail(said)
        self.result |= {"status": "failed", "error": said}
        self._write()

    def _write(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        seconds = round(time.monotonic() - self.started, 1)
        self.result |= {"seconds": seconds, "peak_memory_mb": peak}
        if self.path:
            terminal.write_json(self.path, self.result)
