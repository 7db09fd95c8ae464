"""From the cells of a store to columns."""

from typing import Any

import numpy as np
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from serving_parts import HOUR, LIFE, NOW, ROW, VIEWS, Memory, cell, whole

from millwright.errors import MillwrightError
from millwright.release import ServedView
from millwright.serving.features import read
from millwright.serving.plan import MistypedError, Plan
from millwright.serving.rows import MISSING, NEVER, PRESENT, STALE, FeatureRows

SERVED = tuple(ServedView.model_validate(view) for view in VIEWS)
PLAN = Plan(SERVED)


def found(store: Memory, *machines: str, plan: Plan = PLAN) -> FeatureRows:
    return read(store, plan, machines, np.full(len(machines), NOW, np.int64))


def test_plans_of_the_same_views_are_equal() -> None:
    same, other = Plan(SERVED), Plan(SERVED[::-1])
    shorter = Plan((SERVED[0].model_copy(update={"time_to_live": 1.0}), *SERVED[1:]))
    assert (same, hash(same)) == (PLAN, hash(PLAN))
    assert len({PLAN, same, other, shorter}) == 3
    assert PLAN != SERVED


def test_every_feature_of_a_machine_is_in_its_column() -> None:
    rows = found(Memory({"a": whole()}), "a")
    assert {name: column.tolist() for name, column in rows.columns.items()} == {
        name: [value] for name, value in ROW.items()
    }
    assert rows.views == ("step", "window", "attributes")
    assert (rows.states == PRESENT).all()
    assert len(rows) == 1


def test_what_is_stale_missing_or_of_the_future_is_null_and_the_rest_is_not() -> None:
    ages = {"step": HOUR, "window": LIFE + 1, "attributes": -1}
    store = Memory({
        "some": (ROW, {view: NOW - age for view, age in ages.items()}),
        "other": (ROW, {"attributes": NOW}),
    })  # fmt: skip
    rows = found(store, "some", "other", "nobody")
    assert rows.columns["heat"].tolist()[0] == ROW["heat"]
    assert rows.columns["heat_mean"].tolist() == pytest.approx([np.nan] * 3, nan_ok=True)
    assert rows.columns["model"].tolist() == [None, "m2", None]
    assert rows.columns["age"].tolist() == pytest.approx([np.nan, 7, np.nan], nan_ok=True)
    assert rows.states.tolist() == [
        [PRESENT, STALE, MISSING], [MISSING, MISSING, PRESENT], [MISSING] * 3,
    ]  # fmt: skip
    assert rows.events[2].tolist() == [NEVER] * 3


def test_a_cell_that_is_empty_or_absent_is_null_and_its_view_is_present() -> None:
    cells = [[cell(None), None, cell(0.0), cell(-0.0), None]]
    events = np.full((1, 3), NOW, np.int64)
    rows = PLAN.rows(["a"], cells, events, np.array([NOW]))
    assert np.isnan(rows.columns["heat"]).all()
    assert np.isnan(rows.columns["noise"]).all()
    assert rows.columns["heat_mean"].tolist() == [0]
    assert np.signbit(rows.columns["age"]).all()
    assert rows.columns["model"].tolist() == [None]
    assert (rows.states == PRESENT).all()


def test_columns_belong_to_nobody_else() -> None:
    """What reads them may write into them, and a text of one machine is no array of letters."""
    rows = found(Memory({"a": whole(), "b": whole()}), "a", "b")
    rows.columns["heat"][0] = 9
    assert rows.columns["heat"].tolist() == [9, 1.5]
    assert rows.columns["model"].dtype == object
    assert rows.columns["model"].tolist() == ["m2", "m2"]


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (0, "heat", Value(int32_val=1)),
        (1, "noise", Value(double_val=1)),
        (2, "heat_mean", Value(string_val="abc")),
        (3, "age", Value(bool_val=False)),
        (4, "model", Value(float_val=1)),
        (4, "model", Value(int64_val=1)),
    ],
)
def test_a_cell_of_another_type_is_named_with_its_view(place: int, name: str, value: Value) -> None:
    cells: list[list[bytes | None]] = [[cell(1.0)] * 4 + [cell("m1")] for _ in range(3)]
    cells[1][place] = value.SerializeToString()
    view = next(view["name"] for view in VIEWS if name in view["features"])
    told = f"'{name}' of view '{view}' is of another type in .* machine 'b'; .*train again"
    with pytest.raises(MillwrightError, match=told):
        PLAN.rows("abc", cells, np.full((3, 3), NOW, np.int64), np.full(3, NOW, np.int64))


def test_a_cell_of_another_length_is_found_even_where_the_sum_is_right() -> None:
    odd = [Value(int64_val=2**20).SerializeToString(), Value(string_val="abcd").SerializeToString()]
    assert sum(map(len, odd)) == 10
    cells: list[list[bytes | None]] = [[*odd, cell(1.0), cell(1.0), cell("m1")]]
    with pytest.raises(MillwrightError, match="'heat' of view 'step' is of another type"):
        PLAN.rows(["a"], cells, np.full((1, 3), NOW, np.int64), np.array([NOW]))


def test_a_text_that_was_cut_off_is_named() -> None:
    cells: list[list[bytes | None]] = [[cell(1.0)] * 4 + [b"\x12"]]
    with pytest.raises(MillwrightError, match=r"'model' of view 'attributes' .* machine 'a'"):
        PLAN.rows(["a"], cells, np.full((1, 3), NOW, np.int64), np.array([NOW]))


@pytest.mark.parametrize("place", [0, 4])
@pytest.mark.parametrize("odd", ["abcde", "abc", 5, 1.5])
def test_a_cell_that_is_no_bytes_is_named(place: int, odd: Any) -> None:
    """SQLite keeps in a column whatever it is given."""
    cells: list[list[Any]] = [[cell(1.0)] * 4 + [cell("m1")]]
    cells[0][place] = odd
    with pytest.raises(MistypedError, match="'model'" if place else "'heat' of view 'step'"):
        PLAN.rows(["a"], cells, np.full((1, 3), NOW, np.int64), np.array([NOW]))


def test_a_machine_of_which_nothing_is_known_has_a_place_for_everything() -> None:
    cells, events = PLAN.nothing()
    assert (cells, events) == ([None] * 5, [NEVER] * 3)
    cells[0] = b"x"
    assert PLAN.nothing()[0] == [None] * 5


def test_views_without_numbers_or_without_texts_are_read_too() -> None:
    texts = Plan((ServedView(name="t", features={"model": "string"}, time_to_live=None),))
    numbers = Plan((ServedView(name="n", features={"heat": "float32"}, time_to_live=None),))
    store = Memory({"a": ({"model": "é", "heat": 2.0}, {"t": NOW, "n": NOW})})
    assert found(store, "a", "b", plan=texts).columns["model"].tolist() == ["é", None]
    assert found(store, "a", plan=numbers).columns["heat"].tolist() == [2]
    assert len(found(store, plan=numbers)) == 0
