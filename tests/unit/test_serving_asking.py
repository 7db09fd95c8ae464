"""What a request hears that cannot be answered, and what the log does."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from serving_parts import Memory, loaded, whole
from starlette.exceptions import HTTPException

from millwright.serving.asking import Asking
from millwright.serving.plan import Cells, Plan
from millwright.serving.policy import Policy
from millwright.serving.routes import Routes
from millwright.serving.rows import Moments
from millwright.serving.scoring import Question


class Hanging(Memory):
    """A store that does not answer until it is let."""

    def __init__(self) -> None:
        super().__init__({"m1": whole()})
        self.let = threading.Event()

    def cells(self, plan: Plan, machines: Sequence[str]) -> tuple[list[Cells], Moments]:
        assert self.let.wait(20)
        return super().cells(plan, machines)


@dataclass
class Used:
    routes: Routes


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Used(Routes(loaded(tmp_path_factory.mktemp("releases"), 1)))


@pytest.fixture
def store() -> Iterator[Hanging]:
    found = Hanging()
    yield found
    found.let.set()


def refusals(used: Any, store: Hanging, times: int, **spent: float) -> list[str]:
    """What so many requests hear, one after the other, that have 5 s each."""

    async def ask() -> list[str]:
        asking = Asking(used, store, Policy(), lambda _: None)
        asking.begin()
        found = []
        for _ in range(times):
            with pytest.raises(HTTPException) as caught:
                await asking.told(Question(["m1"], 0), 0, 5.0, **spent)
            found.append(caught.value.detail)
        return found

    return asyncio.run(ask())


def test_the_limit_is_told_and_not_what_was_left_of_it(used: Any, store: Hanging) -> None:
    assert refusals(used, store, 1, spent=6.0) == ["no answer within 5 s; ask again"]


def test_a_store_that_is_away_is_in_the_log_once_and_not_with_each_request(
    used: Any, store: Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    store.broken = True
    store.let.set()
    said = refusals(used, store, 3)
    assert said == ["features cannot be read now; /ready says why"] * 3
    told = [each.getMessage() for each in caplog.records]
    assert told == ["cannot predict: the store does not answer"]
