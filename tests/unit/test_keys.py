"""Keys: what is kept of them, what may be done to them, and the file that they are kept in."""

import os
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from millwright import process
from millwright.errors import BusyError, ConfigurationError
from millwright.keys import file
from millwright.keys.book import REMEMBERED, Book
from millwright.keys.key import LENGTH, Key, digest, new_key
from millwright.lock import held
from millwright.settings import State, load_settings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MONTH = timedelta(days=30)


def book(*names: str) -> Book:
    made = Book()
    for name in names:
        made, _, _ = made.added(name, "predict", NOW, None)
    return made


def test_a_key_is_256_random_bits_and_only_its_hash_is_kept() -> None:
    shown = [new_key("one", "predict", NOW, None) for _ in range(50)]
    assert len({text[-64:] for _, text in shown}) == len({key.id for key, _ in shown}) == 50
    for key, text in shown:
        assert re.fullmatch(f"mw_{key.id}_[0-9a-f]{{64}}", text)
        assert len(text) == LENGTH
        assert key.hash == digest(text.encode()).hex()
        assert text[-64:] not in key.model_dump_json()


def test_who_may_operate_may_predict_and_not_the_other_way_round() -> None:
    predict, _ = new_key("one", "predict", NOW, None)
    operate, _ = new_key("two", "operate", NOW, None)
    assert [predict.may("predict"), predict.may("operate")] == [True, False]
    assert [operate.may("predict"), operate.may("operate")] == [True, True]


def test_a_key_ends_at_the_moment_that_it_expires() -> None:
    key, _ = new_key("one", "predict", NOW, HOUR)
    assert key.condition(NOW + HOUR - timedelta(microseconds=1)) == "valid"
    assert key.condition(NOW + HOUR) == "expired"
    assert key.model_copy(update={"revoked": NOW}).condition(NOW) == "revoked"


def test_a_rotation_leaves_the_former_key_for_the_grace_period_and_no_longer() -> None:
    made, first, _ = Book().added("one", "operate", NOW, MONTH)
    made, second, shown = made.rotated("one", NOW + HOUR, HOUR)
    assert (second.role, second.lifetime) == ("operate", MONTH)
    assert second.hash == digest(shown.encode()).hex()
    former, latter = made.keys
    assert (former.id, former.expires) == (first.id, NOW + 2 * HOUR)
    assert latter == second
    # Again within it: nothing lives longer by that, and the new one as long as the first.
    made, third, _ = made.rotated("one", NOW + HOUR, 5 * HOUR)
    ends = [key.expires for key in made.keys]
    assert ends == [NOW + 2 * HOUR, NOW + 6 * HOUR, NOW + HOUR + MONTH]
    assert third.lifetime == MONTH


def test_a_rotation_touches_no_other_name() -> None:
    before = book("one", "two")
    after, _, _ = before.rotated("one", NOW, HOUR)
    assert after.keys[1] == before.keys[1]


def test_a_name_is_taken_while_its_key_is_valid() -> None:
    made, _, _ = Book().added("one", "predict", NOW, HOUR)
    with pytest.raises(ConfigurationError, match=r"already; replace it: .* keys rotate one"):
        made.added("one", "predict", NOW, None)
    again, key, _ = made.added("one", "operate", NOW + HOUR, None)
    assert [each.condition(NOW + HOUR) for each in again.keys] == ["expired", "valid"]
    assert key.role == "operate"


def test_revoking_ends_all_keys_of_a_name_and_again_changes_nothing() -> None:
    made, _, _ = book("one", "two").rotated("one", NOW, HOUR)
    left = made.revoked("one", NOW)
    assert [key.condition(NOW) for key in left.keys] == ["revoked", "valid", "revoked"]
    assert left.revoked("one", NOW + HOUR) is left
    with pytest.raises(ConfigurationError, match=r"was revoked; make another: .* keys add one"):
        left.rotated("one", NOW, HOUR)


def test_a_name_that_is_not_there_is_answered_with_the_nearest() -> None:
    for change in (
        lambda b: b.rotated("dashbord", NOW, HOUR),
        lambda b: b.revoked("dashbord", NOW),
    ):
        with pytest.raises(ConfigurationError, match="no key 'dashbord'; did you mean 'dashboard'"):
            change(book("dashboard"))


