"""A Feast provider that refuses windows which would harm the online store.

In `feature_store.yaml`:

    provider: millwright.stores.provider.GuardedProvider

It stands behind `feast materialize` and `feast materialize-incremental` typed by hand, too: one
row from the future freezes a machine's features until that moment has come, and the end of a
window in the future makes later incremental runs begin there.
"""

from datetime import UTC, datetime
from typing import Any

import click
from feast import FeatureView, RepoConfig
from feast.infra.passthrough_provider import PassthroughProvider

from millwright.errors import InputError


class RefusedWindowError(InputError, click.ClickException):
    """A window of time that is not materialized; Feast's command shows it as one line."""


class GuardedProvider(PassthroughProvider):  # type: ignore[misc]
    """Feast's own provider behind a guard."""

    def materialize_single_feature_view(
        self,
        config: RepoConfig,
        feature_view: FeatureView,
        start_date: datetime,
        end_date: datetime,
        *others: Any,
        **more: Any,
    ) -> None:
        """Write the newest rows of a window to the online store.

        Raises:
            RefusedWindowError: the window ends before it starts, or in the future. Feast then
                records nothing and gives the view the state back that it had.
        """
        check_window(feature_view.name, start_date, end_date, datetime.now(UTC))
        super().materialize_single_feature_view(
            config, feature_view, start_date, end_date, *others, **more
        )


def check_window(view: str, start: datetime, end: datetime, now: datetime) -> None:
    """Refuse a window that ends before its start or after `now`; without a zone, times are UTC.

    Raises:
        RefusedWindowError: it does.
    """
    start, end = in_utc(start), in_utc(end)
    if end > now:
        raise RefusedWindowError(
            f"view '{view}' is not materialized up to {_written(end)}: that is in the future, and "
            "rows from there would freeze its machines; nothing was changed. Type: "
            f"feast materialize-incremental {_written(now)}"
        )
    if start > end:
        raise RefusedWindowError(
            f"view '{view}' is not materialized from {_written(start)} to {_written(end)}: the end "
            "is before the start; nothing was changed. Name the earlier time first, or type: "
            f"feast materialize-incremental {_written(now)}"
        )


def in_utc(time: datetime) -> datetime:
    """`time` in UTC; without a zone it is so already."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _written(time: datetime) -> str:
    """As it is typed for Feast's command, which takes times without a zone as UTC."""
    return time.replace(tzinfo=None).isoformat(timespec="seconds")
