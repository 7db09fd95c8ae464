"""A release is written whole, loaded only if it is what it was, and proves itself elsewhere."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from raw_tables import contents, plant

from millwright import trees, verification
from millwright.encoder import Encoder, Matrix
from millwright.errors import ReleaseError
from millwright.models import Classifier
from millwright.release import (
    EXAMPLES,
    MANIFEST,
    MODEL,
    POINTER,
    RECIPE,
    SUMS,
    Manifest,
    ServedView,
    champion,
    check,
    load,
    read_manifest,
    read_recipe,
    set_champion,
    write,
)
from millwright.verification import verify, verify_in_fresh_process
from millwright.views import feature_views, published

ENCODER = Encoder.of(plant())
FILES = (EXAMPLES, MANIFEST, MODEL, SUMS)


def manifest(**changes: Any) -> Manifest:
    values = {
        "name": "plant_failure", "version": 3, "fleet": "plant", "fingerprint": "f1",
        "feature_service": "plant_failure_v1", "encoder": ENCODER, "threshold": 0.25,
        "views": ServedView.all_of(plant()), "costs": plant().costs,
        "horizon": "24h", "lead_time": "4h", "learned_until": datetime(2025, 1, 31, tzinfo=UTC),
        "dataset_version": "d1", "detector_version": None, "code_version": "c1",
        "git_revision": None, "mlflow_run": "r1", "environment": "local",
        "libraries": {"xgboost": xgboost.__version__},
    }  # fmt: skip
    return Manifest.model_validate(values | changes)


def grown(columns: int = len(ENCODER.columns), seed: int = 0) -> tuple[xgboost.Booster, Matrix]:
    """A small model, and rows for it with gaps."""
    matrix = np.random.default_rng(seed).standard_normal((200, columns), dtype=np.float32)
    booster = Classifier({"max_depth": 3}, 5, seed).fit(matrix, matrix[:, 0] > 0.5).booster
    assert booster is not None
    matrix[:, 1] = np.nan
    return booster, matrix[:20]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("releases"), manifest(), *grown())


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """A release to break."""
    return Path(shutil.copytree(original, tmp_path / "v3"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\n")


def sign(folder: Path) -> None:
    """Have the sums say what the files are, as somebody would who means harm."""
    names = (EXAMPLES, MANIFEST, MODEL)
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    text = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    (folder / SUMS).write_text(text)


def test_a_release_comes_back_as_it_was_written(original: Path) -> None:
    booster, rows = grown()
    found = load(original)
    assert original.name == "v3"
    assert sorted(path.name for path in original.iterdir()) == sorted(FILES)
    assert (found.folder, found.manifest) == (original, manifest())
    assert found.score(rows).tobytes() == booster.inplace_predict(rows).astype(float).tobytes()
    assert verify(original) == len(rows)


def test_the_sums_are_those_that_sha256sum_checks(original: Path) -> None:
    before = (original / SUMS).read_bytes()
    sign(original)
    assert (original / SUMS).read_bytes() == before


def test_the_same_model_makes_the_same_release(original: Path, tmp_path: Path) -> None:
    assert contents(write(tmp_path, manifest(), *grown())) == contents(original)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("spoil", [truncate, halve, flip, lengthen, Path.unlink])
def test_a_release_of_which_any_file_is_not_what_it_was_is_refused(
    copy: Path, name: str, spoil: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = watched(monkeypatch)
    spoil(copy / name)
    for ask in (load, verify):
        with pytest.raises(ReleaseError, match=name):
            ask(copy)
    assert read == []


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What XGBoost and the manifest were asked to read from now on."""
    read: list[str] = []
    monkeypatch.setattr(xgboost.Booster, "load_model", lambda _, path: read.append(str(path)))
    monkeypatch.setattr(Manifest, "model_validate_json", lambda text: read.append(str(text)))
    return read


def test_every_byte_of_the_sums_counts(copy: Path) -> None:
    whole = (copy / SUMS).read_bytes()
    for index in range(len(whole)):
        content = bytearray(whole)
        content[index] ^= 1 << index % 8
        (copy / SUMS).write_bytes(content)
        with pytest.raises(ReleaseError, match=SUMS):
            load(copy)


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("signed", [False, True])
def test_a_pickle_in_place_of_the_model_is_not_run(
    copy: Path, tmp_path: Path, signed: bool
) -> None:
    sprung = tmp_path / "sprung"
    (copy / MODEL).write_bytes(pickle.dumps([Trap(sprung), list(range(1000))]))
    if signed:
        sign(copy)
    with pytest.raises(ReleaseError, match="not readable by this version" if signed else MODEL):
        load(copy)
    assert not sprung.exists()


