"""The services that manage keys that are there, together: what KeyService is given of them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from strongroom_server.ports import Clock
from strongroom_server.services.aliases import AliasService
from strongroom_server.services.explanations import ExplanationService
from strongroom_server.services.grants import GrantService
from strongroom_server.services.key_deletion import KeyDeletion
from strongroom_server.services.key_details import KeyDetails
from strongroom_server.services.key_import import KeyImport
from strongroom_server.services.managed_keys import ManagedKeys
from strongroom_server.services.material_deletion import MaterialDeletion
from strongroom_server.services.policies import PolicyService
from strongroom_server.services.root_book import RootBook

__all__ = ["KeyManagement"]


@dataclass(frozen=True, slots=True)
class KeyManagement:
    """Descriptions and tags, deletion, aliases, policies, grants, imports."""

    details: KeyDetails
    deletion: KeyDeletion
    aliases: AliasService
    policies: PolicyService
    grants: GrantService
    explanations: ExplanationService
    imports: KeyImport

    @classmethod
    def of(
        cls,
        keys: ManagedKeys,
        clock: Clock,
        *,
        minimum_deletion_days: int,
        new_grant_id: Callable[[], uuid.UUID] = uuid.uuid4,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> KeyManagement:
        """Make them over the same keys; `new_grant_id` makes random UUIDs (version 4)."""
        return cls(
            KeyDetails(keys=keys, clock=clock),
            KeyDeletion(keys=keys, clock=clock, minimum_days=minimum_deletion_days),
            AliasService(keys=keys, clock=clock),
            PolicyService(keys=keys, clock=clock),
            GrantService(keys=keys, clock=clock, new_grant_id=new_grant_id),
            ExplanationService(keys=keys),
            KeyImport(
                keys=keys,
                roots=RootBook(recorder=keys.recorder, clock=clock),
                deletion=MaterialDeletion(recorder=keys.recorder, clock=clock),
                clock=clock,
                new_transfer_id=uuid.uuid4,
                random_bytes=random_bytes,
            ),
        )
