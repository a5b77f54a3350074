"""The services over ports in memory: two regions, three principals."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from dataclasses import dataclass, replace

from tests.support.memory_ports import MemoryClock, MemoryStore, MemoryToken, MemoryTrail
from tests.support.virtual_clock import VirtualClock

from strongroom_server.domain.keys import Key, KeySpec, KeyStorage, KeyUsage
from strongroom_server.domain.limits import LimitName, Limits
from strongroom_server.mutations import AuditDraft
from strongroom_server.services.asymmetric import AsymmetricService
from strongroom_server.services.authorization import Authorization
from strongroom_server.services.caller import Caller
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.crypto import CryptoService
from strongroom_server.services.data_key_pairs import DataKeyPairService
from strongroom_server.services.key_access import KeyAccess
from strongroom_server.services.key_management import KeyManagement
from strongroom_server.services.lifecycle import LifecycleService, NewKey
from strongroom_server.services.managed_keys import ManagedKeys
from strongroom_server.services.pair_maker import PairMaker
from strongroom_server.services.quotas import Quotas
from strongroom_server.services.records import Recorder
from strongroom_server.services.refusals import Refusals
from strongroom_server.services.root_book import RootBook
from strongroom_server.services.use_counters import UseCounters
from strongroom_server.shards.topology import Shard, Topology

ADMIN = "spiffe://example.org/admin"
ORDERS = "spiffe://example.org/orders"
STRANGER = "spiffe://example.org/stranger"
PEER = "ipv4:127.0.0.1:40000"

# The stranger may see the key and nothing else.
VISIBLE_TO_ALL = """
@id("owners")
permit (principal == Principal::"spiffe://example.org/orders", action, resource);
@id("visible")
permit (principal, action == Action::"GetKey", resource);
"""


@dataclass
class Region:
    """One shard's ports."""

    token: MemoryToken
    store: MemoryStore
    trail: MemoryTrail


class MemoryService:
    """Everything behind the RPC floor, with its ports at hand."""

    def __init__(
        self,
        *regions: str,
        storage: KeyStorage = KeyStorage.RESIDENT,
        limits: Limits | None = None,
        clock: MemoryClock | VirtualClock | None = None,
    ) -> None:
        self.clock = clock or MemoryClock()
        self.regions: dict[str, Region] = {}
        self.rotation_due: list[Key] = []
        shards = []
        for name in regions or ("eu-1", "us-1"):
            store = MemoryStore(name)
            region = Region(MemoryToken(name), store, MemoryTrail(name, store))
            self.regions[name] = region
            shards.append(Shard(name, region.token, region.store, region.trail, storage))
        self.topology = Topology(shards)
        ids = itertools.count(1)
        self.outcomes: list[tuple[str, str, str]] = []
        self.recorder = Recorder(
            clock=self.clock,
            new_record_id=lambda: uuid.UUID(int=next(ids)),
            on_outcome=lambda *outcome: self.outcomes.append(outcome),
        )
        self.over_quota: list[LimitName] = []
        self.quotas = Quotas(
            limits or Limits({}), clock=self.clock, on_refusal=self.over_quota.append
        )
        self.refusals = Refusals(topology=self.topology, recorder=self.recorder, clock=self.clock)
        self.decisions: list[bool] = []
        self.authorization = Authorization(
            administrators=frozenset({ADMIN}),
            key_creators=frozenset({ORDERS}),
            on_decision=self.decisions.append,
        )
        keys = ManagedKeys(
            topology=self.topology, authorization=self.authorization, recorder=self.recorder
        )
        self.management = KeyManagement.of(keys, self.clock, minimum_deletion_days=7)
        self.aliases = self.management.aliases
        self.imports = self.management.imports
        self.lifecycle = LifecycleService(
            keys=keys,
            roots=RootBook(recorder=self.recorder, clock=self.clock),
            clock=self.clock,
            new_key_id=uuid.uuid4,
        )
        access = KeyAccess(self.authorization, self.quotas)
        uses = UseCounters(on_rotation_due=lambda _, key: self.rotation_due.append(key))
        topology, recorder = self.topology, self.recorder
        self.crypto = CryptoService(topology=topology, access=access, uses=uses, recorder=recorder)
        self.asymmetric = AsymmetricService(topology=topology, access=access, recorder=recorder)
        self.pairs = DataKeyPairService(
            topology=topology,
            access=access,
            uses=uses,
            recorder=recorder,
            maker=PairMaker(self.clock),
        )

    @property
    def eu(self) -> Region:
        """The first region."""
        return next(iter(self.regions.values()))

    async def create_key(
        self,
        policy: str = "",
        region: str = "eu-1",
        storage: KeyStorage | None = None,
        *,
        spec: KeySpec = KeySpec.AES_256,
        usage: KeyUsage = KeyUsage.ENCRYPT_DECRYPT,
    ) -> Key:
        """Make a key as ORDERS."""
        new = NewKey(region, "", spec, usage, policy, storage)
        key, _ = await self.lifecycle.create_key(caller(), new, ChangeRequest())
        return key

    def records(self, region: str = "eu-1") -> list[AuditDraft]:
        """Return the durable records of a region."""
        return self.regions[region].trail.records

    def reserved(self) -> dict[str, int]:
        """Return how many uses are reserved in each region."""
        return {name: sum(r.store.reserved.values()) for name, r in self.regions.items()}


def caller(principal: str = ORDERS, request_id: str = "call-1") -> Caller:
    """Return a caller with five seconds."""
    now = asyncio.get_running_loop().time()
    return Caller(principal, PEER, request_id, deadline=now + 5, hsm_deadline=now + 4.5)


def fields(record: AuditDraft) -> dict[str, object]:
    """Return what a record says, without the fields that differ in every record."""
    anonymous = replace(record, record_id=uuid.UUID(int=0), time=record.time)
    said = {
        name: getattr(anonymous, name)
        for name in AuditDraft.__slots__
        if name not in {"record_id", "time", "peer"}
    }
    return {name: value for name, value in said.items() if value not in (None, {}, False)}