def test_a_manifest_of_another_form_is_refused(copy: Path) -> None:
    text = (copy / MANIFEST).read_text().replace('"threshold"', '"treshold"')
    (copy / MANIFEST).write_text(text)
    sign(copy)
    with pytest.raises(ReleaseError, match=r"not readable by this version: .*threshold: Field req"):
        load(copy)


@pytest.mark.parametrize("name", ["horizon", "lead_time", "learned_until"])
def test_a_manifest_that_does_not_say_what_the_model_may_be_compared_with_is_refused(
    copy: Path, name: str
) -> None:
    values = json.loads((copy / MANIFEST).read_text())
    del values[name]
    (copy / MANIFEST).write_text(json.dumps(values))
    sign(copy)
    with pytest.raises(ReleaseError, match=rf"by this version: {MANIFEST}: {name}: Field required"):
        load(copy)


def test_the_end_of_what_a_model_learned_from_needs_a_zone() -> None:
    with pytest.raises(ValueError, match="learned_until"):
        manifest(learned_until="2025-01-31T00:00:00")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (MODEL, b"{}", r"model.ubj: Invalid cast, from Null to Object;"),
        (MODEL, b"nonsense", r"model.ubj: .*Invalid model format"),
        (MANIFEST, b"{}", "manifest.json: name: Field required;"),
        (MANIFEST, b"nonsense", "manifest.json: Invalid JSON: .*;"),
        (EXAMPLES, b"[]", "examples.json: Input should be an object;"),
        (EXAMPLES, b'{"rows": []}', "examples.json: expected: Field required;"),
        (
            EXAMPLES,
            b'{"rows": [[1, "x"]], "expected": [1]}',
            "examples.json: rows: 0: 1: .* number",
        ),
        (EXAMPLES, b'{"rows": [], "expected": [NaN]}', "expected: 0: .* finite number;"),
        (EXAMPLES, b"[" * 100_000, "examples.json: Invalid JSON: .*;"),
        (EXAMPLES, b'{"rows": [[1, 2]], "expected": [1]}', "are not of its model's .* columns;"),
        (EXAMPLES, b'{"rows": [], "expected": [1]}', "has 0 examples and 1 predictions of them;"),
    ],
)
def test_what_was_signed_and_is_wrong_nevertheless_is_told_in_one_sentence(
    copy: Path, name: str, content: bytes, told: str
) -> None:
    (copy / name).write_bytes(content)
    sign(copy)
    with pytest.raises(ReleaseError, match=told) as caught:
        verify(copy)
    said = str(caught.value)
    assert said.startswith(f"the release {copy} ")
    assert said.endswith("; train again")
    for each in ("\n", "Traceback", "https://", ".cc", ".h:"):
        assert each not in said


def test_a_recipe_that_was_signed_and_is_wrong_is_told_in_one_sentence(copy: Path) -> None:
    (copy / RECIPE).write_text("{}")
    with pytest.raises(ReleaseError, match=f"{RECIPE}: fleet: Field required; train again$"):
        read_recipe(copy)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("before", ['"threshold": 0.25', '"time_to_live": 172800.0'])
def test_a_manifest_with_a_number_that_json_does_not_know_is_refused(
    copy: Path, before: str, number: str
) -> None:
    text = (copy / MANIFEST).read_text()
    assert before in text
    (copy / MANIFEST).write_text(text.replace(before, before.partition(":")[0] + ": " + number))
    sign(copy)
    with pytest.raises(ReleaseError, match="should be a finite number"):
        load(copy)


@pytest.mark.parametrize("name", ["v16", "v03", "v0"])
def test_a_release_under_the_name_of_another_is_refused(copy: Path, name: str) -> None:
    moved = copy.rename(copy.with_name(name))
    for ask in (load, read_manifest, verify):
        with pytest.raises(ReleaseError, match=f"{moved} is version 3 by its manifest; .*, v3, "):
            ask(moved)


def test_a_release_may_be_in_a_folder_of_any_other_name(copy: Path) -> None:
    assert load(copy.rename(copy.with_name("candidate"))).manifest.version == 3


def test_a_model_of_other_columns_than_its_manifest_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, manifest(), *grown(columns=4))
    with pytest.raises(ReleaseError, match=f"4 columns and a manifest of {len(ENCODER.columns)}"):
        load(path)


def test_a_model_that_answers_otherwise_than_it_did_is_refused(copy: Path) -> None:
    grown(seed=1)[0].save_model(copy / MODEL)
    sign(copy)
    assert load(copy).manifest == manifest()
    with pytest.raises(ReleaseError, match="predicts otherwise than when it was written, by up to"):
        verify(copy)


def test_a_model_that_answers_no_number_is_refused(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "predict", lambda _, matrix: np.full(len(matrix), np.nan))
    with pytest.raises(ReleaseError, match=f"{original} predicts what is no number; train again"):
        verify(original)


