"""A key whose material is brought, over ports in memory, and a customer who has material."""

from __future__ import annotations

from datetime import datetime

from tests.support.memory_service import MemoryService, caller
from tests.support.wrap_material import wrap_material

from strongroom_server.domain.imports import WrappingAlgorithm
from strongroom_server.domain.keys import Key, KeyOrigin, KeySpec, KeyState, KeyStorage, KeyUsage
from strongroom_server.errors import StrongroomError
from strongroom_server.services.answers import ImportParameters
from strongroom_server.services.changes import ChangeRequest
from strongroom_server.services.import_upkeep import ImportUpkeep
from strongroom_server.services.key_import import NewMaterial
from strongroom_server.services.lifecycle import NewKey
from strongroom_server.services.material_deletion import MaterialDeletion

__all__ = ["KNOWN", "OTHER", "Heard", "Importing", "importing_key"]

KNOWN = bytes(range(32))
OTHER = bytes(32)


class Heard:
    """Remembers what the upkeep told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.problems: list[StrongroomError] = []

    def expired(self, name: str) -> None:
        """Remember a name."""
        self.names.append(name)

    def waits(self, name: str, problem: StrongroomError) -> None:
        """Remember a problem."""
        assert name
        self.problems.append(problem)

    def failed(self, fault: Exception) -> None:
        """Fail the test."""
        raise fault


class Importing:
    """A service, a key of origin EXTERNAL, and a customer who has material."""

    def __init__(self, service: MemoryService, key: Key) -> None:
        self.service = service
        self.name = key.name
        self.heard = Heard()
        shard = service.topology.shard("eu-1")
        self.upkeep = ImportUpkeep(
            shard,
            MaterialDeletion(recorder=service.recorder, clock=service.clock),
            recorder=service.recorder,
            clock=service.clock,
            observer=self.heard,
        )

    @property
    def key(self) -> Key:
        """The key as the store has it."""
        return self.service.eu.store.keys[self.name.key_id]

    def state(self) -> KeyState:
        """Its state."""
        return self.key.state

    async def parameters(self, algorithm: WrappingAlgorithm | None = None) -> ImportParameters:
        """Ask for parameters."""
        made, _ = await self.service.imports.get_parameters(
            caller(), self.name, algorithm, ChangeRequest()
        )
        return made

    async def send(
        self,
        made: ImportParameters,
        material: bytes = KNOWN,
        *,
        expire_time: datetime | None = None,
        request: ChangeRequest | None = None,
    ) -> Key:
        """Wrap and send material."""
        assert made.algorithm is not None
        encrypted = wrap_material(made.public_key, made.algorithm, material)
        return await self.send_wrapped(
            made.token, encrypted, expire_time=expire_time, request=request
        )

    async def send_wrapped(
        self,
        token: bytes,
        encrypted: bytes,
        *,
        expire_time: datetime | None = None,
        request: ChangeRequest | None = None,
    ) -> Key:
        """Send what was wrapped already."""
        new = NewMaterial(token, encrypted, expire_time)
        key, _ = await self.service.imports.import_material(
            caller(), self.name, new, request or ChangeRequest()
        )
        return key

    async def delete(self, request: ChangeRequest | None = None) -> Key:
        """Destroy the material."""
        key, _ = await self.service.imports.delete_material(
            caller(), self.name, request or ChangeRequest()
        )
        return key

    async def encrypt(self, plaintext: bytes = b"x") -> bytes:
        """Encrypt with the key."""
        made = await self.service.crypto.encrypt(
            caller(), self.name, plaintext, {}, validate_only=False
        )
        return made.blob

    async def decrypt(self, blob: bytes) -> bytes:
        """Decrypt with the key."""
        made = await self.service.crypto.decrypt(caller(), self.name, blob, {}, validate_only=False)
        return made.plaintext


async def importing_key(
    storage: KeyStorage | None = None,
    *,
    spec: KeySpec = KeySpec.AES_256,
    usage: KeyUsage = KeyUsage.ENCRYPT_DECRYPT,
    policy: str = "",
) -> Importing:
    """Make a service and such a key."""
    service = MemoryService()
    new = NewKey("eu-1", "", spec, usage, policy, storage, origin=KeyOrigin.EXTERNAL)
    key, _ = await service.lifecycle.create_key(caller(), new, ChangeRequest())
    return Importing(service, key)
