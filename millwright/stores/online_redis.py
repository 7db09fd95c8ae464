"""Feast's Redis online store, whose rows only ever become newer, and which never hangs.

In `feature_store.yaml`:

    online_store:
      type: millwright.stores.online_redis.OrderedRedisOnlineStore
      connection_string: redis://:PASSWORD@HOST:6379/0   # rediss:// for TLS; or as Feast writes it

Feast's own store refuses a correction, which has the event time of the row that it corrects, and
two writers at once may lose the newer row. This one decides within Redis: of two rows of one key
that with the later event time stays, and of two with one event time that with the later created
time. The layout is Feast's: a hash for each key, with the field `_ts:VIEW` and one for each
feature. The field `_cts:VIEW` is ours, and holds both times in microseconds since 1970; a row
without it was written by Feast's own store and counts as older than everything.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal

from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key, _redis_key_prefix
from feast.infra.online_stores.redis import (
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    _versioned_fv_name,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]
from pydantic import Field, StrictStr
from redis import exceptions
from redis.connection import parse_url

from millwright.errors import ConfigurationError, MillwrightError
from millwright.stores.parquet_files import microseconds

ROWS_AT_ONCE = 500
SOCKET_SECONDS = 2
NEVER = -(2**53)  # the created time of a row without one; Lua counts exactly no further
# Unless the connection string says otherwise: answer or fail at once, for somebody is waiting.
PATIENCE = {
    "socket_timeout": SOCKET_SECONDS,
    "socket_connect_timeout": SOCKET_SECONDS,
    "retry": None,
}

# ARGV: our field, Feast's time field, event, created, seconds to live or 0, then fields and values.
WRITE_UNLESS_OLDER = """
local old = redis.call('HMGET', KEYS[1], ARGV[1], ARGV[2])
if old[1] and old[2] then
    local event, created = string.match(old[1], '^(%-?%d+) (%-?%d+)$')
    event, created = tonumber(event), tonumber(created)
    local newer_event, newer_created = tonumber(ARGV[3]), tonumber(ARGV[4])
    if event > newer_event or (event == newer_event and created > newer_created) then
        return 0
    end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3] .. ' ' .. ARGV[4], unpack(ARGV, 6))
if ARGV[5] ~= '0' then
    redis.call('EXPIRE', KEYS[1], ARGV[5])
