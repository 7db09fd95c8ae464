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
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key_prefix
from feast.infra.online_stores.redis import (
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    RedisType,
    _versioned_fv_name,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from pydantic import Field, StrictStr

from millwright.stores import online_values
from millwright.stores.online_packing import packed, packed_row
from millwright.stores.online_redis_server import PATIENCE, answering, nodes_and_options
from millwright.stores.online_rows import FeastRow, OnlineRows, OrderedOnlineStore

ROWS_AT_ONCE = 100  # that one script writes, in some milliseconds: nobody else is served meanwhile

# KEYS: those of the rows. ARGV, as MessagePack: names of our field, Feast's time field and the
# features; seconds to live or 0; and for each key what goes into the fields.
WRITE_UNLESS_OLDER = """
local fields, life = cmsgpack.unpack(ARGV[1]), ARGV[2]
local call, unpacked = redis.call, cmsgpack.unpack
local ours, feasts, last = fields[1], fields[2], 2 * #fields
local hash = {}
for i, field in ipairs(fields) do
    hash[2 * i - 1] = field
end
for n, key in ipairs(KEYS) do
    local row = unpacked(ARGV[n + 2])
    local old = call('HGET', key, ours)
    local stays = false
    if old and old ~= row[1] and call('HEXISTS', key, feasts) == 1 then
        local event, created = string.match(old, '^(%-?%d+) (%-?%d+)$')
        local newer_event, newer_created = string.match(row[1], '^(%-?%d+) (%-?%d+)$')
        event, newer_event = tonumber(event), tonumber(newer_event)
        stays = event > newer_event or
            (event == newer_event and tonumber(created) > tonumber(newer_created))
    end
    if not stays then
        for i, value in ipairs(row) do
            hash[2 * i] = value
        end
        for first = 1, last, 4000 do  -- Lua hands on some thousand values at most
            call('HSET', key, unpack(hash, first, math.min(first + 3999, last)))
        end
        if life ~= '0' then
            call('EXPIRE', key, life)
        end
    end
end
"""
READ_FIELD = """
local found = {}
for n, key in ipairs(KEYS) do
    found[n] = redis.call('HGET', key, ARGV[1])
end
return found
"""

Found = tuple[datetime | None, dict[str, Value] | None]


class OrderedRedisOnlineStoreConfig(RedisOnlineStoreConfig):  # type: ignore[misc]
    """The section `online_store` of `feature_store.yaml`."""

    type: StrictStr = "millwright.stores.online_redis.OrderedRedisOnlineStore"
    connection_string: StrictStr = Field(default="localhost:6379", repr=False)
    skip_dedup: Literal[False] = False  # the check that it would skip is what this store is for


class OrderedRedisOnlineStore(OrderedOnlineStore, RedisOnlineStore):  # type: ignore[misc]
    """Feast's Redis store with order-safe, idempotent writes and short time-outs.

    Every method raises a MillwrightError if Redis does not answer.
    """

    writers = 2  # one batch is on its way while Redis writes another

    @staticmethod
    def _parse_connection_string(
        connection_string: str,
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        nodes, options = nodes_and_options(connection_string)
        return nodes, PATIENCE | options

    def write_rows(self, config: RepoConfig, view: FeatureView, rows: OnlineRows) -> None:
        """Write the rows that are not older than what is there, each of them whole or not at all.

        Two writers at once lose nothing: Redis runs one script at a time.
        """
        name = _versioned_fv_name(view, config)
        features = [_mmh3(f"{name}:{feature}") for feature in rows.values]
        fields = packed_row([f"_cts:{name}".encode(), f"_ts:{name}".encode(), *features])
        life = config.online_store.key_ttl_seconds or 0
        keys, contents = _redis_keys(config, rows.keys), _contents(rows)
        with answering(config.online_store.connection_string):
            client = self._get_client(config.online_store)
            at_once = self._keys_at_once(config)
            with client.pipeline(transaction=False) as pipeline:
                for start in range(0, len(keys), at_once):
                    some = keys[start : start + at_once]
                    these = contents[start : start + at_once]
                    # With its text and not its hash, which a cluster's pipeline does not take and
                    # a restarted server does not know.
                    pipeline.eval(WRITE_UNLESS_OLDER, len(some), *some, fields, life, *these)
                pipeline.execute()

    def event_times(
        self, config: RepoConfig, view: FeatureView, keys: "pa.Array[Any]"
    ) -> list[int | None]:
        """When the row of each of `keys` was true, in microseconds since 1970, or None."""
        field = f"_cts:{_versioned_fv_name(view, config)}"
        names = _redis_keys(config, keys)
        with answering(config.online_store.connection_string):
            client = self._get_client(config.online_store)
            at_once = self._keys_at_once(config)
            with client.pipeline(transaction=False) as pipeline:
                for start in range(0, len(names), at_once):
                    some = names[start : start + at_once]
                    pipeline.eval(READ_FIELD, len(some), *some, field)
                found = [times for some in pipeline.execute() for times in some]
        # Machines that are read together share their times: each is understood once.
        events = {times: int(times.split()[0]) for times in {*found} - {None}}
        return [events.get(times) for times in found]

    @staticmethod
    def _keys_at_once(config: RepoConfig) -> int:
        """How many keys a script has: in a cluster they may be on several servers."""
        one = config.online_store.redis_type == RedisType.redis_cluster
        return 1 if one else ROWS_AT_ONCE

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[FeastRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """The same, beside the event loop."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def _read_hash_fields(self, config: RepoConfig, commands: Any) -> Any:
        with answering(config.online_store.connection_string):
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
        with answering(config.online_store.connection_string):
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
        with answering(config.online_store.connection_string):
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
        with answering(config.online_store.connection_string):
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


def _redis_keys(config: RepoConfig, keys: "pa.Array[Any]") -> list[bytes]:
    project = config.project.encode()
    return [key + project for key in keys.to_pylist()]


def _contents(rows: OnlineRows) -> list[bytes]:
    """What the script puts into the fields of each row: both times, Feast's time, the values."""
    moments = [pa.array(times).cast(pa.string()) for times in (rows.events, rows.created)]
    both = pc.binary_join_element_wise(*moments, " ").cast(pa.binary())
    found: list[Any] = packed(
        [both, online_values.timestamps(rows.events), *rows.values.values()]
    ).to_pylist()
    return found
