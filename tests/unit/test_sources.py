"""What a source must be before a row of it is read, and what is said when it is not."""

import sqlite3
from pathlib import Path

import duckdb
import pytest
from raw_tables import plant, raw, reading, stored, take_in, write_csv, write_parquet

from millwright.errors import DataError
from millwright.sources import DatabaseSource, open_source


def fault(place: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        open_source(place, plant())
    assert caught.value.exit_code == 2
    return str(caught.value)


def write_sqlite(path: Path, tables: dict[str, list[dict[str, object]]]) -> str:
    with sqlite3.connect(path) as connection:
        for name, rows in tables.items():
            connection.execute(f"CREATE TABLE {name} ({', '.join(rows[0])})")
            cells = ", ".join("?" for _ in rows[0])
            connection.executemany(
                f"INSERT INTO {name} VALUES ({cells})", [tuple(row.values()) for row in rows]
            )
    connection.close()
    return f"sqlite:///{path}"


def test_a_missing_table_is_named_with_its_key_and_the_nearest_file(tmp_path: Path) -> None:
    source = write_csv(tmp_path, raw())
    (source / "readings.csv").rename(source / "reading.csv")

    message = fault(source)

    assert "table 'telemetry'" in message
    assert "'tables.telemetry.source' names in plant.yaml" in message
    assert "did you mean 'reading'?" in message


def test_a_misspelt_column_is_named_with_its_key_and_the_nearest_one(tmp_path: Path) -> None:
    source = write_csv(tmp_path, raw({"id": 1, "at": "", "haet": 1, "sound": 2}))

    message = fault(source)

    assert message == (
        f"table 'telemetry', {tmp_path / 'readings.csv'}: there is no column 'heat', "
        "which 'sensors.heat' names in plant.yaml; did you mean 'haet'?"
    )


def test_all_structural_faults_are_told_at_once(tmp_path: Path) -> None:
    source = write_csv(tmp_path, raw({"at": "", "heat": 1}))
    (source / "errors.csv").unlink()

    first, second, third = fault(source).splitlines()

    assert "'tables.telemetry.machine'" in first
    assert "'sensors.noise.column'" in second
    assert "table 'errors'" in third


def test_an_empty_csv_file_is_named(tmp_path: Path) -> None:
    source = write_csv(tmp_path, raw())
    (source / "failures.csv").write_bytes(b"")

    assert f"{source / 'failures.csv'} is empty" in fault(source)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    source = write_csv(tmp_path, raw())
    (source / "readings.csv").write_text("id,at,heat,heat,sound\n")

    assert "column 'heat', which 'sensors.heat' names in plant.yaml, is there 2 times" in fault(
        source
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_part_of_a_parquet_file_is_refused(tmp_path: Path, share: float) -> None:
    source = write_parquet(tmp_path, raw())
    path = source / "readings.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])

    assert str(path) in fault(source)


def test_a_folder_that_is_not_there_or_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert f"there is no folder {tmp_path / 'none'}" in fault(tmp_path / "none")
    assert f"{tmp_path / 'file'} is not a folder" in fault(tmp_path / "file")


def test_a_table_that_is_there_in_two_forms_is_refused(tmp_path: Path) -> None:
    write_parquet(write_csv(tmp_path, raw()), raw())

    assert "has both readings.csv and readings.parquet; keep one of them" in fault(tmp_path)


def test_a_folder_of_files_of_both_kinds_is_one_table(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in", raw())
    (source / "readings.csv").unlink()
    write_csv(source / "readings" / "day=1", {"a": [reading(1, "2025-01-01T00:00:00Z")]})
    write_parquet(source / "readings" / "day=2", {"b": [reading(2, "2025-01-02T00:00:00Z")]})

    take_in(plant(), source, tmp_path)

    assert [row[0] for row in stored(plant(), tmp_path)] == ["1", "2"]


def table_in_a_folder(source: Path) -> Path:
    """The folder of the readings, empty yet, beside the other tables of the plant."""
    write_csv(source, raw())
    (source / "readings.csv").unlink()
    (source / "readings").mkdir()
    return source / "readings"


def test_hidden_files_and_folders_of_a_table_are_left_out(tmp_path: Path) -> None:
    folder = table_in_a_folder(tmp_path / "in")
    write_csv(folder, {"a": [reading(1)]})
    for place in (".ipynb_checkpoints", "_delta_log", "day=1/.old"):
        write_csv(folder / place, {"a": [reading(2)]})
    (folder / "day=1" / "._a.csv").write_bytes(b"\x00\x05\x16\x07")
    (folder / "_metadata.parquet").write_bytes(b"")

    take_in(plant(), tmp_path / "in", tmp_path)

    assert [row[0] for row in stored(plant(), tmp_path)] == ["1"]


def test_links_to_folders_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    folder = table_in_a_folder(tmp_path / "in")
    write_csv(folder / "day=1", {"a": [reading(1)]})
    write_csv(tmp_path / "elsewhere" / "deep", {"b": [reading(2)]})
    (folder / "day=2").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (folder / "day=1" / "round").symlink_to(folder)

    result = take_in(plant(), tmp_path / "in", tmp_path)

    assert result.refused == 0
    assert [row[0] for row in stored(plant(), tmp_path)] == ["1", "2"]


def test_a_folder_whose_name_ends_as_a_file_is_looked_into(tmp_path: Path) -> None:
    folder = table_in_a_folder(tmp_path / "in")
    write_csv(folder / "part.csv", {"a": [reading(1)]})

    take_in(plant(), tmp_path / "in", tmp_path)

    assert [row[0] for row in stored(plant(), tmp_path)] == ["1"]


@pytest.mark.parametrize(
    "text",
    [
        "id,at,heat,sound,extra,HEAT\r\n1,2025-01-01T00:00:00Z,20.5,1.25,x,0\r\n",
        "\ufeffsound;heat;id;at\n1.25;20.5;1;2025-01-01T00:00:00Z",
        'id\tat\theat\tsound\n"1"\t"2025-01-01 00:00:00+00"\t"20.5"\t1.25\n\n',
    ],
)
def test_dialects_of_csv_and_further_columns_make_no_difference(tmp_path: Path, text: str) -> None:
    plain = take_in(plant(), write_csv(tmp_path / "plain", raw()), tmp_path / "a")
    source = write_csv(tmp_path / "in", raw())
    (source / "readings.csv").write_text(text, encoding="utf-8", newline="")

    result = take_in(plant(), source, tmp_path / "b")

    assert result.batch == plain.batch


def test_sqlite_gives_the_same_batch_as_csv(tmp_path: Path) -> None:
    tables = raw(reading(1, heat=0.1 + 0.2), reading(2, heat=None))
    url = write_sqlite(tmp_path / "plant.db", tables)

    result = take_in(plant(), url, tmp_path / "a")

    assert result.refused == 0
    assert result.batch == take_in(plant(), write_csv(tmp_path / "c", tables), tmp_path / "b").batch


def test_text_in_a_number_of_sqlite_is_quoted_in_the_quarantine(tmp_path: Path) -> None:
    url = write_sqlite(tmp_path / "plant.db", raw(reading(1), reading(2, heat="warm")))

    result = take_in(plant(), url, tmp_path)

    (path,) = result.quarantine
    row = duckdb.read_parquet(str(path)).select("reason, origin, row, id, heat").fetchall()
    assert row == [("not_a_number", f"{url}, table readings", 2, "2", "warm")]


def test_a_table_or_column_that_a_database_lacks_is_named(tmp_path: Path) -> None:
    tables = raw({"id": 1, "at": "", "heat": 1, "sond": 1})
    tables["failure"] = tables.pop("failures")

    message = fault(write_sqlite(tmp_path / "plant.db", tables))

    assert "there is no column 'sound', which 'sensors.noise.column' names" in message
    assert "there is no table failures" in message
    assert "did you mean 'failure'?" in message


def test_a_database_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    assert "there is no such file" in fault(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://anna:s3cret@127.0.0.1:1/plant?connect_timeout=1",
        "postgresql://127.0.0.1:1/plant?user=anna&password=s3cret",
        "postgres+nosuch://anna:s3cret@host/plant",
        "postgresql://anna:s3cret@host:port/plant",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    message = fault(url)

    assert "cannot read" in message
    assert "s3cret" not in message


def test_the_name_of_a_database_carries_no_secret(tmp_path: Path) -> None:
    url = write_sqlite(tmp_path / "plant.db", raw())

    source = open_source(f"{url}?password=s3cret", plant())

    assert isinstance(source, DatabaseSource)
    assert source.name == url