end
return 1
"""

OnlineRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
Found = tuple[datetime | None, dict[str, Value] | None]


class OrderedRedisOnlineStoreConfig(RedisOnlineStoreConfig):  # type: ignore[misc]
    """The section `online_store` of `feature_store.yaml`."""

    type: StrictStr = "millwright.stores.online_redis.OrderedRedisOnlineStore"
    connection_string: StrictStr = Field(default="localhost:6379", repr=False)
    skip_dedup: Literal[False] = False  # the check that it would skip is what this store is for


class OrderedRedisOnlineStore(RedisOnlineStore):  # type: ignore[misc]
    """Feast's Redis store with order-safe, idempotent writes and short time-outs.

    Every method raises a MillwrightError if Redis does not answer.
    """

    @staticmethod
    def _parse_connection_string(
        connection_string: str,
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        nodes, options = _nodes_and_options(connection_string)
        return nodes, PATIENCE | options

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[OnlineRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write the rows that are not older than what is there, each of them whole or not at all.

        Two writers at once lose nothing: Redis runs one script at a time.
        """
        view = _versioned_fv_name(table, config)
        with _answering(config):
            client = self._get_client(config.online_store)
            for start in range(0, len(data), ROWS_AT_ONCE):
                rows = data[start : start + ROWS_AT_ONCE]
                with client.pipeline(transaction=False) as pipeline:
                    for row in rows:
                        key = _redis_key(
                            config.project, row[0], config.entity_key_serialization_version
                        )
                        # With its text and not its hash, which a cluster's pipeline does not take
                        # and a restarted server does not know.
                        pipeline.eval(WRITE_UNLESS_OLDER, 1, key, *_arguments(config, view, row))
                    pipeline.execute()
                if progress:
                    progress(len(rows))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[OnlineRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """The same, beside the event loop."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def _read_hash_fields(self, config: RepoConfig, commands: Any) -> Any:
        with _answering(config):
            return super()._read_hash_fields(config, commands)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Found]:
        """The same as `online_read`, beside the event loop."""
        return await asyncio.to_thread(
            self.online_read, config, table, entity_keys, requested_features
        )

    async def _read_features_per_fv_async(self, *what: Any) -> None:
        await asyncio.to_thread(self._read_features_per_fv, *what)

    def _get_features_for_entity(
        self, values: Sequence[Any], feature_view: str, requested_features: list[str]
    ) -> Found:
        """A key without a row is not found, where Feast's own store says that all is null."""
        if dict(zip(requested_features, values, strict=True))[f"_ts:{feature_view}"] is None:
            return None, None
        found: Found = super()._get_features_for_entity(values, feature_view, requested_features)
        return found

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Drop the rows of views that are gone, and of those with other features now.

        What was computed by another definition must not hold back what the new one says.
        """
        with _answering(config):
            super().update(
                config,
                tables_to_delete,
                tables_to_keep,
                entities_to_delete,
                entities_to_keep,
                partial,
            )
            for view in tables_to_keep:
                if isinstance(view, FeatureView):
                    known = self._known_features(config, view)
                    if known - {feature.name for feature in view.features}:
                        self.delete_table(config, view)
                    self._remember_features(config, view)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Remove every field of a view, and the keys that have no others."""
        with _answering(config):
            self._delete_fields(config, table)

    def _delete_fields(self, config: RepoConfig, table: FeatureView) -> None:
        client = self._get_client(config.online_store)
        view = _versioned_fv_name(table, config)
        names = {f.name for f in table.features} | self._known_features(config, table)
        fields = [f"_ts:{view}", f"_cts:{view}", *(_mmh3(f"{view}:{name}") for name in names)]
        pattern = _redis_key_prefix(table.join_keys) + b"*" + config.project.encode()
        keys = list(client.scan_iter(pattern, count=1000))
        for start in range(0, len(keys), ROWS_AT_ONCE):
            with client.pipeline(transaction=False) as pipeline:
                for key in keys[start : start + ROWS_AT_ONCE]:
                    pipeline.hdel(key, *fields)
                pipeline.execute()
        client.hdel(_definitions(config), view)

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Remove every key of the project."""
        with _answering(config):
            super().teardown(config, tables, entities)
            self._get_client(config.online_store).delete(_definitions(config))

    def _known_features(self, config: RepoConfig, view: FeatureView) -> set[str]:
        """The features that the view had when it was last published: a hash does not tell them."""
        client = self._get_client(config.online_store)
        known = client.hget(_definitions(config), _versioned_fv_name(view, config))
        return set(json.loads(known)) if known else set()

    def _remember_features(self, config: RepoConfig, view: FeatureView) -> None:
        names = json.dumps(sorted(feature.name for feature in view.features))
        client = self._get_client(config.online_store)
        client.hset(_definitions(config), _versioned_fv_name(view, config), names)


def _definitions(config: RepoConfig) -> str:
    return f"millwright:features:{config.project}"


def _arguments(config: RepoConfig, view: str, row: OnlineRow) -> list[Any]:
    """What the script needs to write a row."""
    _, values, event, created = row
    since_1970 = microseconds(event)
    seconds, rest = divmod(since_1970, 1_000_000)
    time_field = f"_ts:{view}"
    fields: list[Any] = [
        time_field,
        Timestamp(seconds=seconds, nanos=rest * 1000).SerializeToString(),
    ]
    for name, value in values.items():
        fields += [_mmh3(f"{view}:{name}"), value.SerializeToString()]
    return [
        f"_cts:{view}",
        time_field,
        since_1970,
        NEVER if created is None else microseconds(created),
        config.online_store.key_ttl_seconds or 0,
        *fields,
    ]


def _nodes_and_options(connection: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Hosts, and what is said about all of them, of a URL or of Feast's `host:port,name=value`."""
    if not connection.startswith(("redis://", "rediss://")):
        nodes, options = RedisOnlineStore._parse_connection_string(connection)
        return nodes, options
    try:
        options = dict(parse_url(connection))  # type: ignore[no-untyped-call]
    except ValueError:  # its text would tell the password
        raise ConfigurationError(
            "'online_store.connection_string' is no URL of Redis; write it like "
            "redis://:PASSWORD@HOST:6379/0, with %XX for signs in the password"
        ) from None
    if options.pop("connection_class", None):
        options["ssl"] = True
    node = {"host": options.pop("host", "localhost"), "port": options.pop("port", 6379)}
    return [node], options


@contextmanager
def _answering(config: RepoConfig) -> Iterator[None]:
    """Name the server in whatever goes wrong with it, and no password."""
    try:
        yield
    except exceptions.RedisError as err:
        nodes, options = _nodes_and_options(config.online_store.connection_string)
        server = ", ".join(f"{node['host']}:{node['port']}" for node in nodes)
        secret = str(options.get("password") or "")
        raise MillwrightError(f"Redis at {server} {_reason(err, secret)}") from err


def _reason(err: exceptions.RedisError, secret: str) -> str:
    if isinstance(err, exceptions.AuthenticationError):
        return "refuses the user or the password; check MILLWRIGHT_REDIS_URL"
    if isinstance(err, exceptions.TimeoutError):
        return "does not answer in time; see whether it is overloaded or frozen"
    if isinstance(err, exceptions.ConnectionError):
        return (
            "cannot be reached; start what runs here with python -m millwright services up, or "
            "correct MILLWRIGHT_REDIS_URL"
        )
    text = str(err).replace(secret, "***") if secret else str(err)
    return f"refuses: {text}"
