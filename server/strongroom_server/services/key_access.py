"""From a name, or a blob, to a key that the caller may use now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from strongroom.resource_names import AliasName, KeyName
from strongroom_server.domain import ciphertext
from strongroom_server.domain.algorithms import is_pair
from strongroom_server.domain.key_uses import check_takes_part
from strongroom_server.domain.keys import Key, KeyState
from strongroom_server.domain.policy import Action
from strongroom_server.domain.states import check_state, check_version_state
from strongroom_server.errors import (
    CiphertextInvalidError,
    KeyNotFoundError,
    WrongKeyError,
)
from strongroom_server.services.authorization import Authorization
from strongroom_server.services.caller import Caller
from strongroom_server.services.quotas import Quotas
from strongroom_server.services.records import Trace
from strongroom_server.shards.topology import Shard

__all__ = ["KeyAccess", "KeyOrAlias", "Use"]

KeyOrAlias = KeyName | AliasName


@dataclass(frozen=True, slots=True)
class Use:
    """One intended use of a key, and the trace that its record is made from."""

    caller: Caller
    shard: Shard
    action: Action
    context: Mapping[str, str]
    trace: Trace

    @classmethod
    def of(
        cls,
        action: Action,
        name: KeyOrAlias | None,
        context: Mapping[str, str],
        *,
        caller: Caller,
        shard: Shard,
        validate_only: bool,
    ) -> Use:
        """Start a use; its record is named like its action."""
        asked = None if name is None else str(name)
        trace = Trace(action.value, asked, None, context, None, validate_only)
        trace.is_use = True
        return cls(caller, shard, action, context, trace)


class KeyAccess:
    """Resolves, authorises and checks the state, in this order.

    The order keeps it from telling a caller anything about keys that it may not see.
    """

    def __init__(self, authorization: Authorization, quotas: Quotas) -> None:
        """Take the authorisation and the quotas; holds no state of its own."""
        self._authorization = authorization
        self._quotas = quotas

    async def usable_key(self, use: Use, name: KeyOrAlias) -> Key:
        """Return the key behind `name`.

        Raises:
            KeyNotFoundError: There is none, or the caller may not see it.
            PolicyDeniedError: The caller may see it, not use it so.
            KeyDisabledError, KeyStateInvalidError: Its state does not allow this.
            KeyUsageMismatchError: This use is not for such keys.
        """
        return await self._admit(use, await use.shard.find(name), str(name))

    async def key_of_blob(
        self, use: Use, name: KeyOrAlias | None, blob: bytes
    ) -> tuple[Key, ciphertext.CiphertextBlob]:
        """Return the key that made `blob`, and the blob taken apart.

        Args:
            name: The key that must have made it; None takes the blob's word.

        Raises:
            CiphertextInvalidError: The blob is malformed or names an unknown version.
            WrongKeyError: Another key than the one named made it.
            StrongroomError: As in `usable_key`.
        """
        if name is not None:
            key = await self.usable_key(use, name)
            return key, self.blob_of(use, key, blob)
        parsed = ciphertext.parse(blob)
        found = await use.shard.find_id(parsed.ref.key_id)
        if found is None:
            raise KeyNotFoundError
        key = await self._admit(use, found, "")
        return key, self.blob_of(use, key, blob)

    def blob_of(self, use: Use, key: Key, blob: bytes) -> ciphertext.CiphertextBlob:
        """Return a blob that `key` made, taken apart.

        Raises:
            CiphertextInvalidError: It is malformed, names an unknown version, or names a key
                that makes no blobs.
            WrongKeyError: Another key made it.
            KeyStateInvalidError: The version waits for its destruction, or is destroyed.
        """
        parsed = ciphertext.parse(blob)
        if parsed.ref.key_id != key.key_id:
            raise WrongKeyError
        if is_pair(key.spec):
            raise CiphertextInvalidError
        version = key.version(parsed.ref.version)
        if version is None:
            raise CiphertextInvalidError
        use.trace.key_version = version.number
        check_version_state(use.action, key, version)
        return parsed

    async def _admit(self, use: Use, key: Key, asked_name: str) -> Key:
        use.trace.key = str(key.name)
        use.trace.mode = key.audit_mode
        use.trace.policy = await self._authorization.authorize(
            use.caller.principal,
            use.action,
            key,
            use.context,
            asked_name=asked_name,
            permissions=use.shard.store.permissions,
        )
        if key.state is not KeyState.ENABLED:  # asked first: this is the hot path
            check_state(use.action, key)
        check_takes_part(use.action, key)
        # Last: to somebody who may not use the key, a quota would tell that it is there.
        self._quotas.take_use(use.caller.principal, key.key_id)
        return key
