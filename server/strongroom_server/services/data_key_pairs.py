"""Key pairs for use outside, whose private key a symmetric key of the HSM wraps."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from strongroom import encryption_context as contexts
from strongroom.receipts import Receipt
from strongroom_server.domain import ciphertext
from strongroom_server.domain.policy import Action
from strongroom_server.services.caller import Caller
from strongroom_server.services.key_access import KeyAccess, KeyOrAlias, Use
from strongroom_server.services.pair_maker import DataKeyPairSpec, PairMaker
from strongroom_server.services.records import Recorder
from strongroom_server.services.use_counters import UseCounters
from strongroom_server.shards.topology import Topology

__all__ = ["DataKeyPair", "DataKeyPairService"]


@dataclass(frozen=True, slots=True, repr=False)
class DataKeyPair:
    """A pair: DER SubjectPublicKeyInfo, PKCS#8 (empty when not asked for), and that wrapped.

    All three are empty with validate_only.
    """

    key_version: str
    public_key: bytes
    private_key: bytes
    blob: bytes
    receipts: tuple[Receipt, ...] = ()


class DataKeyPairService:
    """GenerateDataKeyPair, with and without plaintext. Plain types in and out."""

    def __init__(
        self,
        *,
        topology: Topology,
        access: KeyAccess,
        uses: UseCounters,
        recorder: Recorder,
        maker: PairMaker,
    ) -> None:
        """Take the collaborators; holds no state of its own."""
        self._topology = topology
        self._access = access
        self._uses = uses
        self._recorder = recorder
        self._maker = maker

    async def generate(
        self,
        caller: Caller,
        name: KeyOrAlias,
        spec: DataKeyPairSpec,
        context: Mapping[str, str],
        *,
        with_plaintext: bool,
        validate_only: bool,
    ) -> DataKeyPair:
        """Make a pair and wrap its private key: at most 2.4 KB of PKCS#8, for RSA_4096.

        Raises:
            StrongroomError: As the error table says; recorded.
        """
        action = (
            Action.GENERATE_DATA_KEY_PAIR
            if with_plaintext
            else Action.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT
        )
        shard = self._topology.shard(name.region)
        use = Use.of(action, name, context, caller=caller, shard=shard, validate_only=validate_only)
        deadline = caller.hsm_deadline

        async def work() -> DataKeyPair:
            key = await self._access.usable_key(use, name)
            if validate_only:
                return DataKeyPair(str(key.version_name(key.primary_version)), b"", b"", b"")
            random = functools.partial(shard.token.generate_random, deadline=deadline)
            public, private = await self._maker.make(spec, random, deadline=deadline)
            ref = await self._uses.take(shard, key)
            use.trace.key_version = ref.version
            header = ciphertext.header_for(ref)
            sealed = await shard.token.encrypt(
                key.material(ref.version),
                private,
                header + contexts.encode(context),
                deadline=deadline,
            )
            return DataKeyPair(
                str(key.version_name(ref.version)),
                public,
                private if with_plaintext else b"",
                header + sealed,
            )

        made, receipt = await self._recorder.run(shard, caller, use.trace, work)
        return DataKeyPair(
            made.key_version, made.public_key, made.private_key, made.blob, (receipt,)
        )
