"""Which shard owns a name. A wrong or dead shard is an error, never a fallback."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from strongroom.resource_names import AliasName, KeyName
from strongroom_server.domain.keys import Key, KeyStorage
from strongroom_server.errors import KeyNotFoundError, ShardUnavailableError, WrongRegionError
from strongroom_server.ports import AuditTrail, HsmToken, KeyStore

__all__ = ["Shard", "Topology"]


@dataclass(frozen=True, slots=True)
class Shard:
    """One region: its HSM token, its metadata store, its audit trail.

    `mutations` makes the changes of one server process linear: it is held from the check
    of a request id to the commit. `storage` is where the material of new keys is kept
    when their maker does not say.
    """

    region: str
    token: HsmToken
    store: KeyStore
    trail: AuditTrail
    storage: KeyStorage = KeyStorage.RESIDENT
    mutations: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def find(self, name: KeyName | AliasName) -> Key:
        """Return the key behind a name of this shard.

        Raises:
            KeyNotFoundError: There is none.
            ShardUnavailableError: The store cannot tell.
        """
        if isinstance(name, AliasName):
            alias = await self.store.find_alias(name)
            if alias is None:
                raise KeyNotFoundError(str(name))
            key = await self.find_id(alias.key_id)
            if key is None:
                # Aliases never dangle: a key that the metadata names is not "not found".
                raise ShardUnavailableError(self.region, "the metadata store is damaged")
            return key
        key = await self.find_id(name.key_id)
        if key is None:
            raise KeyNotFoundError(str(name))
        return key

    async def find_id(self, key_id: uuid.UUID) -> Key | None:
        """Return the key with this id, from memory without a wait when it is there.

        Raises:
            ShardUnavailableError: The store cannot tell.
        """
        return self.store.cached_key(key_id) or await self.store.find_key(key_id)


class Topology:
    """The shards that this server hosts."""

    def __init__(self, shards: Iterable[Shard]) -> None:
        """Take the shards; regions are unique (the configuration checks it)."""
        self._shards = {shard.region: shard for shard in shards}

    @property
    def regions(self) -> tuple[str, ...]:
        """The hosted regions."""
        return tuple(self._shards)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The hosted shards."""
        return tuple(self._shards.values())

    def shard(self, region: str) -> Shard:
        """Return the shard of `region`.

        Raises:
            WrongRegionError: It is not hosted here; the error says which are.
        """
        shard = self._shards.get(region)
        if shard is None:
            raise WrongRegionError(region, self.regions)
        return shard

    def home_of(self, region: str) -> Shard:
        """Return the shard that records what concerns `region`: the first when none is hosted."""
        return self._shards.get(region) or self.shards[0]

    async def owner_of(self, key_id: uuid.UUID) -> tuple[Shard, Key]:
        """Return the hosted shard that has a key with this id: for blobs without a name.

        Raises:
            KeyNotFoundError: No hosted shard has it.
            ShardUnavailableError: A shard that might have it cannot tell.
        """
        for shard in self._shards.values():
            key = shard.store.cached_key(key_id)
            if key is not None:
                return shard, key
        for shard in self._shards.values():
            key = await shard.store.find_key(key_id)
            if key is not None:
                return shard, key
        raise KeyNotFoundError
