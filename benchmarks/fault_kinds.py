"""What happens to a service: each fault as a function that lets it happen once.

Each gives when it began and ended, and when all was well again where that is not for the answers
to tell. All times are of the clock `time.monotonic`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import breakable, fault_plant
from benchmarks.fault_scene import Scene
from benchmarks.steady import until
from millwright import release, traffic
from millwright.services.process import alive


@dataclass(frozen=True)
class Round:
    """A fault that happened once. Without `well` the answers say when all was well again."""

    began: float
    ended: float
    well: float | None = None


@dataclass(frozen=True)
class Fault:
    """Something that happens, and what may be answered meanwhile besides what is right.

    With `refusals` that is 503 with Retry-After, with `resets` the connections of a process that
    ends, with `gaps` machines of which features are not there.
    """

    name: str
    happen: Callable[[Scene], Round]
    refusals: bool = False
    resets: bool = False
    gaps: bool = False


def redis_killed(scene: Scene) -> Round:
    """Redis is killed, and started with what it had."""
    began = time.monotonic()
    scene.redis.kill()
    _wait(scene, 0.2, 1.0)
    scene.redis.start()
    return _answering(scene, began)


def redis_frozen(scene: Scene) -> Round:
    """Redis takes connections and says nothing."""
    began = time.monotonic()
    with scene.redis.frozen():
        _wait(scene, 0.3, 2.0)
    return _answering(scene, began)


def redis_emptied(scene: Scene) -> Round:
    """Redis is killed, comes back with nothing in it, and is filled again."""
    began = time.monotonic()
    breakable.empty(scene.redis)
    _wait(scene, 0.1, 0.5)
    scene.plant.fill()
    return _answering(scene, began)


def postgres_away(scene: Scene) -> Round:
    """PostgreSQL crashes, and comes back."""
    began = time.monotonic()
    scene.postgres.kill()
    _wait(scene, 1.0, 2.0)
    scene.postgres.start()
    return _logging(scene, began)


def postgres_frozen(scene: Scene) -> Round:
    """PostgreSQL keeps its connections and says nothing."""
    began = time.monotonic()
    with scene.postgres.frozen():
        _wait(scene, 0.5, 2.0)
    return _logging(scene, began)


def mlflow_away(scene: Scene) -> Round:
    """MLflow is away."""
    began = time.monotonic()
    scene.mlflow.close()
    _wait(scene, 0.3, 0.6)
    scene.mlflow.open()
    return Round(began, time.monotonic())


def disk_full(scene: Scene) -> Round:
    """The disk of the journal takes nothing more."""
    began = time.monotonic()
    with scene.disk.full(scene.service.serving):
        until(lambda: scene.service.gauge("log_fault"), "the disk of the journal is not full")
        _wait(scene, 0.5, 2.0)
    return _logging(scene, began)


def release_truncated(scene: Scene) -> Round:
    """The champion is a release whose model was cut off; every other time its sum says so too."""
    return _damaged(scene, fault_plant.truncate, scene.dice.random() < 0.5)


def release_flipped(scene: Scene) -> Round:
    """The champion is a release with one bit wrong."""
    place = scene.dice.random()
    return _damaged(scene, lambda folder: fault_plant.flip(folder, place), signed=False)


def release_pickled(scene: Scene) -> Round:
    """The champion is a release whose model is a pickle that would do something."""
    signed = scene.dice.random() < 0.5
    return _damaged(scene, lambda folder: fault_plant.plant_pickle(folder, scene.marker), signed)


def process_killed(scene: Scene) -> Round:
    """The process that serves is killed."""
    until(scene.service.has_standby, "nobody stands by")
    victim, began = scene.service.serving, time.monotonic()
    victim.kill()
    ended = until(lambda: not alive(victim), "it does not die")
    until(scene.service.has_standby, "nobody stands by")
    return Round(began, ended)


def releases_swapped(scene: Scene) -> Round:
    """A new release becomes champion, and the one before it again."""
    folder = scene.plant.releases
    version = int(scene.plant.release().name[1:])
    before = int((release.champion(folder) or folder).name[1:])
    began = time.monotonic()
    traffic.promote(folder, version)
    well = until(lambda: _in_use(scene) == version, f"v{version} is not in use")
    _wait(scene, 0.2, 0.5)
    ended = time.monotonic()
    traffic.promote(folder, traffic.former(folder))
    back = until(lambda: _in_use(scene) == before, f"v{before} is not in use")
    return Round(began, ended, ended + max(well - began, back - ended))


FAULTS: Sequence[Fault] = (
    Fault("redis killed", redis_killed, refusals=True),
    Fault("redis frozen", redis_frozen, refusals=True),
    Fault("redis emptied", redis_emptied, refusals=True, gaps=True),
    Fault("postgres away", postgres_away),
    Fault("postgres frozen", postgres_frozen),
    Fault("mlflow away", mlflow_away),
    Fault("disk full", disk_full),
    Fault("release truncated", release_truncated),
    Fault("release flipped", release_flipped),
    Fault("release pickled", release_pickled),
    Fault("releases swapped", releases_swapped),
    Fault("process killed", process_killed, resets=True),
)


def _wait(scene: Scene, least: float, most: float) -> None:
    time.sleep(scene.dice.uniform(least, most))


def _answering(scene: Scene, began: float) -> Round:
    ended = time.monotonic()
    until(scene.service.answers, f"not ready again: {scene.service.ready().get('reason')}")
    return Round(began, ended)


def _logging(scene: Scene, began: float) -> Round:
    """Well is when the log has what was handed over by the end of the fault."""
    ended, due = time.monotonic(), scene.handed_over
    well = until(lambda: scene.service.gauge("log_written") >= due, "the log does not come after")
    return Round(began, ended, well)


def _damaged(scene: Scene, damage: Callable[[Path], None], signed: bool) -> Round:
    folder, path = scene.plant.releases, scene.plant.release()
    damage(path)
    if signed:
        fault_plant.sign(path)
    before, began = release.champion(folder), time.monotonic()
    assert before  # noqa: S101 - there is one from the start
    release.set_champion(folder, path)
    until(lambda: path.name in str(scene.service.ready().get("refused")), "it is not refused")
    ended = time.monotonic()
    release.set_champion(folder, before)
    well = until(lambda: scene.service.ready().get("refused", "?") is None, "it is still refused")
    return Round(began, ended, well)


def _in_use(scene: Scene) -> int | None:
    found: int | None = (scene.service.ready().get("release") or {}).get("version")
    return found