def test_a_model_that_answers_too_late_for_a_service_is_refused(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "SLOWEST", 0.0)
    with pytest.raises(ReleaseError, match=r"takes .* s for one machine, and 0 s is the most"):
        verify(original)


def test_a_model_that_reads_what_no_view_has_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, manifest(views=ServedView.all_of(plant())[1:]), *grown())
    with pytest.raises(ReleaseError, match="needs 'heat_mean_1h', which no view of its manifest"):
        load(path)


def test_the_views_of_a_release_are_those_that_feast_knows() -> None:
    fleet = plant()
    views = {view.name: view for view in ServedView.all_of(fleet)}
    assert {*views} == {published(fleet, view.name) for view in feature_views(fleet)}
    assert views["plant_sensor_step"].time_to_live == 48 * 3600
    assert views["plant_machine_attributes"].time_to_live is None
    assert views["plant_machine_attributes"].features == {"model": "string", "age": "float32"}


def test_a_manifest_is_read_only_after_every_file_was_checked(copy: Path) -> None:
    assert read_manifest(copy) == manifest()
    flip(copy / MODEL)
    for ask in (read_manifest, check):
        with pytest.raises(ReleaseError, match=f"{MODEL}.* do not agree"):
            ask(copy)


def test_a_release_may_have_no_examples(tmp_path: Path) -> None:
    booster, rows = grown()
    assert verify(write(tmp_path, manifest(), booster, rows[:0])) == 0


def test_a_failed_write_leaves_the_former_release(copy: Path) -> None:
    before = contents(copy.parent)
    booster, rows = grown(seed=1)
    with pytest.raises(ValueError, match="Number of columns"):
        write(copy.parent, manifest(), booster, rows[:, 1:])  # after the model and the manifest
    assert contents(copy.parent) == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    write(copy.parent, manifest(threshold=0.5), booster, rows)
    assert load(copy).manifest.threshold == 0.5


@pytest.mark.parametrize("spoil", [None, MODEL, SUMS])
def test_a_release_of_another_model_is_not_written_over(copy: Path, spoil: str | None) -> None:
    set_champion(copy.parent, copy)
    if spoil:
        flip(copy / spoil)
    before = contents(copy.parent)
    with pytest.raises(ReleaseError) as caught:
        write(copy.parent, manifest(fingerprint="f2"), *grown(seed=1))
    assert f"{copy} is the release of another model, of fingerprint f1 and not f2" in str(
        caught.value
    )
    assert f"counts its versions anew. Move the folder {copy.parent} away" in str(caught.value)
    assert contents(copy.parent) == before


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"[]", b"3", b"{}"])
def test_what_is_no_release_any_more_is_made_again(copy: Path, content: bytes | None) -> None:
    if content is None:
        (copy / MANIFEST).unlink()
    else:
        (copy / MANIFEST).write_bytes(content)
    write(copy.parent, manifest(fingerprint="f2"), *grown())
    assert load(copy).manifest.fingerprint == "f2"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ReleaseError, match=r"cannot write the release .*file/v3: .*MILLWRIGHT_HOME"
    ):
        write(tmp_path / "file", manifest(), *grown())


def test_the_champion_is_the_release_that_was_named_last(tmp_path: Path) -> None:
    folder = tmp_path / "releases"
    assert champion(folder) is None
    for version in (3, 12):
        path = write(folder, manifest(version=version), *grown())
        set_champion(folder, path)
        assert champion(folder) == path == folder / f"v{version}"
    # The pointer is a name and no path, so the folder may be moved.
    assert (folder / POINTER).read_text() == "v12\n"
    moved = folder.rename(tmp_path / "elsewhere")
    found = champion(moved)
    assert found is not None
    assert load(found).manifest.version == 12


@pytest.mark.parametrize("content", [b"", b"..\n", b"v3/../v4\n", b"\xff\xfe", b"v3\nv4\n"])
def test_a_pointer_that_names_no_release_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / POINTER).write_bytes(content)
    with pytest.raises(ReleaseError, match=f"{POINTER} names no release"):
        champion(tmp_path)


def test_another_process_verifies_what_this_one_could_not(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("this process cannot predict")

    monkeypatch.setattr(trees, "predict", broken)
    with pytest.raises(AssertionError):
        verify(original)
    verify_in_fresh_process(original)


def test_what_another_process_refuses_is_told_in_its_words(copy: Path) -> None:
    flip(copy / MODEL)
    with pytest.raises(ReleaseError, match=rf"^error: the release .*{MODEL}.*do not agree"):
        verify_in_fresh_process(copy)


def test_what_another_process_warns_of_before_it_refuses_is_left_out(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(copy / MODEL)
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.stderr.write('of a library\\n')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ReleaseError, match=r"^error: the release [^\n]* do not agree"):
        verify_in_fresh_process(copy)
