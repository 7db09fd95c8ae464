"""Reads features from Redis, in one round trip for all machines of a request or of many."""

import itertools
import json
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import redis

from millwright.endpoints import without_password
from millwright.errors import MillwrightError
from millwright.serving.plan import Cells, MistypedError, Plan
from millwright.serving.rows import NEVER, Moments
from millwright.serving.unreadable import ODD, PassedOver, readable, unreadable
from millwright.stores.online_layout import KeyMaker, microseconds, redis_field, redis_time
from millwright.stores.online_redis_server import answering, nodes_and_options

AT_ONCE = 500  # machines that are asked for before the first answers are read
KNOWN_TIMES = 10_000  # distinct event times that are kept understood
SCANNED = 1_000  # keys that Redis looks at for one answer of a scan


class RedisReader:
    """Reads a project's features from the Redis server at `url`, which has `seconds` to answer."""

    def __init__(self, url: str, project: str, join_key: str, seconds: float) -> None:
        self.url = url
        self._project = project
        self._keys = KeyMaker(join_key)
        self._times: dict[bytes, int] = {}
        self._tails: dict[Plan, bytes] = {}
        nodes, options = nodes_and_options(url)
        patience = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "retry": None}
        self._client = redis.Redis(**nodes[0], **(patience | options))
        self._own = threading.local()
        self._passed_over = PassedOver()

    def __str__(self) -> str:
        return f"Redis at {without_password(self.url)}"

    def cells(self, plan: Plan, machines: Sequence[str]) -> tuple[list[Cells], Moments]:
        """The cells of each machine, and the event times of its views, shape (n, views).

        Raises:
            MistypedError: what is there of a machine is no row.
            MillwrightError: Redis does not answer.
        """
        tail = self._tail(plan)
        asked = [self._command(machine, tail) for machine in machines]
        with answering(self.url):
            try:
                rows = self._answers(asked)
            except redis.TimeoutError:
                raise
            except redis.ConnectionError:  # of a server that has been started anew, perhaps
                rows = self._answers(asked)
        width, views = len(plan.features), len(plan.views)
        try:
            events = np.array(
                [[self._moment(time) for time in row[width:]] for row in rows], np.int64
            )
        except ODD:
            raise self._refusal(machines, rows, width) from None
        return rows, events.reshape(len(rows), views)

    def machines(self, plan: Plan) -> Iterator[str]:
        """Every machine that has a row in some view, each once, in no order."""
        there, times = self._machines(), plan.without_features()

        def known(machines: Sequence[str]) -> list[str]:
            _, events = self.cells(times, machines)
            return list(itertools.compress(machines, (events != NEVER).any(axis=1).tolist()))

        while some := list(itertools.islice(there, AT_ONCE)):
            found, odd = readable(some, known)
            yield from itertools.chain(*found)
            if odd:
                self._passed_over.add(odd)

    def _machines(self) -> Iterator[str]:
        """Every machine of the project, whichever views its rows are of: a key has them all."""
        head, end = self._keys.key("")[:-4], self._project.encode()
        with answering(self.url):
            # A scan gives a key twice while the server rearranges its own.
            seen: set[bytes] = set()
            for key in self._client.scan_iter(_literally(head) + b"*" + end, count=SCANNED):
                if key in seen:
                    continue
                seen.add(key)
                try:
                    name = self._keys.value(key[: -len(end)])
                except UnicodeDecodeError:
                    self._passed_over.add(f"the key {key!r} of {self}, which is no text")
                else:
                    if name is not None:
                        yield name

    def published(self) -> dict[str, list[str]] | None:
        """The views that were published for this store, or None where that is not known."""
        key = f"millwright:features:{self._project}"
        with answering(self.url):
            found: Any = self._client.hgetall(key)
        try:
            return {name.decode(): list(json.loads(told)) for name, told in found.items()} or None
        except ODD:
            raise MillwrightError(
                f"{self} has in {key} what is no list of features; publish them again: feast apply"
            ) from None

    def _answers(self, asked: Sequence[bytes]) -> list[Any]:
        """What Redis says to each command: cells, or that it refuses."""
        connection, found = self._connection(), list[Any]()
        try:
            for start in range(0, len(asked), AT_ONCE):
                some = asked[start : start + AT_ONCE]
                connection.send_packed_command([b"".join(some)])
                for _ in some:
                    try:
                        found.append(connection.read_response(disable_decoding=True))
                    except redis.ResponseError as err:  # whose fault it is shows when all are read
                        found.append(err)
        except BaseException:
            connection.disconnect()  # what is still under way is no answer to anything else
            raise
        return found

    def _refusal(
        self, machines: Sequence[str], answers: Sequence[Any], width: int
    ) -> MillwrightError:
        """Which machine's answer is no row of features, and why.

        Raises:
            MillwrightError: Redis refuses.
        """
        for machine, answer in zip(machines, answers, strict=True):
            if isinstance(answer, redis.ResponseError):
                if str(answer).startswith("WRONGTYPE"):
                    return unreadable(machine, "its key is of another type than a hash")
                with answering(self.url):
                    raise answer
            try:
                np.array([self._moment(time) for time in answer[width:]], np.int64)
            except ODD as err:
                return unreadable(machine, err)
        return MistypedError(f"{self} has what is no row of features")

    def _connection(self) -> Any:
        """This thread's own: to take one from the pool and give it back asks the system twice."""
        if not hasattr(self._own, "connection"):
            self._own.connection = self._client.connection_pool.get_connection()
        return self._own.connection

    def _command(self, machine: str, tail: bytes) -> bytes:
        key = self._keys.key(machine) + self._project.encode()
        return tail.replace(b"$KEY", b"$%d\r\n%s" % (len(key), key), 1)

    def _tail(self, plan: Plan) -> bytes:
        """The command that reads a plan's fields, but for the key."""
        if plan not in self._tails:
            fields = [redis_field(plan.names[view], name) for view, name in plan.features]
            fields += [redis_time(name) for name in plan.names]
            head = b"*%d\r\n$5\r\nHMGET\r\n$KEY\r\n" % (len(fields) + 2)
            self._tails[plan] = head + b"".join(b"$%d\r\n%s\r\n" % (len(f), f) for f in fields)
        return self._tails[plan]

    def _moment(self, time: bytes | None) -> int:
        """Machines that are read together share their times: each is understood once."""
        if time is None:
            return NEVER
        found = self._times.get(time)
        if found is None:
            if len(self._times) >= KNOWN_TIMES:
                self._times.clear()
            found = self._times[time] = microseconds(time)
        return found


def _literally(text: bytes) -> bytes:
    """A pattern of Redis that matches `text` alone."""
    return re.sub(rb"[*?\[\]\\^-]", lambda special: b"\\" + special[0], text)
