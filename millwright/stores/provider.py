"""A Feast provider that refuses windows which would harm the online store, and writes fast.

In `feature_store.yaml`:

    provider: millwright.stores.provider.GuardedProvider

It stands behind `feast materialize` and `feast materialize-incremental` typed by hand, too: one
row from the future freezes a machine's features until that moment has come, and the end of a
window in the future makes later incremental runs begin there.

A plain view goes to an online store of ours in columns, and is looked for there afterwards. What
Feast has to compute first, or writes elsewhere, goes its own way.
"""

from datetime import UTC, datetime
from typing import Any

import click
from feast import FeatureView, RepoConfig
from feast.infra.passthrough_provider import PassthroughProvider
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import _get_column_names

from millwright.errors import InputError
from millwright.stores.online_load import load
from millwright.stores.online_rows import OrderedOnlineStore

COMPUTED = ("aggregations", "feature_transformation", "filter")  # that a view may ask for


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
        registry: BaseRegistry,
        project: str,
        *others: Any,
        **more: Any,
    ) -> None:
        """Write the newest rows of a window to the online store.

        Raises:
            MillwrightError: the online store does not answer, or a row is not there afterwards.
            RefusedWindowError: the window ends before it starts, or in the future. Feast then
                records nothing and gives the view the state back that it had.
        """
        check_window(feature_view.name, start_date, end_date, datetime.now(UTC))
        if not self._is_plain(feature_view):
            super().materialize_single_feature_view(
                config, feature_view, start_date, end_date, registry, project, *others, **more
            )
            return
        entities = [registry.get_entity(name, project) for name in feature_view.entities]
        keys, features, event, created = _get_column_names(feature_view, entities)
        rows = self.offline_store.pull_latest_from_table_or_query(
            config=config,
            data_source=feature_view.batch_source,
            join_key_columns=keys,
            feature_name_columns=features,
            timestamp_field=event,
            created_timestamp_column=created,
            start_date=start_date,
            end_date=end_date,
        ).to_arrow()
        load(config, self.online_store, [(feature_view, rows)])

    def _is_plain(self, view: FeatureView) -> bool:
        """Whether a view is only read and written, by Feast's own engine, to a store of ours."""
        return (
            type(view) is FeatureView
            and isinstance(self.online_store, OrderedOnlineStore)
            and self.repo_config.batch_engine_config == "local"
            and view.batch_source is not None
            and view.stream_source is None
            and view.online
            and not view.offline
            and not view.enable_validation
            and not view.source_views
            and not any(getattr(view, name, None) for name in COMPUTED)
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