def test_what_has_ended_long_ago_is_forgotten() -> None:
    made = book("one").revoked("one", NOW)
    assert len(made.added("two", "predict", NOW + REMEMBERED / 2, None)[0].keys) == 2
    late, _, _ = made.added("two", "predict", NOW + REMEMBERED, None)
    assert late.names() == ["two"]


def test_an_id_cannot_stand_twice() -> None:
    key, _ = new_key("one", "predict", NOW, None)
    with pytest.raises(ValidationError, match="the same as entry 1"):
        Book(keys=(key, key))


def test_the_file_is_for_its_owner_alone_and_says_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.json"
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".keys.json.draft").write_text("what a killed change left")
    made = book("one", "two")
    with file.changing(path, print) as write:
        write(made)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert file.there(path) == made
    assert not list(path.parent.glob("*draft*"))


def test_keys_are_kept_with_the_environment_unless_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MILLWRIGHT_KEYS", raising=False)
    assert file.place(State(tmp_path, "staging")) == tmp_path / "staging" / "keys.json"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys.json").symlink_to("..data/keys.json")
    monkeypatch.setenv("MILLWRIGHT_KEYS", "keys.json")
    process.settle()
    # The link itself, for what it leads to is another file after the next rotation.
    assert os.environ["MILLWRIGHT_KEYS"] == str(tmp_path / "keys.json")
    assert file.place(State(tmp_path, "staging")) == tmp_path / "keys.json"


def test_one_change_waits_for_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, entered = tmp_path / "keys.json", False
    monkeypatch.setattr(file, "PATIENCE", 0.05)
    said: list[str] = []
    with (
        held(path.with_suffix(".lock"), print),
        pytest.raises(BusyError),
        file.changing(path, said.append),
    ):
        entered = True
    assert not entered
    assert "waiting for it" in said[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "the whole: Invalid JSON"),
        ('{"keys": [{}]}', "keys.0.name: Field required"),
        ('{"kees": []}', "kees: Extra inputs"),
        ("[]", "the whole: "),
    ],
)
def test_a_file_that_is_none_of_keys_is_told_with_its_place(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "keys.json").write_text(text)
    (tmp_path / "keys.json").chmod(0o600)
    with pytest.raises(ConfigurationError, match=re.escape(f"no file of keys: {told}")):
        file.there(tmp_path / "keys.json")


def test_what_stands_in_a_broken_file_is_not_repeated(tmp_path: Path) -> None:
    key, shown = new_key("one", "predict", NOW, None)
    text = Book(keys=(key,)).model_dump_json().replace(key.hash, shown)  # pasted by mistake
    (tmp_path / "keys.json").write_text(text)
    (tmp_path / "keys.json").chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        file.there(tmp_path / "keys.json")
    assert "keys.0.hash" in str(caught.value)
    assert shown[-64:] not in str(caught.value)


def test_a_file_that_others_may_write_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(book("one").model_dump_json())
    for mode in (0o660, 0o602):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match=r"written by others .*; chmod go-w"):
            file.there(path)
    path.chmod(0o440)
    assert file.there(path).names() == ["one"]


def test_a_folder_or_a_pipe_in_place_of_the_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(ConfigurationError, match=f"{name} is no file"):
            file.there(tmp_path / name)


def test_what_cannot_be_a_key_is_refused() -> None:
    values = new_key("one", "predict", NOW, None)[0].model_dump()
    for change in (
        {"name": "two words"}, {"name": "a\nb"}, {"name": "a\n"}, {"role": "root"}, {"id": "x"},
        {"hash": ""}, {"created": datetime(2026, 1, 1)},  # noqa: DTZ001 - without a zone
        {"secret": "x"}, {"expires": "0001-01-01T00:00:00+14:00"},
        {"expires": "9999-12-31T23:59:59-14:00"},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            Key.model_validate({**values, **change})


def test_production_limits_its_clients_and_development_does_not() -> None:
    rates = {
        name: load_settings(name).serving.requests_per_second
        for name in ("local", "staging", "production")
    }
    assert rates["local"] == rates["staging"] == 0
    assert rates["production"] > 0
