"""From the event loop to the threads that score, and back."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from starlette.exceptions import HTTPException

from millwright.errors import InputError, MillwrightError
from millwright.serving import answers
from millwright.serving.complaints import Complaints
from millwright.serving.features import OnlineReader
from millwright.serving.pause import unavailable
from millwright.serving.plan import MistypedError
from millwright.serving.policy import Policy
from millwright.serving.releases import Releases
from millwright.serving.scorer import Scorer, Waiting
from millwright.serving.scoring import Answer, Log, NoReleaseError, Question

LOG = logging.getLogger(__name__)

Future = asyncio.Future[bytes]


class Asking:
    """Has questions scored, and gives each answer, as JSON, to the request that waits for it."""

    def __init__(self, releases: Releases, reader: OnlineReader, policy: Policy, log: Log) -> None:
        self._scorer = Scorer(releases, reader, policy, log, self._deliver)
        self._complaints = Complaints(LOG)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def unshadowed(self) -> int:
        """Predictions that no shadow made."""
        return self._scorer.unshadowed

    def begin(self) -> None:
        """Take the event loop that runs for the one in which requests wait."""
        self._loop = asyncio.get_running_loop()

    async def told(
        self, question: Question, explain: int, deadline: float, spent: float = 0.0
    ) -> bytes:
        """The answer to a question, within so many seconds, of which some are spent already.

        Raises:
            HTTPException: it cannot be answered (422), or not now (503).
        """
        loop = asyncio.get_running_loop()
        future: Future = loop.create_future()
        late = loop.call_later(deadline - spent, _resolve, [(future, TimeoutError())])
        self._scorer.ask(Waiting(question, future.done, (future, explain)))
        try:
            return await future
        except InputError as err:
            raise HTTPException(422, str(err)) from None
        except NoReleaseError as err:
            raise unavailable(str(err)) from None
        except MillwrightError as err:
            self._complaints.add(f"cannot predict: {err}")
            who = "the log" if isinstance(err, MistypedError) else "/ready"
            raise unavailable(f"features cannot be read now; {who} says why") from None
        except TimeoutError:
            raise unavailable(f"no answer within {deadline:g} s; ask again") from None
        finally:
            late.cancel()

    def _deliver(self, found: Sequence[tuple[Waiting, Answer | Exception]]) -> None:
        """Give answers to those who wait for them; called in a thread of the scorer."""
        told: list[tuple[Future, bytes | Exception]] = []
        for waiting, answer in found:
            future, explain = waiting.ticket
            if isinstance(answer, Exception):
                told.append((future, answer))
                continue
            try:
                told.append((future, answers.written(answer, waiting.question.as_of, explain)))
            except Exception as err:  # raised where it is waited for
                told.append((future, err))
        assert self._loop  # noqa: S101 - nobody asks before it runs
        with contextlib.suppress(RuntimeError):  # it has ended, and nobody waits any more
            self._loop.call_soon_threadsafe(_resolve, told)


def _resolve(told: Sequence[tuple[Future, bytes | Exception]]) -> None:
    for future, answer in told:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
