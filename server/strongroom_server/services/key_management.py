"""The services that manage keys that are there, together: what KeyService is given of them."""

from __future__ import annotations

from dataclasses import dataclass

from strongroom_server.ports import Clock
from strongroom_server.services.aliases import AliasService
from strongroom_server.services.key_deletion import KeyDeletion
from strongroom_server.services.key_details import KeyDetails
from strongroom_server.services.managed_keys import ManagedKeys

__all__ = ["KeyManagement"]


@dataclass(frozen=True, slots=True)
class KeyManagement:
    """Descriptions and tags, deletion, aliases."""

    details: KeyDetails
    deletion: KeyDeletion
    aliases: AliasService

    @classmethod
    def of(cls, keys: ManagedKeys, clock: Clock, *, minimum_deletion_days: int) -> KeyManagement:
        """Make them over the same keys."""
        return cls(
            KeyDetails(keys=keys, clock=clock),
            KeyDeletion(keys=keys, clock=clock, minimum_days=minimum_deletion_days),
            AliasService(keys=keys, clock=clock),
        )
