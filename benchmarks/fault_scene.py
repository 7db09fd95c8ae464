"""What faults happen in: the plant, its servers and its service, and what the log has of it."""

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from benchmarks import breakable, fault_plant, fault_service
from benchmarks.breakable import Breakable
from benchmarks.fault_plant import MACHINES, NAME, Plant
from benchmarks.fault_service import Service
from benchmarks.small_disk import SmallDisk
from benchmarks.steady import until


class Listener:
    """Where MLflow would be: it counts who comes, and may be away."""

    def __init__(self) -> None:
        self.visits = 0
        self._listening = self._open(0)
        self.port: int = self._listening.getsockname()[1]

    def close(self) -> None:
        """Be away."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def open(self) -> None:
        """Be there again."""
        self._listening = self._open(self.port)

    def _open(self, port: int) -> socket.socket:
        listening = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._count, args=(listening,), daemon=True).start()
        return listening

    def _count(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                listening.accept()[0].close()
                self.visits += 1


@dataclass
class Scene:
    """All that can be broken, and the dice that say for how long."""

    plant: Plant
    redis: Breakable
    postgres: Breakable
    mlflow: Listener
    disk: SmallDisk
    service: Service
    folder: Path
    dice: random.Random

    @property
    def marker(self) -> Path:
        """What a pickle would write if it were loaded."""
        return self.folder / "marker"

    @property
    def handed_over(self) -> float:
        """How many answers the process that serves has for the log, or had."""
        return self.service.gauge("log_written") + self.service.gauge("log_waiting")

    def idle(self) -> None:
        """Wait until the log has everything."""
        until(lambda: not self.service.gauge("log_waiting"), "answers still wait for the log", 120)

    def logged(self, ids: list[str]) -> dict[str, int]:
        """How often each of these predictions is in the log, if it is."""
        connection = psycopg2.connect(self.postgres.url)
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT prediction_id, count(*) FROM predictions_{NAME}.predictions "
                    "WHERE prediction_id = ANY(%s) GROUP BY prediction_id",
                    (ids,),
                )
                return dict(cursor.fetchall())
        finally:
            connection.close()


@contextlib.contextmanager
def set_up(folder: Path, seed: int) -> Iterator[Scene]:
    """A scene in `folder` of its own, where everything works and everything was asked for once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        breakable.running_redis(folder) as redis,
        breakable.running_postgres(folder) as postgres,
        contextlib.closing(Listener()) as mlflow,
    ):
        urls = {
            "MILLWRIGHT_REDIS_URL": redis.url,
            "MILLWRIGHT_POSTGRES_URL": postgres.url,
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow.port}",
        }
        disk = SmallDisk(folder / "journal")
        with (
            fault_plant.made(folder / "plant", urls) as plant,
            fault_service.serving(plant.variables, disk, folder / "service.log") as service,
        ):
            dice = random.Random(seed)  # noqa: S311 - no secret
            yield Scene(plant, redis, postgres, mlflow, disk, service, folder, dice)


__all__ = ["MACHINES", "Listener", "Scene", "set_up"]
