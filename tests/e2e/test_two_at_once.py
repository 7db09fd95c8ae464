"""Two runs at once on one empty home: one works, the other waits, and nothing is there twice."""

from pathlib import Path

from commands import FLEET, Ended, ForkedClone, contents


def test_one_of_two_runs_waits_and_nothing_doubles(
    forked: ForkedClone, trained: Ended, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    words = ("--pipeline", "features", "--fleet", FLEET)
    processes = [forked.start(home, *words) for _ in range(2)]
    both = [forked.finish(process, home) for process in processes]
    assert [ended.code for ended in both] == [0, 0], [ended.stderr for ended in both]

    waited = ["is at work here; waiting for it" in ended.stderr for ended in both]
    simulated = ["simulating" in ended.stderr for ended in both]
    assert sorted(waited) == [False, True]
    assert simulated == [not late for late in waited]

    ours, theirs = home / "local" / FLEET, Path(trained.home) / "local" / FLEET
    batches = [
        sorted(path.name for path in (each / "raw" / "batches").iterdir())
        for each in (ours, theirs)
    ]
    assert batches[0] == batches[1]
    assert contents(ours, "*.parquet") == contents(theirs, "*.parquet")
