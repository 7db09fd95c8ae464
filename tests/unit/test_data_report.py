"""The report on a batch: one page that needs no network, on the same sample each time."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from raw_tables import plant, raw, reading, take_in, write_csv

from millwright.data_report import describe_batch, report_on, sample
from millwright.raw_store import RawStore
from millwright.settings import Settings, load_settings


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The calls that tried to reach the network."""
    calls: list[Any] = []

    def refuse(*where: Any, **_: Any) -> None:
        calls.append(where)
        raise OSError("there is no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield calls


@pytest.fixture
def store(tmp_path: Path) -> RawStore:
    readings = [
        reading(1 + minute % 2, f"2025-01-01T00:{minute:02}:00Z", heat=minute, sound="")
        for minute in range(60)
    ]
    take_in(plant(), write_csv(tmp_path / "in", raw(*readings)), tmp_path)
    return RawStore(tmp_path / "raw", plant())


def few_rows() -> Settings:
    return load_settings().model_copy(update={"report_rows": 25})


def test_the_sample_is_the_same_each_time_and_no_larger_than_asked(store: RawStore) -> None:
    (batch,) = store.batches()

    first, second = (sample(store, batch, 25) for _ in range(2))

    assert len(first) == 25
    assert first["timestamp"].is_monotonic_increasing
    pd.testing.assert_frame_equal(first, second)
    assert len(sample(store, batch, 1000)) == 60


def test_the_report_is_one_page_that_names_the_sensors_that_sent_nothing(
    store: RawStore, offline: list[Any]
) -> None:
    (batch,) = store.batches()

    page = report_on(store, batch.batch, few_rows())

    assert page is not None
    assert f"<title>Batch {batch.batch} of fleet plant</title>" in page
    assert f"<h1>Batch {batch.batch} of fleet plant</h1>" in page
    assert "60 of telemetry" in page
    assert "0 were refused. Below, 25 rows of telemetry. There are no readings of noise." in page
    assert "heat" in page
    assert '<script src="http' not in page
    assert "url(http" not in page
    assert offline == []


def test_a_batch_without_any_reading_is_described_all_the_same() -> None:
    frame = pd.DataFrame(
        {
            "machine_id": ["1", "2"],
            "timestamp": pd.to_datetime(["2025-01-01", "2025-01-02"], utc=True),
            "heat": [None, None],
            "noise": [None, None],
        }
    )

    assert "no readings of heat, noise" in describe_batch(frame, plant(), "a <batch>", "It has")


def test_there_is_no_report_on_a_batch_that_brought_no_telemetry(
    store: RawStore, tmp_path: Path
) -> None:
    assert report_on(store, None, few_rows()) is None
    late = raw(reading(1, "2025-01-01T00:00:00Z", heat=0, sound=""))
    late["failures"] = [{"id": 2, "at": "2025-01-03T00:00:00Z", "part": "fan"}]
    take_in(plant(), write_csv(tmp_path / "later", late), tmp_path)
    assert [piece.table for piece in store.batches()[-1].files] == ["failures"]
    assert report_on(store, store.batches()[-1].batch, few_rows()) is None
