"""The way from the journal to the sink, apart from the path of requests."""

import time
from pathlib import Path

from millwright.errors import first_line
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
                self._aside = {path: why for path, why in self._aside.items() if path.exists()}
                self._looked = time.monotonic()
                self._take_all()
            self.sink.tidy()
        except Exception as err:  # whatever it is: the log must go on, and says what it was
            self.failure = f"{type(err).__name__}: {first_line(err)}"
            return False
        finally:
            self._busy_since = None
        self.failure = None
        return True

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
