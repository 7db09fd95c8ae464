"""The prediction service where nothing can be written any more."""

import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from service_plant import MACHINES, new_plant, serving

from millwright import feast_store, release


def test_a_service_whose_disk_is_full_from_its_first_request_on_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though SQLite needs files beside the store's: the store has rows in its log alone."""
    plant = new_plant(tmp_path, monkeypatch)
    feast_store.apply(plant.state)
    plant.write_online(MACHINES)
    release.set_champion(plant.releases, plant.released(1))
    store = plant.state.root / "online.db"
    with closing(sqlite3.connect(store)) as writer:
        with writer:
            writer.execute("CREATE TABLE unfinished (row)")
        assert store.with_name("online.db-wal").stat().st_size
        store.with_name("online.db-shm").unlink()
        with serving(plant) as server:
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, 0))
            said = server.predict("whole")
            assert (said.status_code, said.json()["predictions"][0]["status"]) == (200, "ok")
