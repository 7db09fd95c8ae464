"""What lets a process of ours begin sooner: entry points ask for it, and no library does."""

import gc
import sys
from functools import wraps
from typing import Any

import typeguard


def import_quickly() -> None:
    """Have imports not stop for garbage, for the rest of the process.

    Libraries make a million objects while they are imported, and next to none of it is garbage.
    """
    gc.set_threshold(200_000, 20, 20)


def keep_what_is_there() -> None:
    """Have no search for garbage look again at what there is by now, which is there to stay.

    All libraries together take a tenth of a second to look through, and nothing else runs then.
    """
    gc.collect()
    gc.freeze()


def leave_feast_unchecked() -> None:
    """Leave Feast's classes as they are written; call it before Feast is imported.

    It has typeguard parse and compile each of their methods anew, which is three of the four
    seconds that importing Feast takes. Who writes definitions has the checks: they stay in `feast
    apply` and `feast plan` as typed by hand, and in `run.py --check`.
    """
    checked = typeguard.typechecked

    @wraps(checked)
    def checked_unless_feasts(target: Any = None, **options: Any) -> Any:
        of_feast = (getattr(target, "__module__", None) or "").startswith("feast.")
        return target if of_feast else checked(target, **options)

    typeguard.typechecked = checked_unless_feasts


def import_xgboost_alone() -> None:
    """Import XGBoost without scikit-learn, which is most of the time that it takes.

    It would offer its models as scikit-learn's, too; who has a release predict needs none of that.
    Scikit-learn can be imported afterwards, by whoever uses it.
    """
    if "sklearn" in sys.modules:
        return
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # an import finds it not installed
    try:
        import xgboost  # noqa: F401
    finally:
        del sys.modules["sklearn"]
