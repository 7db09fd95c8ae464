"""The way from the journal to the sink, apart from the path of requests."""

import time
from pathlib import Path

from millwright.errors import first_line
from millwright.prediction_log import journal
from millwright.prediction_log.intake import Intake, Parcel
from millwright.prediction_log.journal import DAMAGED, REFUSED, Segment
from millwright.prediction_log.sink import RefusedError, Sink

LOOKING = 5.0  # seconds between two looks for what processes left that have ended
PATIENCE = 15.0  # seconds after which a sink that has not answered is a fault


class Drain:
    """Takes segments to a sink, each exactly once. One thread works it."""

    def __init__(self, intake: Intake, sink: Sink) -> None:
        self.intake = intake
        self.sink = sink
        self.failure: str | None = None  # of the sink
        self._aside: dict[Path, str] = {}  # files that want somebody's attention, and why
        self._busy_since: float | None = None
        self._looked = float("-inf")

    @property
    def fault(self) -> str | None:
        """What is wrong with the sink, if anything."""
        since = self._busy_since
        if since is not None and (seconds := time.monotonic() - since) > PATIENCE:
            return f"the sink has not answered for {seconds:.0f} s"
        aside = next(iter(self._aside.values()), None)
        return self.failure or aside or self.intake.journal.fault

    def work(self) -> bool:
        """Take to the sink all that waits; whether it took everything."""
        self._busy_since = time.monotonic()
        try:
            self.intake.write_held()
            self.intake.tell_losses()
            self._take_all()
            # While the sink is away segments are left to grow, so that they are large, not many.
            self.intake.finish()
            self._take_all()
            if time.monotonic() - self._looked > LOOKING:
                self.intake.adopt()
                self._look_aside()
                self._looked = time.monotonic()
                self._take_all()
        except Exception as err:  # whatever it is: the log must go on, and says what it was
            self.failure = _named(err)
            return False
        else:
            self.failure = self._tidied()
            return True
        finally:
            self._busy_since = None

    def _tidied(self) -> str | None:
        """Why the sink cannot be put in order, which keeps no answer from it; None if it can."""
        try:
            self.sink.tidy()
        except Exception as err:
            return _named(err)
        return None

    def _look_aside(self) -> None:
        """Take note of what was put aside, by whichever process, and is there still."""
        self._aside = {
            path: self._aside.get(
                path,
                f"{path} was put aside; rename it to {path.stem} to have it tried again, or "
                "delete it",
            )
            for path in journal.aside(self.intake.journal.folder)
        }

    def _take_all(self) -> None:
        for segment in self.intake.ready():
            self._take(segment)
            self._busy_since = time.monotonic()

    def _take(self, segment: Segment | Parcel) -> None:
        # Late, for a service starts without Arrow.
        from millwright.prediction_log.content import content_of

        try:
            content = content_of(segment.read())
            if content.any:
                self.sink.take(segment.name, content)
        except RefusedError as err:
            kept = segment.set_aside(REFUSED)
            self.intake.refused(segment, f"{segment.name} was refused: {first_line(err)}")
            if kept:
                self._attend(
                    kept,
                    f"{kept} was refused: {first_line(err)}; rename it to {segment.name} to have "
                    "it tried again, or delete it",
                )
            return
        if content.damage:
            if kept := segment.set_aside(DAMAGED):
                self._attend(
                    kept,
                    f"{kept}: {content.damage}; what comes before them is in the log; delete it "
                    "when somebody has looked at it",
                )
        else:
            segment.remove()
        self.sink.forget(segment.name)
        self.intake.taken(segment)

    def _attend(self, path: Path, why: str) -> None:
        """Have a file be a fault; others read what is replaced here as a whole."""
        self._aside = {**self._aside, path: why}


def _named(err: Exception) -> str:
    return f"{type(err).__name__}: {first_line(err)}"
