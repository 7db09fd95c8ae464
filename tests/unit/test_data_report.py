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

    first, second = (sample(store, batch.batch, 25) for _ in range(2))

    assert len(first) == 25
    assert first["timestamp"].is_monotonic_increasing
    pd.testing.assert_frame_equal(first, second)
    assert len(sample(store, batch.batch, 1000)) == 60


def test_the_report_is_one_page_that_names_the_sensors_that_sent_nothing(
    store: RawStore, tmp_path: Path, offline: list[Any]
) -> None:
    (batch,) = store.batches()

    path = report_on(store, batch.batch, tmp_path / "reports", few_rows())

    assert path == tmp_path / "reports" / f"batch-{batch.batch}.html"
    page = path.read_text(encoding="utf-8")
    assert f"<title>plant, batch {batch.batch}; no readings of noise</title>" in page
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

    assert "no readings of heat, noise" in describe_batch(frame, plant(), "a <batch>")


def test_there_is_no_report_on_a_batch_that_brought_no_telemetry(
    store: RawStore, tmp_path: Path
) -> None:
    assert report_on(store, None, tmp_path / "reports", few_rows()) is None
    assert not (tmp_path / "reports").exists()
